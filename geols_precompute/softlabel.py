"""Soft labels in NumPy: one-hot, label smoothing, SVLS and GeoLS. `geols_train.targets` is the same in torch.

Shapes: C classes (background first), K stored channels, then z,y,x.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import Float32Array, UInt8Array
from geols_precompute.errors import InputError

Normalize = Literal["sum", "none"]
MethodName = Literal["geols", "ce", "ls", "fl", "svls"]


def soft_label(
    label: NDArray[np.integer],
    maps: Float32Array | None = None,
    *,
    method: MethodName = "geols",
    n_classes: int | None = None,
    alpha: float = 0.1,
    normalize: Normalize = "sum",
) -> Float32Array:
    """Return what a method trains on, [c,z,y,x] float32; ignored voxels are zero.

    - geols: (1-α)·onehot + α·g̃ (GeoLS eq. 6). Where every map is zero it is the one-hot label.
    - ls: (1-α)·onehot + α/C (Szegedy et al. 2016).
    - svls: the one-hot label convolved with `svls_kernel`, edges replicated (Islam and Glocker 2021).
    - ce, fl: the one-hot label.

    Args:
        label: class indices [z,y,x]; an index beyond the classes, such as 255, is an ignored voxel.
        maps: geols only: g of every class [c,z,y,x], as `class_maps` gives it.
        method: of the training.
        n_classes: background included; the number of maps if there are any.
        alpha: of ls and geols: share of the smooth part, in [0, 1].
        normalize: of geols: sum for g̃ = g / Σ_c g (the paper), none for g̃ = g (the published code).

    Raises:
        InputError: an unknown method, α outside [0, 1], maps that do not fit the label, or geols without maps.

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
    if method == "geols" and maps is None:
        raise InputError("method geols needs the maps of every class")
    if maps is not None and maps.shape[1:] != label.shape:
        raise InputError(f"maps of shape {maps.shape[1:]} do not fit a label of shape {label.shape}")
    if n_classes is None:
        if maps is None:
            raise InputError("n_classes is needed where there are no maps")
        n_classes = len(maps)
    if maps is not None and len(maps) != n_classes:
        raise InputError(f"{len(maps)} maps do not fit {n_classes} classes")
    hard = one_hot(label, n_classes)
    if method == "geols":
        assert maps is not None
        return _geols(hard, maps, alpha, normalize)
    if method == "ls":
        return np.float32(1 - alpha) * hard + np.float32(alpha / n_classes) * hard.sum(axis=0)
    return _svls(hard) if method == "svls" else hard


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


def _svls(hard_CZYX: Float32Array) -> Float32Array:
    """Convolve; beside ignored voxels the sum over classes is brought back to 1, and ignored voxels are zero."""
    padded = np.pad(hard_CZYX, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
    soft_CZYX = np.zeros_like(hard_CZYX)
    _, Z, Y, X = hard_CZYX.shape
    kernel = svls_kernel()
    for dz, dy, dx in itertools.product(range(3), repeat=3):
        soft_CZYX += kernel[dz, dy, dx] * padded[:, dz : dz + Z, dy : dy + Y, dx : dx + X]
    total_ZYX = soft_CZYX.sum(axis=0)
    labelled_ZYX = hard_CZYX.sum(axis=0)
    return soft_CZYX * (labelled_ZYX / np.where(total_ZYX > 0, total_ZYX, 1))
