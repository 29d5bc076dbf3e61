"""Data: windows of cases from the two stores, in batches that are the same whatever loads them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from geols_precompute.preparation import IGNORE_INDEX
from geols_precompute.store.shard import Window
from geols_train.intensity import ZScore, zscore
from geols_train.stores import Stores
from geols_train.windows import Box, Size, centre_box, random_box

#: A case id, and the key of the random place of its window.
Index = tuple[str, tuple[int, ...]]
#: Streams of random numbers that must not repeat each other.
_ORDER, _PLACE = 0, 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One window of one case.

    Attributes:
        case: id.
        image: z-scores [modality,z,y,x] float32, 0 in the padding.
        label: class indices [z,y,x] uint8, 255 where ignored, 0 in the padding.
        counted: [z,y,x] bool, false in the padding and where ignored: no loss and no metrics there.
        maps: as stored [channel,z,y,x] uint8, 0 in the padding; None if the method needs none.
        present: [class] bool, whether the whole volume has the class.
    """

    case: str
    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    counted: npt.NDArray[np.bool_]
    maps: npt.NDArray[np.uint8] | None
    present: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples as tensors [batch,...], of the types that `Sample` gives; maps travel to the device as uint8."""

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor
    counted: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor

    def spatial(self) -> list[torch.Tensor]:
        """Return the tensors with the axes z,y,x: image, label, counted and, if there are any, maps."""
        return [t for t in (self.image, self.label, self.counted, self.maps) if t is not None]

    def with_spatial(self, tensors: Sequence[torch.Tensor]) -> Self:
        """Return the batch with these tensors, in the order of `spatial`."""
        maps = tensors[3] if self.maps is not None else None
        return replace(self, image=tensors[0], label=tensors[1], counted=tensors[2], maps=maps)

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device; a copy from pinned memory goes on while the device works."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory; the DataLoader calls this."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return replace(self.with_spatial([function(t) for t in self.spatial()]), present=function(self.present))


@dataclass(frozen=True, kw_only=True)
class CaseReader:
    """Reads boxes of cases from the stores: padded, normalised, the same in every process.

    Attributes:
        stores: the two stores.
        maps_needed: also read the maps.
        zscores: of every case that `read` is asked for.
        cache: whole arrays of the cases that are kept in memory.
    """

    stores: Stores
    maps_needed: bool
    zscores: Mapping[str, ZScore] = field(default_factory=dict, repr=False)
    cache: Mapping[str, tuple[npt.NDArray[Any] | None, ...]] = field(default_factory=dict, repr=False)

    def shape(self, case: str) -> Size:
        """Return a case's shape (z,y,x)."""
        return self.stores.volumes.metadata(case).geometry.shape_zyx

    def read(self, case: str, box: Box) -> Sample:
        """Return the voxels of a box, padded where it reaches beyond the volume.

        Raises:
            StoreError: the case is missing or damaged.
        """
        shape_ZYX = self.shape(case)
        inside, placed = box.inside(shape_ZYX), box.placed(shape_ZYX)
        if case in self.cache:
            stored, label, maps = (a if a is None else a[(..., *inside)] for a in self.cache[case])
        else:
            stored, label, maps = self._arrays(case, inside)
        assert stored is not None
        assert label is not None
        image = _padded(self.zscores[case].apply(stored), placed, box.size)
        counted = _padded(label != IGNORE_INDEX, placed, box.size)
        return Sample(
            case=case, image=image, label=_padded(label, placed, box.size), counted=counted,
            maps=None if maps is None else _padded(maps, placed, box.size), present=self._present(case),
        )  # fmt: skip

    def cached(self, cases: Sequence[str]) -> CaseReader:
        """Return a reader that holds the whole arrays of `cases` in memory; forked workers share them."""
        return replace(self, cache={case: self._arrays(case, None) for case in cases})

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


class WindowDataset(Dataset[Sample]):
    """Windows of training cases. An index is (case id, key): the key alone decides where a random window lies."""

    def __init__(self, reader: CaseReader, size: Size, *, place: Literal["centre", "random"]) -> None:
        self.reader, self.size, self.place = reader, size, place

    def __getitem__(self, index: Index) -> Sample:
        """Return the window of a case."""
        case, key = index
        shape_ZYX = self.reader.shape(case)
        if self.place == "centre":
            return self.reader.read(case, centre_box(shape_ZYX, self.size))
        return self.reader.read(case, random_box(shape_ZYX, self.size, np.random.default_rng(key)))


class EpochBatches:
    """The batches of an epoch, by seed and epoch alone, so that a run resumes in the middle of one.

    Each case comes once an epoch, in a new order; the last batch may be smaller. Set `epoch` and `skip` (batches that
    are done already) before iterating.
    """

    def __init__(self, cases: Sequence[str], batch_size: int, seed: int) -> None:
        self.cases, self.batch_size, self.seed = tuple(cases), batch_size, seed
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-len(self.cases) // self.batch_size)

    def __iter__(self) -> Iterator[list[Index]]:
        order = np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(len(self.cases))
        items: list[Index] = [(self.cases[i], (self.seed, _PLACE, self.epoch, int(i))) for i in order]
        for start in range(self.skip * self.batch_size, len(items), self.batch_size):
            yield items[start : start + self.batch_size]


def make_loader(
    dataset: WindowDataset, batches: EpochBatches, *, workers: int, pin: bool = False, start_method: str | None = None
) -> DataLoader[Sample]:
    """Return a DataLoader whose batches are the same for every number of workers and every start method."""
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin,
        persistent_workers=workers > 0, multiprocessing_context=start_method if workers else None,
        worker_init_fn=_start_worker,
    )  # fmt: skip


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size to a batch."""

    def stack(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))

    return Batch(
        cases=tuple(sample.case for sample in samples), image=stack("image"), label=stack("label"),
        counted=stack("counted"), maps=stack("maps") if samples[0].maps is not None else None, present=stack("present"),
    )  # fmt: skip


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group; the parent decides when to stop, and ends its workers by SIGTERM
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _padded(array: npt.NDArray[Any], placed: Window, size: Size) -> npt.NDArray[Any]:
    """Return an array of `size` (z,y,x) that holds `array` at `placed` and 0 elsewhere."""
    if array.shape[-3:] == size:
        return array
    result = np.zeros((*array.shape[:-3], *size), array.dtype)
    z, y, x = placed
    result[..., z, y, x] = array
    return result
