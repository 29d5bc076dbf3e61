"""Training: the loop. Batches, validation after every epoch, checkpoints, and going on where a run stopped.

Everything random is drawn from (seed, batch) or (seed, epoch), so a run that stops anywhere and is resumed ends with
the same weights, bit for bit, where the arithmetic of the device is reproducible (a CPU's is).
"""

from __future__ import annotations

import itertools
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from geols_precompute.errors import StoreError
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.signals import Stopped, StopRequest, stop_between_steps
from geols_train.augment import augment, vary_intensities
from geols_train.batches import Batch, EpochBatches, StoredBatch, WindowDataset, make_loader, on_device
from geols_train.checkpoint import NetworkSpec, TrainingError, load_checkpoint, save_checkpoint
from geols_train.config import TrainConfig
from geols_train.data import CaseReader, StoredWindow
from geols_train.device import (
    ONE_PROCESS,
    World,
    arithmetic,
    autocast,
    default_workers,
    explain_lost_workers,
    explain_out_of_memory,
    set_arithmetic,
)
from geols_train.evaluate import Evaluator, structure_indices
from geols_train.folder import BEST, LAST, writing_run
from geols_train.log import RunClock, RunLog, StepTimer
from geols_train.loss import Objective
from geols_train.metrics import LEAST_TOLERANCE_MM
from geols_train.splits import Split
from geols_train.stores import require_same_stores

#: Streams of random numbers that must not repeat each other; `batches` has two more.
_AUGMENTATION, _INTENSITIES = 2, 3


@dataclass(kw_only=True)
class TrainState:
    """How far a run is: `losses` are those of the epoch under way, one a batch.

    `best_score` is what the best epoch is best in (more is better), `best_dice` its mean Dice of the classes.
    """

    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    best_dice: float = -1.0
    best_score: float = -1.0
    best_epoch: int = 0

    def fits(self, batches: int, epochs: int) -> bool:
        """Whether a training of so many epochs, of so many batches each, can be here."""
        counts = all(isinstance(n, int) for n in (self.epoch, self.best_epoch))
        return (
            counts
            and 0 <= self.best_epoch <= self.epoch <= epochs
            and all(isinstance(number, float) for number in (self.best_dice, self.best_score))
            and isinstance(self.losses, list)
            and all(isinstance(loss, float) for loss in self.losses)
            and len(self.losses) <= batches
        )


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the validation cases: the Dice of every class and region, and the loss if that is asked for."""

    structures: dict[str, float]
    loss: float | None


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
        network: what is trained, validated and saved; `forward` runs it in training, compiled or parallel if asked.
        state: how far the run is; with the weights and the optimiser's numbers, what a checkpoint holds.
    """

    def __init__(
        self,
        config: TrainConfig,
        reader: CaseReader,
        split: Split,
        spec: NetworkSpec,
        folder: Path,
        random_seed: int,
        world: World,
    ) -> None:
        self.config, self.reader, self.spec, self.folder, self.seed = config, reader, spec, folder, random_seed
        self.world, self.device = world, world.device
        self.validation_cases = split.validation
        torch.manual_seed(random_seed)
        set_arithmetic(self.device, config.precision)
        self.memory_format = torch.channels_last_3d if config.channels_last else torch.contiguous_format
        self.network = spec.network().to(self.device)
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        # a graph for each shape: a transposed batch has another one, and a last batch may be smaller
        forward: Any = torch.compile(self.network, dynamic=False) if config.compile else self.network
        self.forward = world.data_parallel(forward)
        labels = reader.stores.labels
        self.objective = Objective.of(config, labels.channels if labels else (), world)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, eps=config.adam_eps
        )
        self.batches = EpochBatches(split.train, config.batch_size, random_seed, world)
        self.loader = self.make_loader(split.train)
        self.evaluator = Evaluator(
            reader=reader,
            spec=spec,
            extent=config.eval,
            precision=config.precision,
            tolerance_mm=config.surface_tolerance or LEAST_TOLERANCE_MM,
            # what a training step has room for, a prediction has, too; a CPU gains nothing
            windows=1 if self.device.type == "cpu" else len(world.shard(range(config.batch_size))),
        )
        self.state = TrainState()
        self.timer = StepTimer(self.device, enabled=config.profile)
        self.clock = self.make_clock()

    def make_loader(self, cases: tuple[str, ...]) -> DataLoader[StoredWindow]:
        """Return what loads the batches, out of the stores or of the cache that the configuration asks for."""
        config, reader = self.config, self.reader
        on_device = config.cache == "device"
        if config.cache != "none":
            with explain_out_of_memory("--cache to ram or none"):
                reader = reader.cached(cases, self.device if on_device else None)
        place: Literal["centre", "random"] = "random" if config.window else "centre"
        workers = default_workers(self.device) if config.workers is None else config.workers
        return make_loader(
            WindowDataset(reader, self.spec.window, place=place),
            self.batches,
            # what lies on the device is cut there, by this process
            workers=0 if on_device else workers,
            pin=self.device.type == "cuda" and not on_device,
        )

    @property
    def batches_done(self) -> int:
        """Batches that this training has gone through."""
        return self.state.epoch * len(self.batches) + len(self.state.losses)

    def make_clock(self, later: int = 0) -> RunClock:
        """Return a clock that begins now, for this training and `later` ones."""
        return RunClock(done=self.batches_done, total=self.config.epochs * (1 + later) * len(self.batches))

    @property
    def precision(self) -> str:
        """The arithmetic of the network: bf16, tf32 or float32."""
        return arithmetic(self.device, self.config.precision)

    def train(self, *, later: int = 0) -> TrainState:
        """Train to the last epoch.

        Args:
            later: trainings as long as this one that follow it, which count in the time that is left.

        Raises:
            TrainingError: a loss or a gradient is not finite.
            OutOfMemoryError: a step does not fit the memory.
            LostWorkerError: a process that loads batches is gone.
            OutputError: the run folder cannot be written, or the disk is full; what is saved stays.
            Stopped: a signal came; last.pt is saved and `restore` goes on from there.
        """
        memory_options = (
            f"--batch-size (now {self.config.batch_size}; --accumulate makes up for it), --crop or --window (now "
            f"{' '.join(map(str, self.spec.window))}), or --features"
        )
        self.clock = self.make_clock(later)
        log = RunLog(
            self.folder,
            tensorboard=self.config.tensorboard,
            after=self.batches_done,
            enabled=self.world.is_main,
        )
        with (
            log,
            stop_between_steps() as stop,
            explain_out_of_memory(memory_options),
            explain_lost_workers(self.loader.num_workers),
        ):
            try:
                while self.state.epoch < self.config.epochs:
                    started = time.monotonic()
                    self.train_epoch(log, stop)
                    self.end_epoch(log, self.validate(stop), time.monotonic() - started)
                self.stop_if_requested(stop)
            except Stopped:
                self.save(LAST)
                self.world.barrier()  # torchrun ends all once one is gone
                raise
        if self.timer.enabled:
            click.echo(self.timer.table())
        self.world.barrier()  # until the best network is saved
        return self.state

    def train_epoch(self, log: RunLog, stop: StopRequest) -> None:
        """Go through the batches of the epoch that are not done yet."""
        self.network.train()
        self.batches.epoch, self.batches.skip = self.state.epoch, len(self.state.losses)
        bar = tqdm(
            on_device(self.loader, self.device),
            desc=f"epoch {self.state.epoch + 1}",
            total=len(self.batches),
            initial=self.batches.skip,
            unit="batch",
            leave=False,
            disable=None,
            dynamic_ncols=True,
        )
        self.timer.start()
        for stored in bar:
            self.timer.lap("data")
            loss, lr = self.train_step(stored)
            self.state.losses.append(loss)
            log.write({"loss": loss, "lr": lr}, self.batches_done)
            bar.set_postfix_str(f"loss {loss:.4f}, run {self.clock.left(self.batches_done)}", refresh=False)
            place, size = self.place_in_group(len(self.state.losses) - 1)
            if place == size - 1:
                # gradients that wait for the rest of their group are in no checkpoint
                self.stop_if_requested(stop)
            self.timer.start()

    def place_in_group(self, batch: int) -> tuple[int, int]:
        """Return the place of a batch of the epoch among those of one optimiser step, and how many those are."""
        place = batch % self.config.accumulate
        return place, min(self.config.accumulate, len(self.batches) - (batch - place))

    def train_step(self, stored: StoredBatch) -> tuple[float, float]:
        """Go through one batch, and step the optimiser if it completes a group; return loss and learning rate."""
        place, size = self.place_in_group(len(self.state.losses))
        batch = self.prepare(stored)
        self.timer.lap("prepare")
        if place == 0:
            self.optimizer.zero_grad(set_to_none=True)
        # gradients are averaged over processes once a group, with its last batch
        with nullcontext() if place == size - 1 else self.world.gradients_stay(self.forward):
            with autocast(self.device, self.config.precision):
                logits = self.forward(batch.image)
            self.timer.lap("network")
            loss = self.objective(logits, batch)
            self.timer.lap("loss")
            (loss / size).backward()  # type: ignore[no-untyped-call]
        # both are asked for at once, and last: on an accelerator that waits until the queue is empty
        value, norm = torch.stack([loss.detach().float(), self.gradient_norm()]).tolist()
        value = self.world.mean(value)
        self.require_finite("loss", value, batch)
        self.require_finite("norm of the gradients", norm, batch)
        self.timer.lap("backward")
        lr = self.learning_rate()
        if place == size - 1:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.timer.lap("optimiser")
        self.timer.steps += 1
        return value, lr

    def gradient_norm(self) -> torch.Tensor:
        """Return the norm of all gradients together, a float32 scalar; NaN or infinite if one of them is."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients).float()

    def require_finite(self, what: str, value: float, batch: Batch) -> None:
        """Refuse to go on with a number that is NaN or infinite, before the optimiser makes weights of it.

        Raises:
            TrainingError: it is.
        """
        if math.isfinite(value):
            return
        advice = (
            "Train again with --precision float32"
            if self.precision != "float32"
            else "With --precision float32, as here, that is the data or the learning rate: look at them, or lower --lr"
        )
        raise TrainingError(
            f"the {what} is {value} in batch {self.batches_done + 1} (epoch {self.state.epoch + 1}); its cases are "
            f"{', '.join(batch.cases)}. {advice}; what is saved is from before"
        )

    def prepare(self, stored: StoredBatch) -> Batch:
        """Return a batch as the network takes it: z-scores, augmented, in the memory format of the network."""
        config = self.config
        cases = self.world.shard(range(config.batch_size))[: len(stored.cases)]
        rngs = [np.random.default_rng((self.seed, _INTENSITIES, self.batches_done, case)) for case in cases]
        batch = stored.normalised(partial(vary_intensities, rngs=rngs) if config.intensity else None)
        rng = np.random.default_rng((self.seed, _AUGMENTATION, self.batches_done))
        image, *labels = augment(batch.spatial(), config.augment, rng, flip_axes=config.flip_axes)
        labels = [volume.contiguous() for volume in labels]  # the loss goes through them flat
        batch = batch.with_spatial([image.contiguous(memory_format=self.memory_format), *labels])
        if not self.batches.has_cases(len(self.state.losses)):
            batch = replace(batch, label=torch.full_like(batch.label, IGNORE_INDEX))
        return batch

    def learning_rate(self) -> float:
        """Return the learning rate of the next batch; poly is lr · (1 - batches done / batches)^0.9."""
        if self.config.schedule == "constant":
            return self.config.lr
        return float(self.config.lr * (1 - self.batches_done / (self.config.epochs * len(self.batches))) ** 0.9)

    def validate(self, stop: StopRequest) -> Validation:
        """Return the means over the validation cases of all processes."""
        by_loss = self.config.checkpoint == "loss"
        # of this process alone: what the others look at meanwhile are other cases
        objective = replace(self.objective, world=ONE_PROCESS) if by_loss else None
        found = self.evaluator.validate(self.network, self.world.shard(self.validation_cases), objective)
        scores: list[list[float]] = []
        # every process looks at the request as often, also one with fewer cases
        for _ in range(math.ceil(len(self.validation_cases) / self.world.size)):
            scores += itertools.islice(found, 1)
            self.stop_if_requested(stop)
        means = np.mean(self.world.gather(scores), axis=0).tolist()
        structures = dict(zip(structure_indices(self.spec), means, strict=False))
        return Validation(structures=structures, loss=means[-1] if by_loss else None)

    def end_epoch(self, log: RunLog, found: Validation, seconds: float) -> None:
        """Write what an epoch has brought, begin the next, and keep the network if it is the best so far."""
        left = self.clock.left((self.state.epoch + 1) * len(self.batches))
        epoch, loss = self.state.epoch + 1, float(np.mean(self.state.losses))
        by_class = {name: found.structures[name] for name in self.spec.classes.foreground}
        regions = {name: found.structures[name] for name in self.spec.regions}
        mean_dice = float(np.mean(list(by_class.values())))
        if found.loss is not None:
            score, beside = -found.loss, {"validation_loss": found.loss}
        elif self.config.checkpoint == "regions":
            score = float(np.mean(list(regions.values())))
            beside = {"validation_dice_regions": score}
        else:
            score, beside = mean_dice, {}
        metrics = {
            "epoch": epoch,
            "loss": loss,
            "validation_dice": mean_dice,
            **{f"validation_dice_{name}": value for name, value in found.structures.items()},
            **beside,
            "seconds": round(seconds, 3),
        }
        log.write(metrics, self.batches_done)
        click.echo(
            f"epoch {epoch} of {self.config.epochs}: loss {loss:.4f}, validation Dice {mean_dice:.4f} "
            f"({', '.join(f'{name} {value:.3f}' for name, value in by_class.items())}), {seconds:.1f} s"
            f"{f', {left}' if left else ''}"
        )
        is_best = not self.state.best_epoch or score > self.state.best_score
        self.state = TrainState(
            epoch=epoch,
            best_score=score if is_best else self.state.best_score,
            best_dice=mean_dice if is_best else self.state.best_dice,
            best_epoch=epoch if is_best else self.state.best_epoch,
        )
        if is_best:
            self.save(BEST)
        self.save(LAST)

    def stop_if_requested(self, stop: StopRequest) -> None:
        """Stop all processes here if a signal came to any of them.

        Raises:
            Stopped: one did.
        """
        # a signal that comes while the others are asked must wait for the next look: nothing is written to `stop` here
        if self.world.any(stop.requested):
            raise Stopped

    def save(self, name: str) -> None:
        """Write a checkpoint: best.pt to predict with, last.pt to go on from.

        Raises:
            TrainingError: a number is not finite.
            OutputError: it cannot be written; the one that was there before stays.
        """
        if not self.world.is_main:
            return
        content: dict[str, Any] = {"model": self.network.state_dict(), "progress": asdict(self.state)}
        if name == LAST:
            content |= {"optimizer": self.optimizer.state_dict(), "stores": self.reader.store_digests()}
        with writing_run(self.folder / name):
            save_checkpoint(self.folder / name, self.spec, content)

    def restore(self) -> None:
        """Go on from last.pt, if there is one; a run that was killed in its first epoch may have none.

        Raises:
            StoreError: a checkpoint is missing, damaged or not of this run, or the stores have changed since.
        """
        last = self.folder / LAST
        if not last.exists():
            if self._best_epoch() > 1:
                raise StoreError(
                    f"{last} is missing, but not {BEST}, so more was trained; restore it, or train again with another "
                    "--out"
                )
            return
        spec, content = load_checkpoint(last)
        try:
            require_same_stores(last, content["stores"], self.reader.store_digests())
            # of before there was a choice of what is best
            state = TrainState(**{"best_score": content["progress"]["best_dice"], **content["progress"]})
            if spec != self.spec or not state.fits(len(self.batches), self.config.epochs):
                raise StoreError(
                    f"{last} is not of this run; restore it from a copy, or train again with another --out"
                )
            self.network.load_state_dict(content["model"])
            # from the CPU, where Adam's counts of steps stay: on a GPU each would be asked for in every step
            self.optimizer.load_state_dict(content["optimizer"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StoreError(f"{last} does not fit this run; restore it from a copy, or train again") from error
        self.state = state
        if (found := self._best_epoch()) < state.best_epoch:
            what = "is missing" if not found else f"is of epoch {found}"
            raise StoreError(
                f"{self.folder / BEST} {what}, but epoch {state.best_epoch} was the best so far; restore it from a "
                "copy, or train again with another --out"
            )

    def _best_epoch(self) -> int:
        """Return of which epoch best.pt is; 0 if there is none."""
        if not (path := self.folder / BEST).exists():
            return 0
        _, content = load_checkpoint(path)
        try:
            return int(content["progress"]["best_epoch"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} is not of this run; restore it from a copy, or train again") from error
