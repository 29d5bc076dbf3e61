"""Trainers whose epochs the benchmarks time in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from geols_precompute import Recipe
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import plan_run
from geols_precompute.signals import StopRequest
from geols_train.batches import Batch
from geols_train.config import TrainConfig
from geols_train.device import World, choose_device
from geols_train.log import RunLog
from geols_train.run import make_reader, make_spec, with_size
from geols_train.splits import make_split
from geols_train.stores import open_stores
from geols_train.targets import METHODS
from geols_train.training import Trainer


class CrossEntropyTrainer(Trainer):
    """Trains with torch's own cross-entropy on class indices, and reads no maps."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.objective: Any = self.cross_entropy

    def cross_entropy(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy over the voxels that count."""
        return functional.cross_entropy(logits.float(), batch.label.long(), ignore_index=255)


def make_trainer(config: TrainConfig, folder: Path) -> Trainer:
    """Return a trainer over the stores of the configuration; method ce is torch's cross-entropy."""
    stores = open_stores(config.data, config.labels, maps_needed=METHODS[config.method].needs_maps)
    split = make_split(config.split, stores.cases, seed=config.split_seed)
    config = with_size(config, stores, split.train)
    folder.mkdir(exist_ok=True)
    kind = CrossEntropyTrainer if config.method == "ce" else Trainer
    world = World(device=choose_device(config.device))
    return kind(config, make_reader(config, stores, split), split, make_spec(config, stores), folder, 0, world)


def compute_stores(data: Path, out: Path, most: int | None = None) -> None:
    """Compute the stores of a data set, or of its first cases, in this process."""
    plan = plan_run(data, recipe=Recipe(), out=out)
    create_stores(plan)
    execute(replace(plan, tasks=plan.tasks[:most]), InProcess())


def losses_in_turn(config: TrainConfig, folder: Path, repeats: int) -> str:
    """Time epochs with GeoLS and with torch's cross-entropy; return the medians and their ratio as a line."""
    trainers = {
        "GeoLS": make_trainer(config, folder / f"geols-{config.cache}"),
        "cross-entropy": make_trainer(replace(config, method="ce"), folder / f"ce-{config.cache}"),
    }
    seconds = epochs_in_turn({name: partial(timed_epoch, trainer) for name, trainer in trainers.items()}, repeats)
    ratio = statistics.median(np.divide(seconds["GeoLS"], seconds["cross-entropy"]))
    return ", ".join(f"{name} {statistics.median(times):.2f} s" for name, times in seconds.items()) + f": {ratio:.3f}×"


def epochs_in_turn(epochs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of `repeats` epochs of each kind, in turn; one more before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(repeats + 1):
        for name, timed in epochs.items():
            elapsed = timed()
            if number:
                seconds[name].append(elapsed)
    return seconds


def timed_epoch(trainer: Trainer) -> float:
    """Return the seconds of an epoch of training, without validation."""
    with RunLog(trainer.folder, enabled=False) as log:
        begin = time.perf_counter()
        trainer.train_epoch(log, StopRequest())
        elapsed = time.perf_counter() - begin
    trainer.state.losses.clear()
    trainer.state.epoch += 1
    return elapsed
