"""Preparation: from source voxels to the volume that maps are computed on (resample, clip, class indices)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from geols_precompute.data.geometry import Geometry
from geols_precompute.data.volumes import Int32Array, Volume
from geols_precompute.errors import InputError

IGNORE_INDEX = 255

UInt8Array = npt.NDArray[np.uint8]


def prepare(volume: Volume, *, spacing: tuple[float, float, float] | None, clip: tuple[float, float] | None) -> Volume:
    """Resample to `spacing` (z,y,x in mm), then clip each modality to two percentiles over all its voxels."""
    if spacing is not None:
        volume = _resample(volume, spacing)
    if clip is not None:
        limits = [np.percentile(modality, clip) for modality in volume.image]
        clipped = [np.clip(m, *low_high.astype(np.float32)) for m, low_high in zip(volume.image, limits, strict=True)]
        volume = replace(volume, image=np.stack(clipped))
    return volume


def prepared_size(geometry: Geometry, spacing_zyx: tuple[float, float, float] | None) -> tuple[int, int, int]:
    """Return the size (x,y,z) of a volume after resampling to `spacing_zyx` in mm (None: as it is)."""
    if spacing_zyx is None:
        return geometry.size
    pairs = zip(geometry.size, geometry.spacing, spacing_zyx[::-1], strict=True)
    x, y, z = (max(1, round(n * old / new)) for n, old, new in pairs)
    return x, y, z


def class_indices(label_ZYX: Int32Array, values: Sequence[int], *, ignore: int | None = None) -> UInt8Array:
    """Return the label map as class indices: the place of each voxel's value in `values`; `ignore` becomes 255.

    Raises:
        InputError: a voxel has a value that is neither in `values` nor `ignore`, or no voxel has a foreground class.
    """
    indices = np.zeros(label_ZYX.shape, np.uint8)
    known = np.zeros(label_ZYX.shape, bool)
    for value, index in [*((v, i) for i, v in enumerate(values)), *([(ignore, IGNORE_INDEX)] if ignore else [])]:
        mask = label_ZYX == value
        indices[mask] = index
        known |= mask
    if not known.all():
        strange, counts = np.unique(label_ZYX[~known], return_counts=True)
        listed = ", ".join(f"{v} ({n} voxels)" for v, n in zip(strange[:5], counts[:5], strict=True))
        raise InputError(
            f"label values without a class: {listed}; named are {', '.join(map(str, values))}. "
            "Name every value with --classes, a recipe or dataset.json"
        )
    if not ((indices > 0) & (indices != IGNORE_INDEX)).any():
        raise InputError("the label map has no voxel of a foreground class; leave this case out")
    return indices


def _resample(volume: Volume, spacing_zyx: tuple[float, float, float]) -> Volume:
    """Resample the image linearly and the label by nearest neighbour: size round(n·old/new), origin kept."""
    old = volume.geometry
    spacing = (spacing_zyx[2], spacing_zyx[1], spacing_zyx[0])
    new = replace(old, size=prepared_size(old, spacing_zyx), spacing=spacing)

    def resample(array: npt.NDArray[Any], interpolator: int) -> npt.NDArray[Any]:
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
    return replace(volume, image=image, label=label, geometry=new)


_LOW, _HIGH = -(2**15), 2**15 - 1


def to_int16(image_MZYX: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], list[float], list[float]]:
    """Return (stored int16 [modality,z,y,x], scales, offsets).

    Whole numbers whose range fits 16 bits are kept exactly; other intensities to 1/131070 of their range.
    """
    stored = np.empty(image_MZYX.shape, np.int16)
    scales, offsets = [], []
    for source, target in zip(image_MZYX, stored, strict=True):
        scale, offset = _fill(source, target)
        scales.append(scale)
        offsets.append(offset)
    return stored, scales, offsets


def _fill(source: npt.NDArray[np.float32], target: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Write one modality [z,y,x] to `target` and return its scale and offset."""
    low, high = float(source.min()), float(source.max())
    if low >= _LOW and high <= _HIGH:
        np.copyto(target, source, casting="unsafe")
        if np.array_equal(target, source):
            return 1.0, 0.0
    if low == high:
        target[...] = 0
        return 1.0, low
    if high - low <= _HIGH - _LOW and np.array_equal(np.rint(source), source):
        scale, offset = 1.0, low - _LOW
    else:
        scale = (high - low) / (_HIGH - _LOW)
        offset = low - _LOW * scale
    np.copyto(target, np.clip(np.rint((source - np.float64(offset)) / scale), _LOW, _HIGH), casting="unsafe")
    return scale, offset
