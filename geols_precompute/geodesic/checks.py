"""What the distance transform accepts: each check returns its argument in the one form that the engines take."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geols_precompute.errors import InputError

METRICS = ("gradient", "riemannian")
ENGINES = ("numba", "geodistk")
# squares of γ times a difference, and sums along a path, stay inside float32
LARGEST_INTENSITY = 1e12
LARGEST_GAMMA = 1e6
LARGEST_COUNT = 2**31 - 1
SPACING_LIMITS_MM = (1e-6, 1e6)


def check_options(metric: Any, lam: Any, gamma: Any, iterations: Any, engine: Any) -> None:
    """Refuse unknown names, numbers out of range, and what an engine cannot do."""
    _check_name("metric", metric, METRICS)
    _check_name("engine", engine, ENGINES)
    if not (_is_real(lam) and 0 <= lam <= 1):
        raise InputError(f"lam is {lam!r}; it must be a number from 0 to 1")
    if not (_is_real(gamma) and 0 <= gamma <= LARGEST_GAMMA):
        raise InputError(f"gamma is {gamma!r}; it must be a number from 0 to {LARGEST_GAMMA:g}")
    is_count = isinstance(iterations, numbers.Integral) and not isinstance(iterations, bool)
    if not (0 < iterations <= LARGEST_COUNT if is_count else isinstance(iterations, str) and iterations == "exact"):
        raise InputError(
            f'iterations is {iterations!r}; it must be a positive whole number (at most {LARGEST_COUNT}) or "exact"'
        )
    if engine == "geodistk" and metric != "gradient":
        raise InputError(f'engine geodistk knows the gradient metric only, not {metric!r}; use engine="numba"')
    if engine == "geodistk" and not is_count:
        raise InputError(f'engine geodistk takes a count of iterations, not {iterations!r}; use engine="numba"')


def _check_name(what: str, name: object, allowed: Sequence[str]) -> None:
    if name not in allowed:
        raise InputError(f"{what} is {name!r}; it must be one of {', '.join(allowed)}")


def _is_real(number: Any) -> bool:
    return not isinstance(number, bool) and isinstance(number, numbers.Real) and math.isfinite(number)


def checked_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    """Three positive side lengths (z,y,x) in mm."""
    sides = np.asarray(spacing, object).ravel().tolist()
    low, high = SPACING_LIMITS_MM
    if len(sides) != 3 or not all(_is_real(side) and low <= side <= high for side in sides):
        raise InputError(f"spacing is {spacing!r}; it must be three finite numbers (z,y,x) from {low:g} to {high:g} mm")
    return float(sides[0]), float(sides[1]), float(sides[2])


def checked_image(image: NDArray[np.float32]) -> NDArray[np.float32]:
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
    if max(-lowest, highest) > LARGEST_INTENSITY:
        raise InputError(
            f"image has intensities from {lowest:g} to {highest:g}; they must lie within ±{LARGEST_INTENSITY:g}"
        )
    return _read_only(image if image.ndim == 4 else image[np.newaxis])


def checked_seeds(seeds: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return seeds [class,z,y,x], C-contiguous and read-only."""
    _check_array("seeds", seeds, np.dtype(np.bool_))
    if seeds.ndim != 4 or seeds.shape[1:] != shape:
        raise InputError(f"seeds have shape {seeds.shape}; they must be [class,z,y,x] over the image's {shape}")
    empty = np.flatnonzero(~seeds.any(axis=(1, 2, 3))).tolist()
    if empty:
        raise InputError(f"seeds of class {', '.join(map(str, empty))} are empty; every class needs at least one seed")
    return _read_only(seeds)


def checked_out(
    out: NDArray[np.float32] | None, shape: tuple[int, ...], image: NDArray[np.float32]
) -> NDArray[np.float32]:
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
