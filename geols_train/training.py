"""Training: the loop. Steps, validation after every epoch, checkpoints, and going on where a run stopped.

Everything random is drawn from (seed, step) or (seed, epoch), so a run that stops anywhere and is resumed ends with
the same weights, bit for bit, where the arithmetic of the device is reproducible (a CPU's is).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from tqdm import tqdm

from geols_precompute.errors import GeolsError
from geols_train.augment import augment, vary_intensities
from geols_train.batches import Batch, StoredBatch
from geols_train.checkpoint import NetworkSpec, load_checkpoint, save_checkpoint
from geols_train.config import TrainConfig
from geols_train.data import CaseReader, EpochBatches, WindowDataset, make_loader
from geols_train.distributed import World
from geols_train.hardware import autocast, default_workers, explain_out_of_memory, uses_bf16
from geols_train.interrupt import Stopped, StopRequest, stop_between_steps
from geols_train.objective import Objective
from geols_train.prefetch import on_device
from geols_train.profile import Profile
from geols_train.splits import Split
from geols_train.stores import require_same_stores
from geols_train.testing import Evaluator
from geols_train.tracking import Tracker

BEST, LAST = "best.pt", "last.pt"
_AUGMENTATION, _INTENSITIES = 2, 3


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
        world: the processes that train together, and the device of this one.

    Attributes:
        network: what is trained, validated and saved; `forward` runs it in training, compiled or shared if asked.
    """

    def __init__(
        self, config: TrainConfig, reader: CaseReader, split: Split, spec: NetworkSpec, folder: Path, random_seed: int,
        world: World,
    ) -> None:  # fmt: skip
        self.config, self.reader, self.spec, self.folder, self.seed = config, reader, spec, folder, random_seed
        self.world, self.device = world, world.device
        self.validation_cases = split.validation
        torch.manual_seed(random_seed)
        self.memory_format = torch.channels_last_3d if config.channels_last else torch.contiguous_format
        self.network = spec.network().to(self.device)
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # a graph for each shape: a transposed batch has another one, and a last batch may be smaller
        forward: Any = torch.compile(self.network, dynamic=False) if config.compile else self.network
        self.forward = world.shared(forward)
        labels = reader.stores.labels
        self.objective = Objective(
            config=config, n_classes=len(spec.classes), channels=labels.channels if labels else (), world=world
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        place: Literal["centre", "random"] = "random" if config.window else "centre"
        whole_on_device = config.cache == "device"
        if config.cache != "none":
            with explain_out_of_memory("--cache to ram or none"):
                training_reader = reader.cached(split.train, self.device if whole_on_device else None)
        else:
            training_reader = reader
        workers = default_workers(self.device) if config.workers is None else config.workers
        self.batches = EpochBatches(split.train, config.batch_size, random_seed, world)
        self.loader = make_loader(
            WindowDataset(training_reader, spec.window, place=place), self.batches,
            # what lies on the device is cut there, by this process
            workers=0 if whole_on_device else workers, pin=self.device.type == "cuda" and not whole_on_device,
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
        tracker = Tracker(
            self.folder, tensorboard=self.config.tensorboard, after=self.step, enabled=self.world.leads
        )  # fmt: skip
        with tracker, stop_between_steps() as stop, explain_out_of_memory(memory_options):
            try:
                while self.progress.epoch < self.config.epochs:
                    started = time.monotonic()
                    self.train_epoch(tracker, stop)
                    self.validate(tracker, stop, started)
                self.stop_together(stop)
            except Stopped:
                self.save(LAST)
                self.world.wait()  # torchrun ends all once one is gone
                raise
        if self.profile.enabled:
            click.echo(self.profile.table())
        self.world.wait()  # until the best network is saved
        return self.progress

    def train_epoch(self, tracker: Tracker, stop: StopRequest) -> None:
        """Go through the batches of the epoch that are not done yet."""
        self.network.train()
        self.batches.epoch, self.batches.skip = self.progress.epoch, len(self.progress.losses)
        bar = tqdm(
            on_device(self.loader, self.device), desc=f"epoch {self.progress.epoch + 1}", total=len(self.batches),
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
                self.stop_together(stop)
            self.profile.start()

    def group_of(self, batch: int) -> tuple[int, int]:
        """Return the place of a batch of the epoch among those of one optimiser step, and how many those are."""
        place = batch % self.config.accumulate
        return place, min(self.config.accumulate, len(self.batches) - (batch - place))

    def train_step(self, stored: StoredBatch) -> tuple[float, float]:
        """Go through one batch, and step the optimiser if it completes a group; return loss and learning rate."""
        place, size = self.group_of(len(self.progress.losses))
        batch = self.prepare(stored)
        self.profile.lap("prepare")
        with autocast(self.device, self.config.precision):
            logits = self.forward(batch.image)
        self.profile.lap("network")
        loss = self.objective(logits, batch)
        self.profile.lap("loss")
        if place == 0:
            self.optimizer.zero_grad(set_to_none=True)
        # the value is asked for last: on an accelerator that waits until the queue is empty
        (loss / size).backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(value := self.world.mean(loss.item())):
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

    def prepare(self, stored: StoredBatch) -> Batch:
        """Return a batch as the network takes it: z-scores, augmented, in the memory format of the network."""
        config = self.config
        mine = self.world.deal(range(config.batch_size))[: len(stored.cases)]
        rngs = [np.random.default_rng((self.seed, _INTENSITIES, self.step, case)) for case in mine]
        batch = stored.normalised(partial(vary_intensities, rngs=rngs) if config.intensity else None)
        rng = np.random.default_rng((self.seed, _AUGMENTATION, self.step))
        image, *labels = augment(batch.spatial(), config.augment, rng, flip_axes=config.flip_axes)
        labels = [volume.contiguous() for volume in labels]  # the loss goes through them flat
        batch = batch.with_spatial([image.contiguous(memory_format=self.memory_format), *labels])
        if not self.batches.has_share(len(self.progress.losses)):
            batch = replace(batch, counted=torch.zeros_like(batch.counted))
        return batch

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        if self.config.schedule == "constant":
            return self.config.lr
        return float(self.config.lr * (1 - self.step / (self.config.epochs * len(self.batches))) ** 0.9)

    def validate(self, tracker: Tracker, stop: StopRequest, started: float) -> None:
        """Measure the validation cases, keep the network if it is the best so far, and close the epoch."""
        scores, mine = [], self.world.deal(self.validation_cases)
        # as many looks for everyone, also for those with fewer cases
        for turn in range(math.ceil(len(self.validation_cases) / self.world.size)):
            scores += [self.evaluator.dice(self.network, case) for case in mine[turn : turn + 1]]
            self.stop_together(stop)
        scores = self.world.collect(scores)
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

    def stop_together(self, stop: StopRequest) -> None:
        """Stop here if a signal came to any of the processes.

        Raises:
            Stopped: one did.
        """
        # a signal that comes while the others are asked must wait for the next look: nothing is written to `stop` here
        if self.world.any(stop.requested):
            raise Stopped

    def save(self, name: str) -> None:
        """Write a checkpoint: best.pt to predict with, last.pt to go on from."""
        if not self.world.leads:
            return
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
        _, content = load_checkpoint(self.folder / LAST)
        require_same_stores(self.folder / LAST, content["stores"], self.reader.store_digests())
        self.network.load_state_dict(content["model"])
        # from the CPU, where Adam's counts of steps stay: on a GPU each would be asked for in every step
        self.optimizer.load_state_dict(content["optimizer"])
        self.progress = Progress(**content["progress"])
