"""Soft labels in NumPy. `geols_train.targets` has those of GeoLS, label smoothing and SVLS in torch, too.

Shapes: C classes (background first), K stored channels, R raters, then z,y,x.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from geols_precompute.errors import InputError, MissingExtraError

Normalize = Literal["sum", "none"]
MethodName = Literal[
    "geols", "ce", "ls", "fl", "svls", "gauss", "sdf", "dilate", "bls", "nuls", "nacl", "mbls", "raters"
]
#: The methods that have a width, and the one they take if none is given: mm, but classes for nuls.
WIDTHS: Mapping[MethodName, float] = {"gauss": 1.0, "sdf": 1.0, "dilate": 1.0, "bls": 1.0, "nuls": 0.5}
#: How many widths away a voxel can be that changes a soft label.
_REACH: Mapping[MethodName, float] = {"gauss": 4.0, "sdf": 16.0, "dilate": 1.0, "bls": 1.0}
#: A distance that equals a width but for its last bits is within it.
_WITHIN = 1 + 1e-6


def soft_label(
    label: NDArray[np.integer],
    maps: Float32Array | None = None,
    *,
    method: MethodName = "geols",
    n_classes: int | None = None,
    alpha: float = 0.1,
    normalize: Normalize = "sum",
    spacing: Sequence[float] | None = None,
    width: float | None = None,
) -> Float32Array:
    """Return what a method trains on, [c,z,y,x] float32; ignored voxels are zero.

    - geols: (1-α)·onehot + α·g̃ (GeoLS eq. 6). Where every map is zero it is the one-hot label.
    - ls: (1-α)·onehot + α/C (Szegedy et al. 2016).
    - svls: the one-hot label convolved with `svls_kernel`, edges replicated (Islam and Glocker 2021).
    - gauss: the one-hot label convolved with a Gaussian of σ = width mm, edges replicated.
    - sdf: 1 / (1 + exp(-d / width)) of each class's signed Euclidean distance d in mm, divided by its sum. d is the
      distance to the nearest voxel of the other side; beyond 16 widths the value is 0 or 1.
    - dilate: a background voxel at most width mm from a foreground class gives it α, several classes an equal part of
      α; other voxels are one-hot (Kats et al. 2019).
    - bls: ls at voxels at most width mm from a voxel of another class; other voxels are one-hot.
    - nuls: of class c, exp(-(k - c)² / (2 width²)) for class k, divided by its sum: for classes that are ordered by
      index (Galdran et al. 2020).
    - raters: the mean of several raters' one-hot labels, which is given as `maps`; see `mean_of_raters`.
    - ce, fl, nacl, mbls: the one-hot label.

    Distances are between centres of voxels. Ignored voxels are of no class: they are no border, and beside them the
    sum over classes is brought back to 1.

    Args:
        label: class indices [z,y,x]; an index beyond the classes, such as 255, is an ignored voxel.
        maps: of geols: g of every class [c,z,y,x], as `class_maps` gives it; of raters: their mean.
        method: of the training.
        n_classes: background included; the number of maps if there are any.
        alpha: of ls, geols, dilate and bls: share of the smooth part, in [0, 1].
        normalize: of geols: sum for g̃ = g / Σ_c g (the paper), none for g̃ = g (the published code).
        spacing: of gauss, sdf, dilate and bls: (z,y,x) in mm.
        width: of gauss, sdf, dilate and bls in mm, of nuls in classes; by default what `WIDTHS` has.

    Raises:
        InputError: an unknown method, a value out of range, maps that do not fit the label, or no maps or no spacing
            for a method that needs them.
        MissingExtraError: SciPy is not installed, and the method has a width in mm.

    Example:
        >>> label = np.array([[[0, 1]]])
        >>> maps = np.array([[[[0.75, 0.25]]], [[[0.25, 0.75]]]], np.float32)
        >>> soft_label(label, maps, alpha=0.2)[1].round(2)
        array([[[0.05, 0.95]]], dtype=float32)
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha}")
    if method not in get_args(MethodName):
        raise InputError(f"method must be one of {', '.join(get_args(MethodName))}, got {method!r}")
    if method in ("geols", "raters") and maps is None:
        raise InputError(f"method {method} needs the maps of every class")
    if maps is not None and maps.shape[1:] != label.shape:
        raise InputError(f"maps of shape {maps.shape[1:]} do not fit a label of shape {label.shape}")
    if n_classes is None:
        if maps is None:
            raise InputError("n_classes is needed where there are no maps")
        n_classes = len(maps)
    if maps is not None and len(maps) != n_classes:
        raise InputError(f"{len(maps)} maps do not fit {n_classes} classes")
    hard = one_hot(label, n_classes)
    if method in WIDTHS:
        return _of_width(label, hard, method, alpha, WIDTHS[method] if width is None else width, spacing)
    if method == "geols":
        assert maps is not None
        return _geols(hard, maps, alpha, normalize)
    if method == "raters":
        assert maps is not None
        return maps * hard.sum(axis=0)
    if method == "ls":
        return _label_smoothing(hard, alpha)
    return _svls(hard) if method == "svls" else hard


def reach(method: MethodName, spacing: Sequence[float], width: float) -> tuple[int, ...]:
    """Return how many voxels away, along z, y and x, another voxel can be that changes a soft label with a width."""
    return tuple(math.floor(_REACH.get(method, 0) * width / s * _WITHIN + 1) for s in spacing)


def mean_of_raters(labels: Sequence[NDArray[np.integer]], n_classes: int) -> Float32Array:
    """Return the mean of the one-hot labels of raters, each class indices [z,y,x]: [c,z,y,x] float32.

    A rater's ignored voxels are left out of the mean; where all ignore a voxel it is zero.
    """
    total = np.zeros((n_classes, *labels[0].shape), np.float32)
    for label in labels:
        total += one_hot(label, n_classes)
    return total / total.sum(axis=0).clip(min=1)


def one_hot(label: NDArray[np.integer], n_classes: int) -> Float32Array:
    """Return the one-hot label [c,z,y,x] of class indices [z,y,x]; indices beyond `n_classes` (ignore) give zeros."""
    classes = np.arange(n_classes, dtype=label.dtype).reshape(-1, *(1 for _ in label.shape))
    return (label[np.newaxis] == classes).astype(np.float32)


def class_maps(stored: UInt8Array, *, channels: Sequence[int], present: Sequence[int], n_classes: int) -> Float32Array:
    """Return the geodesic maps g of all classes, [c,z,y,x] float32, from what a store holds.

    A background that is not stored is 1 - mean of the maps of the present foreground classes, 1 where none is.

    Args:
        stored: g·255, [k,z,y,x].
        channels: the class index of each stored channel.
        present: the class indices that the whole volume has.
        n_classes: background included.
    """
    maps = np.zeros((n_classes, *stored.shape[1:]), np.float32)
    for channel, index in zip(stored, channels, strict=True):
        if index in present:
            maps[index] = channel / np.float32(255)
    if 0 not in channels:
        foreground = [index for index in present if index != 0]
        maps[0] = 1 - maps[foreground].mean(axis=0) if foreground else 1
    return maps


def svls_kernel() -> Float32Array:
    """Return the 3×3×3 Gaussian (σ = 1) whose centre equals the sum of the other 26 weights, rescaled to sum 1."""
    square = np.arange(-1, 2) ** 2
    kernel = np.exp(-(square[:, None, None] + square[None, :, None] + square[None, None, :]) / 2)
    kernel[1, 1, 1] = kernel.sum() - kernel[1, 1, 1]
    return (kernel / kernel.sum()).astype(np.float32)


def _geols(hard: Float32Array, maps: Float32Array, alpha: float, normalize: Normalize) -> Float32Array:
    total = maps.sum(axis=0)
    empty = total == 0
    smooth = maps / np.where(empty, np.float32(1), total) if normalize == "sum" else maps
    soft = np.float32(1 - alpha) * hard + np.float32(alpha) * smooth
    return np.where(empty, hard, soft) * hard.sum(axis=0)


def _label_smoothing(hard: Float32Array, alpha: float) -> Float32Array:
    return np.float32(1 - alpha) * hard + np.float32(alpha / len(hard)) * hard.sum(axis=0)


def _svls(hard_CZYX: Float32Array) -> Float32Array:
    """Convolve; beside ignored voxels the sum over classes is brought back to 1, and ignored voxels are zero."""
    padded = np.pad(hard_CZYX, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
    soft_CZYX = np.zeros_like(hard_CZYX)
    _, Z, Y, X = hard_CZYX.shape
    kernel = svls_kernel()
    for dz, dy, dx in itertools.product(range(3), repeat=3):
        soft_CZYX += kernel[dz, dy, dx] * padded[:, dz : dz + Z, dy : dy + Y, dx : dx + X]
    return _shared(soft_CZYX, hard_CZYX)


# --- with a width -----------------------------------------------------------------------------------------------------


def _of_width(
    label: NDArray[np.integer],
    hard: Float32Array,
    method: MethodName,
    alpha: float,
    width: float,
    spacing: Sequence[float] | None,
) -> Float32Array:
    if not 0 < width < math.inf:
        raise InputError(f"width must be a positive number, got {width}")
    if method == "nuls":
        return _over_classes(label, hard, width)
    if spacing is None or len(spacing) != label.ndim or not all(0 < s < math.inf for s in spacing):
        raise InputError(f"method {method} is measured in mm: it needs the spacing (z,y,x), got {spacing}")
    if method == "gauss":
        return _gaussian(hard, spacing, width)
    if method == "sdf":
        return _signed_distance(hard, spacing, width)
    return (_dilated if method == "dilate" else _smoothed_border)(hard, spacing, width, alpha)


def _over_classes(label: NDArray[np.integer], hard: Float32Array, width: float) -> Float32Array:
    """Give each voxel the row of its class."""
    classes = np.arange(len(hard))
    rows = np.exp(-0.5 * ((classes - classes[:, None]) / width) ** 2)
    rows = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    counted = hard.sum(axis=0)
    return np.moveaxis(rows[np.where(counted > 0, label, 0)], -1, 0) * counted


def _gaussian(hard: Float32Array, spacing: Sequence[float], width: float) -> Float32Array:
    gaussian_filter = _ndimage().gaussian_filter
    sigmas = [width / s for s in spacing]
    reach = _REACH["gauss"]
    return _shared(np.stack([gaussian_filter(c, sigmas, mode="nearest", truncate=reach) for c in hard]), hard)


def _signed_distance(hard: Float32Array, spacing: Sequence[float], width: float) -> Float32Array:
    soft = np.zeros_like(hard)
    for inside, outside, channel in zip(_distances(hard, spacing), _distances_to(hard, spacing), soft, strict=True):
        d = (inside - outside) / width
        channel[...] = np.where(np.abs(d) > _REACH["sdf"], d > 0, 1 / (1 + np.exp(-d.clip(-80, 80))))
    return _shared(soft, hard)


def _dilated(hard: Float32Array, spacing: Sequence[float], width: float, alpha: float) -> Float32Array:
    near = np.stack([distance <= width * _WITHIN for distance in _distances_to(hard[1:], spacing)])
    count = near.sum(axis=0, dtype=np.float32) * (hard[0] > 0)
    share = np.float32(alpha) / count.clip(min=1)
    soft = hard.copy()
    soft[0] -= np.float32(alpha) * (count > 0)
    soft[1:] += near * share * (count > 0)
    return soft


def _smoothed_border(hard: Float32Array, spacing: Sequence[float], width: float, alpha: float) -> Float32Array:
    near: BoolArray = np.zeros(hard.shape[1:], bool)
    for channel, distance in zip(hard, _distances(hard, spacing), strict=True):
        near |= (channel > 0) & (distance <= width * _WITHIN)
    return np.where(near, _label_smoothing(hard, alpha), hard)


def _distances(hard: Float32Array, spacing: Sequence[float]) -> Iterator[Float64Array]:
    """Yield, of each class, how far in mm each of its voxels is from the nearest of another; infinite if none is."""
    others = hard.sum(axis=0)
    for channel in hard:
        yield np.where(channel > 0, _nearest((others > 0) & (channel == 0), spacing), 0)


def _distances_to(hard: Float32Array, spacing: Sequence[float]) -> Iterator[Float64Array]:
    """Yield, of each class, how far in mm each voxel is from the nearest of it, 0 inside; infinite if there is none."""
    for channel in hard:
        yield _nearest(channel > 0, spacing)


def _nearest(mask: BoolArray, spacing: Sequence[float]) -> Float64Array:
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance: Float64Array = _ndimage().distance_transform_edt(~mask, sampling=spacing)
    return distance


def _ndimage() -> ModuleType:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingExtraError("scipy", "precompute") from error
    return ndimage


def _shared(soft: Float32Array, hard: Float32Array) -> Float32Array:
    """Bring the sum over classes back to 1, which the neighbourhood of ignored voxels lacks; those are zero."""
    total = soft.sum(axis=0)
    return soft * (hard.sum(axis=0) / np.where(total > 0, total, 1))
