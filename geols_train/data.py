"""Data: windows of cases from the two stores, in an order that is the same whatever loads them."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from geols_precompute.data.prepare import IGNORE_INDEX
from geols_precompute.store.shard import Window
from geols_train.batches import StoredWindow, collate
from geols_train.distributed import ALONE, World
from geols_train.intensity import ZScore, zscore
from geols_train.stores import Stores
from geols_train.windows import Box, Size, centre_box, random_box

#: A case id, and the key of the random place of its window.
Index = tuple[str, tuple[int, ...]]
#: Streams of random numbers that must not repeat each other.
_ORDER, _PLACE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window of one case, ready to be evaluated.

    Attributes:
        case: id.
        image: z-scores [modality,z,y,x] float32, 0 in the padding.
        label: class indices [z,y,x] uint8, 255 where ignored, 0 in the padding.
        counted: [z,y,x] bool, false in the padding and where ignored: no metrics there.
    """

    case: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class CaseReader:
    """Reads boxes of cases from the stores, the same in every process.

    Attributes:
        stores: the two stores.
        maps_needed: also read the maps.
        zscores: of every case that is asked for.
        cache: whole arrays of the cases that are kept in memory, or whole tensors of those kept on a device.
    """

    stores: Stores
    maps_needed: bool
    zscores: Mapping[str, ZScore] = field(default_factory=dict, repr=False)
    cache: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def shape(self, case: str) -> Size:
        """Return a case's shape (z,y,x)."""
        return self.stores.volumes.metadata(case).geometry.shape_zyx

    def window(self, case: str, box: Box) -> StoredWindow:
        """Return the voxels of a box as they are stored, padded where it reaches beyond the volume.

        Raises:
            StoreError: the case is missing or damaged.
        """
        shape_ZYX = self.shape(case)
        inside, placed = box.inside(shape_ZYX), box.placed(shape_ZYX)
        if case in self.cache:
            image, label, maps = (a if a is None else a[(..., *inside)] for a in self.cache[case])
        else:
            image, label, maps = self._arrays(case, inside)
        return StoredWindow(
            case=case, image=_padded(image, placed, box.size, 0), label=_padded(label, placed, box.size, IGNORE_INDEX),
            maps=None if maps is None else _padded(maps, placed, box.size, 0), present=self._present(case),
            inside=np.array([(s.start, s.stop) for s in placed]), zscore=self.zscores[case],
        )  # fmt: skip

    def read(self, case: str, box: Box) -> Sample:
        """Return the voxels of a box, padded and normalised.

        Raises:
            StoreError: the case is missing or damaged.
        """
        stored = collate([replace(self, maps_needed=False, cache={}).window(case, box)])
        batch = stored.normalised()
        label = batch.label[0].masked_fill(~stored.inside_BZYX()[0], 0)
        return Sample(case=case, image=batch.image[0].numpy(), label=label.numpy(), counted=batch.counted[0].numpy())

    def cached(self, cases: Sequence[str], device: torch.device | None = None) -> CaseReader:
        """Return a reader that holds `cases` whole: in memory, which forked workers share, or on a device."""

        def kept(array: np.ndarray | None) -> Any:
            return array if array is None or device is None else torch.from_numpy(array).to(device)

        # one case after the other, so that a device's cache is never whole in memory
        return replace(self, cache={case: tuple(map(kept, self._arrays(case, None))) for case in cases})

    def examined(self, case: str) -> ZScore:
        """Read everything of a case once, so that damage shows before training, and measure its intensities.

        Raises:
            StoreError: the case is missing or damaged.
        """
        stored, _, _ = self._arrays(case, None)
        assert stored is not None
        self._present(case)
        scale, offset = self.stores.volumes.scale_offset(case)
        return zscore(stored, scale, offset, skull_stripped=self.stores.hints.skull_stripped)

    def store_digests(self) -> dict[str, str]:
        """Return the digests of the stores that are read."""
        digests = {"volumes": self.stores.volumes.digest}
        return digests | ({"labels": self.stores.labels.digest} if self.stores.labels and self.maps_needed else {})

    def _arrays(self, case: str, window: Window | None) -> tuple[npt.NDArray[Any] | None, ...]:
        volumes, labels = self.stores.volumes, self.stores.labels
        maps = labels.maps(case, window) if self.maps_needed and labels is not None else None
        return volumes.image(case, window), volumes.label(case, window), maps

    def _present(self, case: str) -> npt.NDArray[np.bool_]:
        present = np.zeros(len(self.stores.classes), bool)
        if self.maps_needed and self.stores.labels is not None:
            present[list(self.stores.labels.present(case))] = True
        return present


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

    Of a batch, each process of a world has the cases that are dealt to it. Where the last batch has too few cases for
    that, a process without a share still goes through one of them, as all must take every step, and counts none of it.
    """

    def __init__(self, cases: Sequence[str], batch_size: int, seed: int, world: World = ALONE) -> None:
        self.cases, self.batch_size, self.seed, self.world = tuple(cases), batch_size, seed, world
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __iter__(self) -> Iterator[list[Index]]:
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(self.cases))
        items: list[Index] = [(self.cases[i], (self.seed, _PLACE, self.epoch, int(i))) for i in order]
        for start in range(self.skip * self.batch_size, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            yield self.world.deal(batch) or batch[:1]

    def has_share(self, batch: int) -> bool:
        """Whether this process has cases of its own in a batch of the epoch."""
        return self.world.rank < len(self.cases) - batch * self.batch_size


def make_loader(
    dataset: WindowDataset, batches: EpochBatches, *, workers: int, pin: bool = False, start_method: str | None = None
) -> DataLoader[StoredWindow]:
    """Return a DataLoader whose batches are the same for every number of workers and every start method."""
    if workers:
        atexit.register(_end_workers)
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin,
        persistent_workers=workers > 0, multiprocessing_context=start_method if workers else None,
        worker_init_fn=_start_worker,
    )  # fmt: skip


def _start_worker(_: int) -> None:
    # Ctrl-C, torchrun and SLURM signal every process of a run; the parent decides when to stop, and tells its workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    # at the end of the process multiprocessing would ask them by SIGTERM, which they ignore, and wait for ever
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # to torch their death would be an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _padded(array: Any, placed: Window, size: Size, value: int) -> Any:
    """Return an array or tensor of `size` (z,y,x) that holds `array` at `placed` and `value` elsewhere."""
    if tuple(array.shape[-3:]) == size:
        return array
    shape = (*array.shape[:-3], *size)
    result = array.new_full(shape, value) if isinstance(array, torch.Tensor) else np.full(shape, value, array.dtype)
    z, y, x = placed
    result[..., z, y, x] = array
    return result
