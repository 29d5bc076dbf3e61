"""Soft labels in NumPy: one-hot, label smoothing, SVLS and GeoLS, mixed by α. Pictures and exports are made here.

Shapes: C classes (background first), K stored channels, then z,y,x.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geols_precompute.errors import InputError

Float32Array = npt.NDArray[np.float32]
Normalize = Literal["sum", "none"]
Method = Literal["geols", "ce", "ls", "fl", "svls"]


def soft_label(
    method: Method,
    label_ZYX: npt.NDArray[Any],
    *,
    n_classes: int,
    alpha: float = 0.1,
    normalize: Normalize = "sum",
    maps_CZYX: Float32Array | None = None,
) -> Float32Array:
    """Return what a method trains on, [c,z,y,x] float32; ignored voxels are zero.

    Args:
        method: ce and fl give the one-hot label.
        label_ZYX: class indices.
        n_classes: background included.
        alpha: of ls and geols, in [0, 1].
        normalize: of geols; see `geols`.
        maps_CZYX: geols only: g of every class, as `class_maps` gives it.

    Raises:
        InputError: α outside [0, 1], shapes that do not fit, or geols without maps.
    """
    if method == "ls":
        return label_smoothing(label_ZYX, n_classes, alpha)
    if method == "svls":
        return svls(label_ZYX, n_classes)
    if method == "geols":
        if maps_CZYX is None:
            raise InputError("method geols needs the maps of every class")
        return geols(label_ZYX, maps_CZYX, alpha=alpha, normalize=normalize)
    return one_hot(label_ZYX, n_classes)


def one_hot(label_ZYX: npt.NDArray[Any], n_classes: int) -> Float32Array:
    """Return the one-hot label [c,z,y,x] of class indices [z,y,x]; indices beyond `n_classes` (ignore) give zeros."""
    classes = np.arange(n_classes, dtype=label_ZYX.dtype).reshape(-1, 1, 1, 1)
    return (label_ZYX[np.newaxis] == classes).astype(np.float32)


def label_smoothing(label_ZYX: npt.NDArray[Any], n_classes: int, alpha: float) -> Float32Array:
    """Return (1-α)·onehot + α/C, [c,z,y,x] (Szegedy et al. 2016); ignored voxels stay zero."""
    _require_alpha(alpha)
    hard_CZYX = one_hot(label_ZYX, n_classes)
    return np.float32(1 - alpha) * hard_CZYX + np.float32(alpha / n_classes) * hard_CZYX.sum(axis=0)


def svls(label_ZYX: npt.NDArray[Any], n_classes: int) -> Float32Array:
    """Return spatially varying label smoothing, [c,z,y,x] (Islam and Glocker 2021).

    The one-hot label convolved with `svls_kernel`, edges replicated; beside ignored voxels the sum is brought back
    to 1, and ignored voxels are zero.
    """
    hard_CZYX = one_hot(label_ZYX, n_classes)
    padded = np.pad(hard_CZYX, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
    soft_CZYX = np.zeros_like(hard_CZYX)
    _, Z, Y, X = hard_CZYX.shape
    kernel = svls_kernel()
    for dz, dy, dx in itertools.product(range(3), repeat=3):
        soft_CZYX += kernel[dz, dy, dx] * padded[:, dz : dz + Z, dy : dy + Y, dx : dx + X]
    total_ZYX = soft_CZYX.sum(axis=0)
    labelled_ZYX = hard_CZYX.sum(axis=0)
    return soft_CZYX * (labelled_ZYX / np.where(total_ZYX > 0, total_ZYX, 1))


def svls_kernel() -> Float32Array:
    """Return the 3×3×3 Gaussian (σ = 1) whose centre equals the sum of the other 26 weights, rescaled to sum 1."""
    square = np.arange(-1, 2) ** 2
    kernel = np.exp(-(square[:, None, None] + square[None, :, None] + square[None, None, :]) / 2)
    kernel[1, 1, 1] = kernel.sum() - kernel[1, 1, 1]
    return (kernel / kernel.sum()).astype(np.float32)


def class_maps(
    stored_KZYX: npt.NDArray[np.uint8], *, channels: Sequence[int], present: Sequence[int], n_classes: int
) -> Float32Array:
    """Return the geodesic maps g of all classes, [c,z,y,x] float32, from what a store holds.

    A background that is not stored is 1 - mean of the maps of the present foreground classes, 1 where none is.

    Args:
        stored_KZYX: g·255 as stored.
        channels: the class index of each stored channel.
        present: the class indices that the whole volume has.
        n_classes: background included.
    """
    maps_CZYX = np.zeros((n_classes, *stored_KZYX.shape[1:]), np.float32)
    for stored_ZYX, index in zip(stored_KZYX, channels, strict=True):
        if index in present:
            maps_CZYX[index] = stored_ZYX / np.float32(255)
    if 0 not in channels:
        foreground = [index for index in present if index != 0]
        maps_CZYX[0] = 1 - maps_CZYX[foreground].mean(axis=0) if foreground else 1
    return maps_CZYX


def geols(
    label_ZYX: npt.NDArray[Any], maps_CZYX: Float32Array, *, alpha: float = 0.1, normalize: Normalize = "sum"
) -> Float32Array:
    """Return the GeoLS soft label (1-α)·onehot + α·g̃, [c,z,y,x] float32 (GeoLS eq. 6).

    Where every map is zero the soft label is the one-hot label; ignored voxels are zero.

    Args:
        label_ZYX: class indices.
        maps_CZYX: g of every class, as `class_maps` gives it.
        alpha: share of the geodesic term, in [0, 1].
        normalize: sum for g̃ = g / Σ_c g (the paper), none for g̃ = g (the published code).

    Raises:
        InputError: α outside [0, 1], or shapes that do not fit.
    """
    _require_alpha(alpha)
    if maps_CZYX.shape[1:] != label_ZYX.shape:
        raise InputError(f"maps of shape {maps_CZYX.shape[1:]} do not fit a label of shape {label_ZYX.shape}")
    hard_CZYX = one_hot(label_ZYX, len(maps_CZYX))
    total_ZYX = maps_CZYX.sum(axis=0)
    empty_ZYX = total_ZYX == 0
    smooth_CZYX = maps_CZYX / np.where(empty_ZYX, np.float32(1), total_ZYX) if normalize == "sum" else maps_CZYX
    soft_CZYX = np.float32(1 - alpha) * hard_CZYX + np.float32(alpha) * smooth_CZYX
    return np.where(empty_ZYX, hard_CZYX, soft_CZYX) * hard_CZYX.sum(axis=0)


def _require_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha}")
