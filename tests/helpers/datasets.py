"""Small labelled volumes, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write(array, path: Path, *, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=None) -> Path:
    """Write [z,y,x] with x,y,z geometry."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)
    return path


def ball_case(seed: int, shape=(12, 14, 16), modalities: int = 1, classes: int = 2):
    """An image [modality,z,y,x] of noise over `classes` bright balls, and its label [z,y,x]."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    label = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        centre = [rng.uniform(0.3, 0.7) * n for n in shape]
        radius = 0.22 * min(shape)
        label[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2] = value
    for value in range(1, classes + 1):
        if not (label == value).any():
            label[tuple(rng.integers(0, n) for n in shape)] = value
    image = np.stack([100 * label * (m + 1) + rng.normal(0, 20, shape) for m in range(modalities)])
    return np.rint(image).astype(np.float32), label
