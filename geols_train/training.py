"""Training: the loop. Steps, validation after every epoch, checkpoints, and going on where a run stopped.

Everything random is drawn from (seed, step) or (seed, epoch), so a run that stops anywhere and is resumed ends with
the same weights, bit for bit, where the arithmetic of the device is reproducible (a CPU's is).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from tqdm import tqdm

from geols_precompute.errors import GeolsError, StoreError
from geols_precompute.preparation import IGNORE_INDEX
from geols_train.augment import augment
from geols_train.batches import Batch, StoredBatch
from geols_train.checkpoint import NetworkSpec, load_checkpoint, save_checkpoint
from geols_train.config import TrainConfig
from geols_train.data import CaseReader, EpochBatches, WindowDataset, make_loader
from geols_train.fused import Mix, mixed_cross_entropy
from geols_train.hardware import autocast, choose_device, explain_out_of_memory, uses_bf16
from geols_train.interrupt import Stopped, StopRequest, stop_between_steps
from geols_train.losses import dice_semimetric_loss, focal_loss, soft_cross_entropy
from geols_train.profile import Profile
from geols_train.splits import Split
from geols_train.targets import soft_label
from geols_train.testing import Evaluator
from geols_train.tracking import Tracker

BEST, LAST = "best.pt", "last.pt"
_AUGMENTATION = 2


class TrainingError(GeolsError, RuntimeError):
    """Training cannot go on; the message names the cases of the batch."""


@dataclass(kw_only=True)
class Progress:
    """How far a run is: `losses` are those of the epoch under way, one a batch."""

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    best_dice: float = -1.0
    best_epoch: int = 0


class Trainer:
    """One training of one network.

    Args:
        config: of the run.
        reader: of every case in the split.
        split: who trains and who validates.
        spec: of the network.
        folder: receives log.jsonl, best.pt and last.pt.
        random_seed: of this training.
    """

    def __init__(
        self, config: TrainConfig, reader: CaseReader, split: Split, spec: NetworkSpec, folder: Path, random_seed: int
    ) -> None:
        self.config, self.reader, self.spec, self.folder, self.seed = config, reader, spec, folder, random_seed
        self.validation_cases = split.validation
        self.device = choose_device(config.device)
        torch.manual_seed(random_seed)
        self.network = spec.network().to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        place: Literal["centre", "random"] = "random" if config.window else "centre"
        on_device = config.cache == "device"
        if config.cache != "none":
            with explain_out_of_memory("--cache to ram or none"):
                training_reader = reader.cached(split.train, self.device if on_device else None)
        else:
            training_reader = reader
        workers = default_workers(self.device) if config.workers is None else config.workers
        self.batches = EpochBatches(split.train, config.batch_size, random_seed)
        self.loader = make_loader(
            WindowDataset(training_reader, spec.window, place=place), self.batches,
            # what lies on the device is cut there, by this process
            workers=0 if on_device else workers, pin=self.device.type == "cuda" and not on_device,
        )  # fmt: skip
        self.evaluator = Evaluator(
            reader=replace(reader, maps_needed=False), spec=spec, extent=config.eval, precision=config.precision
        )
        self.progress = Progress()
        self.profile = Profile(self.device, enabled=config.profile)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.progress.epoch * len(self.batches) + len(self.progress.losses)

    @property
    def precision(self) -> str:
        """The arithmetic of the network: bf16 or float32."""
        return "bf16" if uses_bf16(self.device, self.config.precision) else "float32"

    def train(self) -> Progress:
        """Train to the last epoch.

        Raises:
            TrainingError: a loss is not finite.
            OutOfMemoryError: a step does not fit the memory.
            Stopped: a signal came; last.pt is saved and `restore` goes on from there.
        """
        memory_options = (
            f"--batch-size (now {self.config.batch_size}; --accumulate makes up for it), --crop or --window (now "
            f"{' '.join(map(str, self.spec.window))}), or --features"
        )
        tracker = Tracker(self.folder, tensorboard=self.config.tensorboard, after=self.step)
        with tracker, stop_between_steps() as stop, explain_out_of_memory(memory_options):
            try:
                while self.progress.epoch < self.config.epochs:
                    started = time.monotonic()
                    self.train_epoch(tracker, stop)
                    self.validate(tracker, stop, started)
            except Stopped:
                self.save(LAST)
                raise
        if self.profile.enabled:
            click.echo(self.profile.table())
        return self.progress

    def train_epoch(self, tracker: Tracker, stop: StopRequest) -> None:
        """Go through the batches of the epoch that are not done yet."""
        self.network.train()
        self.batches.epoch, self.batches.skip = self.progress.epoch, len(self.progress.losses)
        bar = tqdm(
            self.loader, desc=f"epoch {self.progress.epoch + 1}", total=len(self.batches),
            initial=self.batches.skip, unit="step", leave=False, disable=None, dynamic_ncols=True,
        )  # fmt: skip
        self.profile.start()
        for batch in bar:
            self.profile.lap("data")
            loss, lr = self.train_step(batch)
            self.progress.losses.append(loss)
            tracker.log({"loss": loss, "lr": lr}, self.step)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            place, size = self.group_of(len(self.progress.losses) - 1)
            if place == size - 1:
                # gradients that wait for the rest of their group are in no checkpoint
                stop.check()
            self.profile.start()

    def group_of(self, batch: int) -> tuple[int, int]:
        """Return the place of a batch of the epoch among those of one optimiser step, and how many those are."""
        place = batch % self.config.accumulate
        return place, min(self.config.accumulate, len(self.batches) - (batch - place))

    def train_step(self, stored: StoredBatch) -> tuple[float, float]:
        """Go through one batch, and step the optimiser if it completes a group; return loss and learning rate."""
        place, size = self.group_of(len(self.progress.losses))
        batch = stored.to(self.device).normalised()
        rng = np.random.default_rng((self.seed, _AUGMENTATION, self.step))
        moved = augment(batch.spatial(), self.config.augment, rng, flip_axes=self.config.flip_axes)
        batch = batch.with_spatial(moved)
        self.profile.lap("prepare")
        with autocast(self.device, self.config.precision):
            logits = self.network(batch.image)
        self.profile.lap("network")
        loss = self.loss(logits, batch)
        self.profile.lap("loss")
        if place == 0:
            self.optimizer.zero_grad(set_to_none=True)
        # the value is asked for last: on an accelerator that waits until the queue is empty
        (loss / size).backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(value := loss.item()):
            raise TrainingError(
                f"the loss is {value} in step {self.step + 1} (epoch {self.progress.epoch + 1}); its cases are "
                f"{', '.join(batch.cases)}. Look at them, or lower --lr; what is saved is from before"
            )
        self.profile.lap("backward")
        lr = self.learning_rate()
        if place == size - 1:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.profile.lap("optimiser")
        self.profile.steps += 1
        return value, lr

    def loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch by the configured method."""
        config, labels = self.config, self.reader.stores.labels
        if config.method in ("ce", "ls", "geols") and not config.dice_weight:
            return mixed_cross_entropy(logits, batch.label, batch.counted, self.mix(batch))
        # the padding is no class: SVLS would smooth it into the voxels beside it
        label_BZYX = torch.where(batch.counted, batch.label, IGNORE_INDEX)
        target = soft_label(
            config.method, label_BZYX, n_classes=len(self.spec.classes), alpha=config.alpha,
            normalize=config.normalize, stored_BKZYX=batch.maps, channels=labels.channels if labels else (),
            present_BC=batch.present,
        )  # fmt: skip
        if config.method == "fl":
            loss = focal_loss(logits, target, batch.counted, gamma=config.focal_gamma)
        else:
            loss = soft_cross_entropy(logits, target, batch.counted)
        if config.dice_weight:
            loss = loss + config.dice_weight * dice_semimetric_loss(logits, target, batch.counted)
        return loss

    def mix(self, batch: Batch) -> Mix:
        """Return how the labels of a batch are softened."""
        config, labels = self.config, self.reader.stores.labels
        if config.method != "geols":
            return Mix(alpha=config.alpha if config.method == "ls" else 0.0)
        assert labels is not None
        return Mix(
            alpha=config.alpha, stored=batch.maps, channels=labels.channels, present=batch.present,
            normalize=config.normalize,
        )  # fmt: skip

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        if self.config.schedule == "constant":
            return self.config.lr
        return float(self.config.lr * (1 - self.step / (self.config.epochs * len(self.batches))) ** 0.9)

    def validate(self, tracker: Tracker, stop: StopRequest, started: float) -> None:
        """Measure the validation cases, keep the network if it is the best so far, and close the epoch."""
        scores = []
        for case in self.validation_cases:
            scores.append(self.evaluator.dice(self.network, case))
            stop.check()
        progress, per_class = self.progress, np.mean(scores, axis=0)
        mean_dice, loss = float(np.mean(per_class)), float(np.mean(progress.losses))
        names = [label.name for label in self.spec.classes[1:]]
        tracker.log(
            {
                "epoch": progress.epoch + 1, "loss": loss, "validation_dice": mean_dice,
                **{f"validation_dice_{name}": float(d) for name, d in zip(names, per_class, strict=True)},
                "seconds": round(time.monotonic() - started, 3),
            }, self.step,
        )  # fmt: skip
        click.echo(
            f"epoch {progress.epoch + 1} of {self.config.epochs}: loss {loss:.4f}, validation Dice {mean_dice:.4f} "
            f"({', '.join(f'{name} {d:.3f}' for name, d in zip(names, per_class, strict=True))}), "
            f"{time.monotonic() - started:.1f} s"
        )
        self.progress = Progress(epoch=progress.epoch + 1, best_dice=progress.best_dice, best_epoch=progress.best_epoch)
        if mean_dice > progress.best_dice:
            self.progress.best_dice, self.progress.best_epoch = mean_dice, progress.epoch + 1
            self.save(BEST)
        self.save(LAST)

    def save(self, name: str) -> None:
        """Write a checkpoint: best.pt to predict with, last.pt to go on from."""
        content: dict[str, Any] = {"model": self.network.state_dict(), "progress": asdict(self.progress)}
        if name == LAST:
            content |= {"optimizer": self.optimizer.state_dict(), "stores": self.reader.store_digests()}
        save_checkpoint(self.folder / name, self.spec, content)

    def restore(self) -> None:
        """Go on from last.pt, if there is one.

        Raises:
            StoreError: it is damaged, or the stores have changed since.
        """
        if not (self.folder / LAST).exists():
            return
        _, content = load_checkpoint(self.folder / LAST, self.device)
        require_same_stores(self.folder / LAST, content["stores"], self.reader.store_digests())
        self.network.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.progress = Progress(**content["progress"])


def require_same_stores(where: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with a run whose stores have changed.

    Raises:
        StoreError: a digest differs; the message names the store.
    """
    for name, digest in now.items():
        if before.get(name) != digest:
            raise StoreError(
                f"{where}: the {name} store has changed since (digest {digest[:12]}, was "
                f"{str(before.get(name))[:12]}); start a new run with another --out"
            )


def default_workers(device: torch.device) -> int:
    """Return how many processes load batches: none for a CPU, which has enough to do, 4 for an accelerator."""
    return 0 if device.type == "cpu" else 4
