"""Small data sets on disk, and the folder of real volumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

REAL_DATA = Path(os.environ.get("GEOLS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    def folder(name: str) -> Path:
        if not (path := REAL_DATA / name).exists():
            pytest.skip(f"no real volumes at {path}; set GEOLS_TEST_DATA")
        return path

    return folder


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


@pytest.fixture
def nnunet(tmp_path) -> Callable[..., Path]:
    """Make an nnU-Net data set: nnunet(cases=3, modalities=1, classes=2, ...) -> its folder."""

    def make(
        name="data", *, cases=3, modalities=1, classes=2, shape=(12, 14, 16), spacing=(1.0, 1.5, 2.0), ending=".nii.gz"
    ) -> Path:
        root = tmp_path / name
        for number in range(cases):
            image, label = ball_case(number, shape, modalities, classes)
            for channel in range(modalities):
                path = root / "imagesTr" / f"case_{number:02d}_{channel:04d}{ending}"
                write(image[channel].astype(np.int16), path, spacing=spacing)
            write(label, root / "labelsTr" / f"case_{number:02d}{ending}", spacing=spacing)
        description = {
            "channel_names": {str(c): f"m{c}" for c in range(modalities)},
            "labels": {"background": 0} | {f"organ{v}": v for v in range(1, classes + 1)},
            "numTraining": cases,
            "file_ending": ending,
            "licence": "CC-BY 4.0",
        }
        (root / "dataset.json").write_text(json.dumps(description))
        return root

    return make
