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


def series(folder, array, *, uid="1.2.3", step=2.0, tilt=0.0, name="s", first=0, spacing=(0.8, 0.9)):
    """Write [z,y,x] as a DICOM series, a file per slice, in an order that is not that of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array.astype(np.int16))
    volume.SetSpacing((*spacing, step))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(len(array)):
        piece = volume[:, :, z]
        place = f"1.5\\{tilt * z}\\{step * (first + z) - 7}"
        for tag, value in (
            ("0008|0060", "CT"),
            ("0020|000e", uid),
            ("0020|000d", "1.2"),
            ("0008|0018", f"{uid}.{first + z + 1}"),
            ("0020|0032", place),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0020|0013", str(z + 1)),
        ):
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{name}{(z * 7) % 97:03d}.dcm"))
        writer.Execute(piece)
    return folder
