"""Batches: windows as the stores hold them, stacked, moved to a device in few bytes, and normalised there.

Shapes: B cases, M modalities, then z,y,x.
"""

from __future__ import annotations

import multiprocessing.queues
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from geols_precompute.signals import ignore_stop_signals, kill_workers_at_exit
from geols_train.config import Size
from geols_train.data import CaseReader, StoredWindow, centre_box, random_box, stacked_z_scores, z_scores
from geols_train.device import ONE_PROCESS, World

#: A case id, and the key of the random place of its window.
Index = tuple[str, tuple[int, ...]]
#: Streams of random numbers that must not repeat each other.
_ORDER, _PLACE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows on the network's device as tensors [batch,...].

    Attributes:
        cases: ids.
        image: z-scores [b,m,z,y,x] float32.
        label: class indices [b,z,y,x] uint8, 255 where a voxel does not count: ignored, or padding.
        maps: as stored, [b,k,z,y,x] uint8, or the soft label [b,c,z,y,x] float32 of a method that is made on load;
            None if the method needs neither.
        present: [b,c] bool, whether a case's whole volume has the class.
    """

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor

    def spatial(self) -> list[torch.Tensor]:
        """Return the tensors with the axes z,y,x: image, label and, if there are any, maps."""
        return [t for t in (self.image, self.label, self.maps) if t is not None]

    def with_spatial(self, tensors: Sequence[torch.Tensor]) -> Self:
        """Return the batch with these tensors, in the order of `spatial`."""
        return replace(self, image=tensors[0], label=tensors[1], maps=tensors[2] if self.maps is not None else None)


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """Stored windows as tensors [batch,...], which travel to the device in the few bytes of the store.

    Beside those of `StoredWindow`: mean and std [batch,modality] float32 of the z-scores, and empty [batch,modality]
    int32, the stored number of intensity 0 outside a stripped skull (None if no skull is stripped).
    """

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor
    inside: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    empty: torch.Tensor | None

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device; a copy from pinned memory goes on while the device works."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory; the DataLoader calls this."""
        return self._each(torch.Tensor.pin_memory)

    def share_memory(self) -> Self:
        """Return the batch in memory that processes share."""
        return self._each(lambda tensor: tensor.share_memory_())  # type: ignore[no-untyped-call]

    def tensors(self) -> list[torch.Tensor]:
        """Return every tensor of the batch."""
        values = (getattr(self, f.name) for f in fields(self) if f.name != "cases")
        return [tensor for tensor in values if tensor is not None]

    def normalised(self, vary: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Batch:
        """Return the batch with z-scores, which `vary` may change; padding and outside a stripped skull they are 0."""
        image_BMZYX = z_scores(self.image, self.mean, self.std, self.empty, vary)
        image_BMZYX.masked_fill_(~self.inside_BZYX()[:, None], 0)
        return Batch(cases=self.cases, image=image_BMZYX, label=self.label, maps=self.maps, present=self.present)

    def inside_BZYX(self) -> torch.Tensor:
        """Which voxels of the windows are voxels of the volumes."""
        along = []
        for axis, size in enumerate(self.label.shape[1:]):
            place = torch.arange(size, device=self.label.device)
            start, stop = self.inside[:, axis, 0, None], self.inside[:, axis, 1, None]
            along.append((place >= start) & (place < stop))
        z, y, x = along
        return z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cases"}
        changed: dict[str, Any] = {name: t if t is None else function(t) for name, t in tensors.items()}
        return replace(self, **changed)


def collate(windows: Sequence[StoredWindow]) -> StoredBatch:
    """Stack windows of one size to a batch, where their voxels are, or in shared memory if a worker process does it.

    Raises:
        RuntimeError: there is no room in the shared memory.
    """
    batch = _stacked(windows)
    # multiprocessing would do it later, in a thread whose errors nobody hears of: the main process then waits for ever
    return batch if get_worker_info() is None else batch.share_memory()


def _stacked(windows: Sequence[StoredWindow]) -> StoredBatch:

    def stack(arrays: Sequence[Any]) -> torch.Tensor:
        return torch.stack([torch.as_tensor(array) for array in arrays])

    first = windows[0]
    device = first.image.device if isinstance(first.image, torch.Tensor) else None
    mean, std, empty = stacked_z_scores([window.zscore for window in windows])
    return StoredBatch(
        cases=tuple(window.case for window in windows),
        image=stack([window.image for window in windows]),
        label=stack([window.label for window in windows]),
        maps=None if first.maps is None else stack([window.maps for window in windows]),
        present=stack([window.present for window in windows]).to(device),
        inside=stack([window.inside for window in windows]).to(device),
        mean=mean.to(device),
        std=std.to(device),
        empty=None if empty is None else empty.to(device),
    )


# --- loading ----------------------------------------------------------------------------------------------------------


class WindowDataset(Dataset[StoredWindow]):
    """Windows of training cases. An index is (case id, key): the key alone decides where a random window lies."""

    def __init__(self, reader: CaseReader, size: Size, *, place: Literal["centre", "random"]) -> None:
        self.reader, self.size, self.place = reader, size, place

    def __getitem__(self, index: Index) -> StoredWindow:
        """Return the window of a case."""
        case, key = index
        shape_ZYX = self.reader.shape(case)
        if self.place == "centre":
            return self.reader.window(case, centre_box(shape_ZYX, self.size))
        return self.reader.window(case, random_box(shape_ZYX, self.size, np.random.default_rng(key)))


class EpochBatches:
    """The batches of an epoch, by seed and epoch alone, so that a run resumes in the middle of one.

    Each case comes once an epoch, in a new order; the last batch may be smaller. Set `epoch` and `skip` (batches that
    are done already) before iterating.

    Of a batch, each process has its shard. Where the last batch has too few cases for that, a process without a case
    still goes through one of them, as all must take every step, and counts none of it.
    """

    def __init__(self, cases: Sequence[str], batch_size: int, seed: int, world: World = ONE_PROCESS) -> None:
        self.cases, self.batch_size, self.seed, self.world = tuple(cases), batch_size, seed, world
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __iter__(self) -> Iterator[list[Index]]:
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(self.cases))
        items: list[Index] = [(self.cases[i], (self.seed, _PLACE, self.epoch, int(i))) for i in order]
        for start in range(self.skip * self.batch_size, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            yield self.world.shard(batch) or batch[:1]

    def has_cases(self, batch: int) -> bool:
        """Whether this process has cases of its own in a batch of the epoch."""
        return self.world.rank < len(self.cases) - batch * self.batch_size


def make_loader(
    dataset: WindowDataset, batches: EpochBatches, *, workers: int, pin: bool = False, start_method: str | None = None
) -> DataLoader[StoredWindow]:
    """Return a DataLoader whose batches are the same for every number of workers and every start method."""
    if workers:
        kill_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=_begin_worker,
    )


def _begin_worker(worker: int) -> None:
    """Prepare a process that loads batches."""
    # Ctrl-C, torchrun and SLURM signal every process of a run; the parent decides when to stop
    ignore_stop_signals(worker)
    # a batch that cannot be sent would be lost in silence; the parent sees the end of a process
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, batch: Any) -> None:
    os._exit(1)


def on_device(batches: Iterable[StoredBatch], device: torch.device) -> Iterator[StoredBatch]:
    """Yield the batches on a device. For CUDA each is copied, on a stream of its own, before the last one is given.

    Batches in pinned memory (a DataLoader with `pin_memory`) are copied without a wait.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = _copy_stream(device)
    ahead: StoredBatch | None = None
    for batch in batches:
        # what lies on the device already was cut there by work that is queued, not done
        copies.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        if ahead is not None:
            yield ahead
        # only now: the work on the batch before is queued, and need not wait for this copy
        ahead = _given_to_stream(moved, copies, torch.cuda.current_stream(device))
    if ahead is not None:
        yield ahead


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device that copies; memory that was freed on a stream serves that stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _given_to_stream(batch: StoredBatch, copies: torch.cuda.Stream, stream: torch.cuda.Stream) -> StoredBatch:
    """Have a stream wait for the copy, and keep the memory until the stream is done with it."""
    stream.wait_stream(copies)
    for tensor in batch.tensors():
        tensor.record_stream(stream)
    return batch
