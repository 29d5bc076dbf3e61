"""Trainers whose epochs the benchmarks time in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from geols_train.batches import Batch
from geols_train.config import TrainConfig
from geols_train.distributed import World
from geols_train.hardware import choose_device
from geols_train.interrupt import StopRequest
from geols_train.run import make_reader, make_spec, with_size
from geols_train.splits import make_split
from geols_train.stores import open_stores
from geols_train.tracking import Tracker
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
    stores = open_stores(config.data, config.labels, maps_needed=config.method == "geols")
    split = make_split(config.split, stores.cases, seed=config.split_seed)
    config = with_size(config, stores, split.train)
    folder.mkdir(exist_ok=True)
    kind = CrossEntropyTrainer if config.method == "ce" else Trainer
    world = World(device=choose_device(config.device))
    return kind(config, make_reader(config, stores, split), split, make_spec(config, stores), folder, 0, world)


def epochs_in_turn(trainers: Mapping[str, Trainer], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of `repeats` training epochs of each, in turn; one more before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(repeats + 1):
        for name, trainer in trainers.items():
            elapsed = timed_epoch(trainer)
            if number:
                seconds[name].append(elapsed)
    return seconds


def timed_epoch(trainer: Trainer) -> float:
    """Return the seconds of an epoch of training, without validation."""
    with Tracker(trainer.folder, enabled=False) as tracker:
        begin = time.perf_counter()
        trainer.train_epoch(tracker, StopRequest())
        elapsed = time.perf_counter() - begin
    trainer.progress.losses.clear()
    trainer.progress.epoch += 1
    return elapsed
