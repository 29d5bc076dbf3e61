"""Soft labels that need no store: what GeoLS has to be better than."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geols_precompute.arrays import Float32Array
from geols_precompute.softlabel import one_hot, soft_label

#: Of a label map [z,y,x] of class indices, its spacing (z,y,x) in mm and the number of classes: [class,z,y,x].
Rival = Callable[[NDArray[np.integer], Sequence[float], int], Float32Array]


def gaussian(
    label: NDArray[np.integer], spacing: Sequence[float], n_classes: int, *, sigma_mm: float = 1.0
) -> Float32Array:
    """Return the one-hot label convolved with a Gaussian in mm, edges replicated, [class,z,y,x].

    Ignored voxels are zero; beside them the sum over classes is brought back to 1.
    """
    hard = one_hot(label, n_classes)
    sigmas = [sigma_mm / s for s in spacing]
    soft = np.stack([ndimage.gaussian_filter(channel, sigmas, mode="nearest") for channel in hard])
    return _shared(soft, hard)


def signed_distance(
    label: NDArray[np.integer], spacing: Sequence[float], n_classes: int, *, scale_mm: float = 1.0
) -> Float32Array:
    """Return 1 / (1 + exp(-d / scale)) of each class's signed Euclidean distance d in mm, divided by its sum.

    d is the distance to the nearest voxel of the other side, so that one beside the border has at least a spacing.
    """
    hard = one_hot(label, n_classes)
    soft = np.zeros_like(hard)
    for mask, channel in zip(hard > 0, soft, strict=True):
        if mask.all():
            channel[...] = 1
        elif mask.any():
            inside = ndimage.distance_transform_edt(mask, sampling=spacing)
            outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
            channel[...] = 1 / (1 + np.exp(((outside - inside) / scale_mm).clip(-80, 80)))
    return _shared(soft, hard)


def rivals(sigmas_mm: Sequence[float] = (1.0,)) -> Mapping[str, Rival]:
    """Return the rivals by name: the one-hot label, LS and SVLS of the paper, Gaussians and a signed distance in mm."""
    return {
        "hard": lambda label, spacing, n: one_hot(label, n),
        "LS": lambda label, spacing, n: soft_label(label, method="ls", n_classes=n),
        "SVLS": lambda label, spacing, n: soft_label(label, method="svls", n_classes=n),
        **{f"Gaussian {sigma:g} mm": partial(gaussian, sigma_mm=sigma) for sigma in sigmas_mm},
        "signed distance": signed_distance,
    }


def _shared(soft: Float32Array, hard: Float32Array) -> Float32Array:
    total = soft.sum(axis=0)
    return soft * (hard.sum(axis=0) / np.where(total > 0, total, 1))
