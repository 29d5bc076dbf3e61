"""The arrays that the distance transform accepts: each check returns its argument in the form that the engines take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import BoolArray, Float32Array
from geols_precompute.errors import InputError
from geols_precompute.geodesic.options import is_finite_number

#: Squares of γ times a difference, and sums along a path, stay inside float32; see also MAX_GAMMA.
MAX_INTENSITY = 1e12
SPACING_LIMITS_MM = (1e-6, 1e6)


def checked_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    """Three positive side lengths (z,y,x) in mm."""
    sides = np.asarray(spacing, object).ravel().tolist()
    low, high = SPACING_LIMITS_MM
    if len(sides) != 3 or not all(is_finite_number(side) and low <= side <= high for side in sides):
        raise InputError(f"spacing is {spacing!r}; it must be three finite numbers (z,y,x) from {low:g} to {high:g} mm")
    return float(sides[0]), float(sides[1]), float(sides[2])


def checked_image(image: Float32Array) -> Float32Array:
    """Return image [channel,z,y,x], C-contiguous and read-only."""
    _check_array("image", image, np.dtype(np.float32))
    if image.ndim not in (3, 4):
        raise InputError(f"image has shape {image.shape}; it must be [z,y,x] or [modality,z,y,x]")
    if image.size == 0:
        raise InputError(f"image has shape {image.shape}; no side may be empty")
    # two reductions without a temporary array; NaN passes through both
    lowest, highest = float(image.min()), float(image.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        count = image.size - np.count_nonzero(np.isfinite(image))
        raise InputError(f"image has {count} voxels that are NaN or infinite; all must be finite")
    if max(-lowest, highest) > MAX_INTENSITY:
        raise InputError(
            f"image has intensities from {lowest:g} to {highest:g}; they must lie within ±{MAX_INTENSITY:g}"
        )
    return _read_only(image if image.ndim == 4 else image[np.newaxis])


def checked_seeds(seeds: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """Return seeds [class,z,y,x], C-contiguous and read-only."""
    _check_array("seeds", seeds, np.dtype(np.bool_))
    if seeds.ndim != 4 or seeds.shape[1:] != shape:
        raise InputError(f"seeds have shape {seeds.shape}; they must be [class,z,y,x] over the image's {shape}")
    empty = np.flatnonzero(~seeds.any(axis=(1, 2, 3))).tolist()
    if empty:
        raise InputError(f"seeds of class {', '.join(map(str, empty))} are empty; every class needs at least one seed")
    return _read_only(seeds)


def checked_out(out: Float32Array | None, shape: tuple[int, ...], image: Float32Array) -> Float32Array:
    """Return the array for the distances, new unless the caller brings one."""
    if out is None:
        return np.empty(shape, np.float32)
    _check_array("out", out, np.dtype(np.float32))
    if out.shape != shape:
        raise InputError(f"out has shape {out.shape}; it must have the seeds' {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InputError("out is not C-contiguous or not writeable; it must be both")
    if np.may_share_memory(out, image):
        raise InputError("out shares memory with image; it must be an array of its own")
    return out


def _check_array(what: str, array: object, dtype: np.dtype[Any]) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(f"{what} is a {type(array).__name__}; it must be a NumPy array of {dtype}")
    if array.dtype != dtype:
        raise InputError(f"{what} has dtype {array.dtype}; it must be {dtype}")


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous view; numba would compile anew for another layout, or where some arrays are writeable."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
