"""From the files of a case to the volume that maps are computed on: read, resample, clip, class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from geols_precompute.arrays import BoolArray, Float32Array, Int16Array, UInt8Array
from geols_precompute.data.cases import Case
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.orientation import orientation_of, turn, turned
from geols_precompute.data.preprocessed import read_preprocessed
from geols_precompute.data.raters import chosen, consensus
from geols_precompute.data.volumes import Mask, Volume, fingerprint, label_sha256, read_volume
from geols_precompute.errors import InputError
from geols_precompute.formatting import plural
from geols_precompute.recipe.classes import IGNORE_INDEX, ClassTable
from geols_precompute.recipe.parameters import Preprocessing

#: Below so many levels in the foreground, a volume of 16 bits has lost what the file had.
FEW_LEVELS = 256
#: Where there is no foreground, the range between these percentiles counts, taken from so many voxels.
_MIDDLE, _SAMPLE = (0.5, 99.5), 10**6
_INT16_LOW, _INT16_HIGH = -(2**15), 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """A labelled case in memory, ready for maps.

    Attributes:
        image: intensities [modality,z,y,x] float32, finite.
        label: class indices [z,y,x] uint8, 255 where ignored.
        geometry: of both.
        source_geometry: of the files.
        source: digests of the files' voxels and geometry, as a store's metadata keeps them.
        notes: what a person should know: what had to be mended to read the files, and what is lost in preparing them.
        raters: class indices [rater,z,y,x] uint8 of every rater in the order of `source`, where they were read.
    """

    image: Float32Array
    label: UInt8Array
    geometry: Geometry
    source_geometry: Geometry
    source: dict[str, Any]
    notes: tuple[str, ...] = ()
    raters: UInt8Array | None = None


def read_source(case: Case, preprocessing: Preprocessing, classes: ClassTable) -> tuple[Volume, dict[str, Any]]:
    """Read the files of a labelled case; (their volume, its digests as a store's metadata keeps them).

    What is to be done with the case depends on the digests; `prepare_source` goes on from here. The classes say which
    masks make the label map, where every organ has one.

    Raises:
        InputError: a file cannot be used, or does not fit the others, see `read_volume`; or the rater or the mask that
            is asked for is not there.
        MissingExtraError: nnU-Net has preprocessed the case, and is not installed.
    """
    modalities = len(preprocessing.modalities)
    if case.plans is not None:
        volume = read_preprocessed(case, modalities=modalities)
        return volume, fingerprint(volume)
    if case.masks:
        if preprocessing.rater is not None:
            raise InputError(f"{case.label}: masks of no named rater, where rater {preprocessing.rater} is asked for")
        masks, order = _masks(case, classes, preprocessing.mask_order), preprocessing.mask_order
        volume = read_volume(case.images, None, modalities=modalities, masks=masks, mask_order=order)
        return volume, fingerprint(volume)
    choice = chosen(case, preprocessing)
    paths = tuple(choice.raters.values())
    volume = read_volume(case.images, choice.label, modalities=modalities, raters=paths)
    if choice.rule is not None:
        assert volume.raters is not None
        volume = replace(volume, label=consensus(volume.raters, choice.rule))
    source = fingerprint(volume)
    if volume.raters is not None:
        digests = map(label_sha256, volume.raters)
        source["raters"] = [{"name": n, "sha256": s} for n, s in zip(choice.raters, digests, strict=True)]
    return volume, source


def _masks(case: Case, classes: ClassTable, order: Sequence[str]) -> list[Mask]:
    """Return the masks of the classes, those of `order` last and in that order.

    Raises:
        InputError: one is not there.
    """
    values = {label.name: label.value for label in classes if label.value != 0}
    if missing := [name for name in values if name not in case.masks]:
        raise InputError(
            f"{case.label}: no mask of {', '.join(missing)}; write an empty one where the organ is not in the "
            "image, or leave it out of the classes"
        )
    names = [*(name for name in values if name not in order), *(name for name in order if name in values)]
    return [Mask(path=case.masks[name], name=name, value=values[name]) for name in names]


def prepare_source(
    case: Case, volume: Volume, source: dict[str, Any], preprocessing: Preprocessing, classes: ClassTable
) -> PreparedCase:
    """Prepare what `read_source` has read.

    Raises:
        InputError: a label value has no class, every voxel is ignored, resampling loses all the foreground, or there is
            none and such cases are to be left out; the message names the file.
    """
    # of every rater, also of those that a consensus has outvoted
    _rater_indices(case, volume, source, classes)
    before_ZYX = _class_indices(case, volume, classes)
    before = _foreground_counts(before_ZYX)
    if not before and preprocessing.skip_empty:
        raise InputError(f"{case.label}: the label map has no voxel of a foreground class; leave this case out")
    if (before_ZYX == IGNORE_INDEX).all():
        raise InputError(f"{case.label}: every voxel is ignored; leave this case out")
    prepared = prepare(volume, preprocessing)
    label_ZYX = before_ZYX if prepared.label is volume.label else _class_indices(case, prepared, classes)
    after = before if label_ZYX is before_ZYX else _foreground_counts(label_ZYX)
    lost = [
        f"{case.label}: {classes.names[index]} ({plural(count, 'voxel')} of value {classes.values[index]}) is lost in "
        f"resampling to {' × '.join(f'{mm:g}' for mm in preprocessing.spacing or ())} mm (z,y,x)"
        for index, count in before.items()
        if index not in after
    ]
    if lost and not after:
        raise InputError(f"{'; '.join(lost)}; nothing of the foreground is left: take a finer spacing, or leave it out")
    foreground_ZYX = (label_ZYX > 0) & (label_ZYX != IGNORE_INDEX)
    return PreparedCase(
        image=prepared.image,
        label=label_ZYX,
        geometry=prepared.geometry,
        source_geometry=volume.geometry,
        source=source,
        notes=(*volume.notes, *lost, *notes_of_range(prepared.image, preprocessing.modalities, foreground_ZYX)),
        raters=_rater_indices(case, prepared, source, classes),
    )


def _rater_indices(case: Case, volume: Volume, source: dict[str, Any], classes: ClassTable) -> UInt8Array | None:
    """Return the class indices [rater,z,y,x] of the raters that were read.

    Raises:
        InputError: a label value has no class; the message names the rater's file.
    """
    if volume.raters is None:
        return None
    found = []
    for rater, label in zip(source["raters"], volume.raters, strict=True):
        try:
            found.append(classes.indices(label))
        except InputError as error:
            raise InputError(f"{case.raters[rater['name']]}: {error}") from error
    return np.stack(found)


def _class_indices(case: Case, volume: Volume, classes: ClassTable) -> UInt8Array:
    """Return the class indices of a volume's label.

    Raises:
        InputError: a label value has no class; the message names the file.
    """
    assert volume.label is not None
    try:
        return classes.indices(volume.label)
    except InputError as error:
        raise InputError(f"{case.label}: {error}") from error


def _foreground_counts(label_ZYX: UInt8Array) -> dict[int, int]:
    """Return the voxels of each foreground class index that a label map has."""
    # `bincount` takes 64 bits per voxel, and most are background
    counts = np.bincount(label_ZYX[label_ZYX > 0])
    return {index: int(count) for index, count in enumerate(counts) if count and index != IGNORE_INDEX}


def notes_of_range(
    image_MZYX: Float32Array, modalities: Sequence[str], foreground_ZYX: BoolArray | None = None
) -> tuple[str, ...]:
    """Return a note for each modality whose range leaves what counts but a few of the 65,536 levels of 16 bits.

    Args:
        image_MZYX: intensities [modality,z,y,x].
        modalities: their names.
        foreground_ZYX: the voxels that count; of an image without foreground, 99 % of its voxels, those in the middle
            of the range.
    """
    notes = []
    for name, modality in zip(modalities, image_MZYX, strict=True):
        low, high = float(modality.min()), float(modality.max())
        few = FEW_LEVELS * (high - low) / (_INT16_HIGH - _INT16_LOW)
        # a look at the range first: counting levels takes a sort
        if foreground_ZYX is not None and foreground_ZYX.any():
            counts, where = foreground_ZYX, "in the foreground"
            if float(np.ptp(modality[counts])) >= few:
                continue
        else:
            some = modality.ravel()[:: max(1, modality.size // _SAMPLE)]
            least, most = np.percentile(some, _MIDDLE)
            if most - least >= few:
                continue
            counts, where = (modality >= least) & (modality <= most), "in 99 % of the voxels"
        there = len(np.unique(modality[counts]))
        kept = len(np.unique(to_int16(modality[np.newaxis])[0][0][counts]))
        if 2 * kept <= there:
            notes.append(
                f"intensities of {name} span {low:.6g} to {high:.6g}, which leaves {plural(kept, 'level')} of the "
                f"{there} {where}, in 16 bits, in which volumes are stored and maps and predictions are computed; clip "
                "them, for example by geols-precompute --clip 0.5 99.5 (percentiles), or mend the file"
            )
    return tuple(notes)


def prepare(volume: Volume, preprocessing: Preprocessing) -> Volume:
    """Turn, resample, then clip each modality to two percentiles of its voxels, where the preprocessing asks for it.

    Raises:
        InputError: the volume is to be turned, and its file does not say how it lies.
    """
    if (orientation := preprocessing.orientation) is not None and orientation_of(volume.geometry) != orientation:
        volume = _turned(volume, orientation)
    if preprocessing.spacing is not None:
        volume = _resample(volume, preprocessing.spacing)
    if preprocessing.clip is not None:
        limits = [np.percentile(modality, preprocessing.clip) for modality in volume.image]
        clipped = [np.clip(m, *low_high.astype(np.float32)) for m, low_high in zip(volume.image, limits, strict=True)]
        volume = replace(volume, image=np.stack(clipped))
    return volume


def prepared_size(geometry: Geometry, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return the size (x,y,z) of the volume that `prepare` makes of one on this grid."""
    if preprocessing.orientation is not None:
        geometry = turned(geometry, preprocessing.orientation)
    return _resampled_size(geometry, preprocessing.spacing)


def _resampled_size(geometry: Geometry, spacing_zyx: tuple[float, float, float] | None) -> tuple[int, int, int]:
    """Return the size (x,y,z) of a volume after resampling to `spacing_zyx` in mm (None: as it is)."""
    if spacing_zyx is None:
        return geometry.size
    pairs = zip(geometry.size, geometry.spacing, spacing_zyx[::-1], strict=True)
    x, y, z = (max(1, round(n * old / new)) for n, old, new in pairs)
    return x, y, z


def to_int16(image_MZYX: Float32Array) -> tuple[Int16Array, list[float], list[float]]:
    """Return (stored int16 [modality,z,y,x], scales, offsets): intensity = stored · scale + offset, per modality.

    Whole numbers whose range fits 16 bits are kept exactly; other intensities to 1/131070 of their range.
    """
    stored = np.empty(image_MZYX.shape, np.int16)
    scales, offsets = [], []
    for source, target in zip(image_MZYX, stored, strict=True):
        scale, offset = _write_int16(source, target)
        scales.append(scale)
        offsets.append(offset)
    return stored, scales, offsets


def _write_int16(source: Float32Array, target: Int16Array) -> tuple[float, float]:
    """Write one modality [z,y,x] to `target` and return its scale and offset."""
    low, high = float(source.min()), float(source.max())
    if low >= _INT16_LOW and high <= _INT16_HIGH:
        np.copyto(target, source, casting="unsafe")
        if np.array_equal(target, source):
            return 1.0, 0.0
    if low == high:
        target[...] = 0
        return 1.0, low
    if high - low <= _INT16_HIGH - _INT16_LOW and np.array_equal(np.rint(source), source):
        scale, offset = 1.0, low - _INT16_LOW
    else:
        scale = (high - low) / (_INT16_HIGH - _INT16_LOW)
        offset = low - _INT16_LOW * scale
    np.copyto(
        target, np.clip(np.rint((source - np.float64(offset)) / scale), _INT16_LOW, _INT16_HIGH), casting="unsafe"
    )
    return scale, offset


def _turned(volume: Volume, orientation: str) -> Volume:
    """Return a volume whose axes run as `orientation` says."""
    grid = volume.geometry
    label = None if volume.label is None else turn(volume.label, grid, orientation)
    raters = None if volume.raters is None else turn(volume.raters, grid, orientation)
    image = turn(volume.image, grid, orientation)
    return replace(volume, image=image, label=label, raters=raters, geometry=turned(grid, orientation))


def _resample(volume: Volume, spacing_zyx: tuple[float, float, float]) -> Volume:
    """Resample the image linearly and the label by nearest neighbour: size round(n·old/new), origin kept."""
    old = volume.geometry
    spacing = (spacing_zyx[2], spacing_zyx[1], spacing_zyx[0])
    transforms = old.transforms and old.transforms.scaled([n / o for n, o in zip(spacing, old.spacing, strict=True)])
    new = replace(old, size=_resampled_size(old, spacing_zyx), spacing=spacing, transforms=transforms)

    def resample(array: NDArray[Any], interpolator: int) -> NDArray[Any]:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(old.spacing)
        resampler = sitk.ResampleImageFilter()
        resampler.SetInterpolator(interpolator)
        resampler.SetSize(new.size)
        resampler.SetOutputSpacing(spacing)
        # the last sample may lie up to half a new voxel beyond the old grid
        resampler.SetUseNearestNeighborExtrapolator(True)
        return sitk.GetArrayFromImage(resampler.Execute(image))

    image = np.stack([resample(modality, sitk.sitkLinear) for modality in volume.image])
    label = None if volume.label is None else resample(volume.label, sitk.sitkNearestNeighbor)
    raters = None
    if volume.raters is not None:
        raters = np.stack([resample(rater, sitk.sitkNearestNeighbor) for rater in volume.raters])
    return replace(volume, image=image, label=label, raters=raters, geometry=new)
