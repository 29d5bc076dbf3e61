"""Data: windows of cases out of the stores, as stored or with z-scores, and the maps of a store on their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from geols_precompute.arrays import BoolArray, Float32Array, Int16Array, Int64Array, UInt8Array, Window
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.store.reader import LabelStore
from geols_train.config import Size
from geols_train.softening import Softening
from geols_train.stores import Stores

# --- boxes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of `size` voxels (z,y,x) whose first voxel is `start`; it may reach beyond the volume."""

    start: Size
    size: Size

    def inside(self, shape_ZYX: Sequence[int]) -> Window:
        """Return the slices of the volume that the box covers."""
        z, y, x = (
            slice(max(0, start), min(n, start + size))
            for start, size, n in zip(self.start, self.size, shape_ZYX, strict=True)
        )
        return z, y, x

    def placed(self, shape_ZYX: Sequence[int]) -> Window:
        """Return the slices of the box that the volume fills; the rest of the box is padding."""
        z, y, x = (
            slice(max(0, -start), min(size, n - start))
            for start, size, n in zip(self.start, self.size, shape_ZYX, strict=True)
        )
        return z, y, x


def whole_box(shape_ZYX: Sequence[int]) -> Box:
    """Return the box that is the volume."""
    z, y, x = shape_ZYX
    return Box(start=(0, 0, 0), size=(z, y, x))


def centre_box(shape_ZYX: Sequence[int], size: Size) -> Box:
    """Return the box in the middle of a volume: a centre crop, or a centred pad where the volume is smaller."""
    z, y, x = ((n - s) // 2 for n, s in zip(shape_ZYX, size, strict=True))
    return Box(start=(z, y, x), size=size)


def random_box(shape_ZYX: Sequence[int], size: Size, rng: np.random.Generator) -> Box:
    """Return a box at a uniformly drawn place inside the volume, centred along axes where the volume is smaller."""
    z, y, x = (int(rng.integers(n - s + 1)) if n > s else (n - s) // 2 for n, s in zip(shape_ZYX, size, strict=True))
    return Box(start=(z, y, x), size=size)


def covering_boxes(shape_ZYX: Sequence[int], size: Size, *, overlap: float) -> list[Box]:
    """Return boxes that cover a volume, neighbours sharing at least `overlap` (0 to below 1) of their size."""
    axes = (_starts(n, s, overlap) for n, s in zip(shape_ZYX, size, strict=True))
    return [Box(start=(z, y, x), size=size) for z, y, x in itertools.product(*axes)]


def _starts(n: int, size: int, overlap: float) -> list[int]:
    if n <= size:
        return [(n - size) // 2]
    steps = int(np.ceil((n - size) / max(1.0, size * (1 - overlap))))
    return [round(i * (n - size) / steps) for i in range(steps + 1)]


# --- z-scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ZScore:
    """How one case's stored int16 intensities become z-scores; measured on the whole case.

    A z-score does not change with a scale and an offset, so it is taken from the stored numbers as they are.

    Attributes:
        mean: per modality, in stored units.
        std: per modality, in stored units; 1 where the modality is constant.
        empty: per modality, the stored number of intensity 0, where only non-zero voxels count; else None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    empty: tuple[int, ...] | None = None

    @classmethod
    def measure(
        cls, stored_MZYX: Int16Array, scale: Sequence[float], offset: Sequence[float], *, skull_stripped: bool
    ) -> Self:
        """Measure a whole prepared volume: mean and standard deviation of all voxels, or of the non-zero ones.

        Args:
            stored_MZYX: int16 [modality,z,y,x].
            scale: per modality; intensity = stored · scale + offset.
            offset: per modality.
            skull_stripped: leave out the voxels of intensity 0.
        """
        if not skull_stripped:
            means, stds = zip(*map(_mean_std, stored_MZYX), strict=True)
            return cls(mean=means, std=stds)
        empty = tuple(round(-float(o) / float(s)) for s, o in zip(scale, offset, strict=True))
        moments = [_mean_std(modality[modality != e]) for modality, e in zip(stored_MZYX, empty, strict=True)]
        means, stds = zip(*moments, strict=True)
        return cls(mean=means, std=stds, empty=empty)

    def apply(self, stored_MZYX: Int16Array) -> Float32Array:
        """Return z-scores [modality,z,y,x] float32; see `z_scores`."""
        mean_BM, std_BM, empty_BM = stacked_z_scores([self])
        image: Float32Array = z_scores(torch.from_numpy(stored_MZYX)[None], mean_BM, std_BM, empty_BM)[0].numpy()
        return image


def stacked_z_scores(scores: Sequence[ZScore]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return (mean float32, std float32, empty int32 or None), each [case,modality]."""
    empties = [score.empty for score in scores if score.empty is not None]
    return (
        torch.tensor([score.mean for score in scores], dtype=torch.float32),
        torch.tensor([score.std for score in scores], dtype=torch.float32),
        torch.tensor(empties, dtype=torch.int32) if empties else None,
    )


def z_scores(
    stored_BMZYX: torch.Tensor,
    mean_BM: torch.Tensor,
    std_BM: torch.Tensor,
    empty_BM: torch.Tensor | None,
    vary: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return z-scores [b,m,z,y,x] float32 of stored intensities, in training and in prediction.

    `vary` may change them; after that, voxels outside a stripped skull (`empty_BM`) are 0.
    """
    mean, std = mean_BM[:, :, None, None, None], std_BM[:, :, None, None, None]
    image_BMZYX = (stored_BMZYX.float() - mean).div_(std)
    if vary is not None:
        image_BMZYX = vary(image_BMZYX)
    if empty_BM is not None:
        image_BMZYX.masked_fill_(stored_BMZYX == empty_BM[:, :, None, None, None], 0)
    return image_BMZYX


def _mean_std(values: Int16Array) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0


# --- cases of both stores ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StoredWindow:
    """One window of one case as the stores hold it; arrays of NumPy, or tensors of a case that lies on a device.

    Attributes:
        case: id.
        image: stored intensities [modality,z,y,x] int16, 0 in the padding.
        label: class indices [z,y,x] uint8, 255 where ignored and in the padding.
        maps: [channel,z,y,x] uint8, 0 in the padding; of a method that is made on load, its soft label [class,z,y,x]
            float32; None if the method needs neither.
        present: [class] bool, whether the whole volume has the class.
        inside: [axis,(start,stop)] of z, y and x: where in the window the volume lies.
        zscore: that makes z-scores of the image.
    """

    case: str
    image: Any
    label: Any
    maps: Any
    present: BoolArray
    inside: Int64Array
    zscore: ZScore


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
    image: Float32Array
    label: UInt8Array
    counted: BoolArray


@dataclass(frozen=True, kw_only=True)
class CaseReader:
    """Reads boxes of cases from the stores, the same in every process.

    Attributes:
        stores: the two stores.
        maps_needed: also read the maps.
        softening: makes the soft label in place of maps, for a method that is made on load.
        zscores: of every case that is asked for.
        cache: whole arrays of the cases that are kept in memory, or whole tensors of those kept on a device.
    """

    stores: Stores
    maps_needed: bool
    softening: Softening | None = None
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
        inside, placed = box.inside(self.shape(case)), box.placed(self.shape(case))
        if case in self.cache:
            image, label, maps = (a if a is None else a[(..., *inside)] for a in self.cache[case])
        else:
            image, label, maps = self._arrays(case, inside)
        return StoredWindow(
            case=case,
            image=_padded(image, placed, box.size, 0),
            label=_padded(label, placed, box.size, IGNORE_INDEX),
            maps=None if maps is None else _padded(maps, placed, box.size, 0),
            present=self._present(case),
            inside=np.array([(s.start, s.stop) for s in placed]),
            zscore=self.zscores[case],
        )

    def read(self, case: str, box: Box) -> Sample:
        """Return the voxels of a box, padded and normalised.

        Raises:
            StoreError: the case is missing or damaged.
        """
        inside, placed = box.inside(self.shape(case)), box.placed(self.shape(case))
        image = self.zscores[case].apply(self.stores.volumes.image(case, inside))
        label = self.stores.volumes.label(case, inside)
        return Sample(
            case=case,
            image=_padded(image, placed, box.size, 0),
            label=_padded(label, placed, box.size, 0),
            counted=_padded(label != IGNORE_INDEX, placed, box.size, False),
        )

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
        stored, _, _ = replace(self, softening=None)._arrays(case, None)
        assert stored is not None
        if self.softening is not None:
            self.softening.examine(self.stores.volumes, case)
        self._present(case)
        scale, offset = self.stores.volumes.scale_offset(case)
        skull_stripped = self.stores.hints.skull_stripped
        return ZScore.measure(stored, scale.tolist(), offset.tolist(), skull_stripped=skull_stripped)

    def store_digests(self) -> dict[str, str]:
        """Return the digests of the stores that are read."""
        digests = {"volumes": self.stores.volumes.digest}
        return digests | ({"labels": self.stores.labels.digest} if self.stores.labels and self.maps_needed else {})

    def _arrays(self, case: str, window: Window | None) -> tuple[np.ndarray | None, ...]:
        volumes, labels = self.stores.volumes, self.stores.labels
        maps: np.ndarray | None = None
        if self.softening is not None:
            maps = self.softening.soft_label(volumes, case, window)
        elif self.maps_needed and labels is not None:
            maps = labels.maps(case, window)
        return volumes.image(case, window), volumes.label(case, window), maps

    def _present(self, case: str) -> BoolArray:
        if self.maps_needed and self.stores.labels is not None:
            return present_classes(self.stores.labels, case)
        return np.zeros(len(self.stores.classes), bool)


def _padded(array: Any, placed: Window, size: Size, value: int) -> Any:
    """Return an array or tensor of `size` (z,y,x) that holds `array` at `placed` and `value` elsewhere."""
    if tuple(array.shape[-3:]) == size:
        return array
    shape = (*array.shape[:-3], *size)
    result = array.new_full(shape, value) if isinstance(array, torch.Tensor) else np.full(shape, value, array.dtype)
    z, y, x = placed
    result[..., z, y, x] = array
    return result


def present_classes(labels: LabelStore, case: str) -> BoolArray:
    """Return which classes a case's whole volume has, [class] bool."""
    present = np.zeros(len(labels.classes), bool)
    present[list(labels.present(case))] = True
    return present


# --- maps alone -------------------------------------------------------------------------------------------------------


class CaseMaps(TypedDict):
    """An item of `LabelMaps`.

    `maps` uint8 [channel,z,y,x], g = maps / 255; `present` bool [class], whether the case's whole volume has the class.
    """

    case: str
    maps: torch.Tensor
    present: torch.Tensor


class LabelMaps(Dataset[CaseMaps]):
    """The maps of a label store, case by case, for a data pipeline of your own.

    A DataLoader may read it in worker processes, by fork or spawn. `SoftCrossEntropy` takes `maps` and `present` as
    they come.

    Args:
        store: of maps.
        window: (z, y, x) slices with start and stop inside every volume; None gives whole volumes.

    Example:
        >>> from geols_precompute import LabelStore
        >>> from geols_train import LabelMaps
        >>> dataset = LabelMaps(LabelStore.open("labels.zarr"))
        >>> item = dataset[0]
        >>> item["case"], item["maps"].dtype, item["present"].dtype
        ('case_00', torch.uint8, torch.bool)
    """

    def __init__(self, store: LabelStore, *, window: Window | None = None) -> None:
        self.store, self.window = store, window

    def __len__(self) -> int:
        return len(self.store.cases)

    def __getitem__(self, index: int) -> CaseMaps:
        """Return an item, in the order of `store.cases`.

        Raises:
            IndexError: there are fewer cases.
            InputError: the window does not lie inside the volume.
            StoreError: the case is missing or damaged.
        """
        return self.read(self.store.cases[index], self.window)

    def read(self, case: str, window: Window | None = None) -> CaseMaps:
        """Return the item of a case by its id, for a window of its own.

        Raises:
            InputError: no such case, or the window does not lie inside the volume.
            StoreError: the case is missing or damaged.
        """
        maps = torch.from_numpy(self.store.maps(case, window))
        return {"case": case, "maps": maps, "present": torch.from_numpy(present_classes(self.store, case))}
