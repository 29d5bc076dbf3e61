"""The two volumes that the benchmarks measure on, made from the folder of real data in GEOLS_TEST_DATA."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

DATA = Path(os.environ.get("GEOLS_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A volume: images [modality,z,y,x], labels [z,y,x] with classes 1 to `classes`, spacing (z,y,x) in mm."""

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    classes: int
    spacing: tuple[float, float, float]

    @cached_property
    def seeds(self) -> NDArray[np.bool_]:
        """Skeletons [class,z,y,x]."""
        return np.stack([skeletonize(self.labels == value).astype(bool) for value in range(1, self.classes + 1)])


def load_ct(data: Path, quick: bool) -> Case:
    """The CT `flare/ct_001` upsampled to 112×160×208 with noise; 4 classes, one image."""
    shape = (40, 56, 72) if quick else (112, 160, 208)
    folder = data / "flare" / "ct_001"
    image, labels = _read(_only_file(folder, "*img*")), _read(_only_file(folder, "*seg*"))
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    finer = ndimage.zoom(image.astype(np.float32), factors, order=1)
    low, high = np.percentile(finer, [0.5, 99.5])
    noise = np.random.default_rng(0).normal(0, 12, shape)  # HU; upsampling has smoothed the scanner's own away
    images = np.rint(np.clip(finer + noise, low, high)).astype(np.float32)[np.newaxis]
    labels = ndimage.zoom(labels, factors, order=0).astype(np.uint8)
    return Case(name="CT, 4 classes", images=images, labels=labels, classes=4, spacing=(2.5, 2.0, 2.0))


def load_mr(data: Path, quick: bool) -> Case:
    """The exam `brats/BraTS-GLI-00001-000` cropped to 128×192×192: 4 modalities × 3 classes = 12 transforms."""
    shape = (40, 56, 72) if quick else (128, 192, 192)
    folder = data / "brats" / "BraTS-GLI-00001-000"
    volumes = {name: _read(_only_file(folder, f"*_{name}.nii*")) for name in ("flair", "t1", "t1ce", "t2", "seg")}
    labels = volumes.pop("seg")
    centre = [int(place) for place in ndimage.center_of_mass(labels > 0)] if quick else [n // 2 for n in labels.shape]
    starts = [min(max(0, c - n // 2), m - n) for c, n, m in zip(centre, shape, labels.shape, strict=True)]
    window = tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))
    images = np.stack([volume[window].astype(np.float32) for volume in volumes.values()])
    labels = labels[window].astype(np.uint8)
    return Case(name="MR, 4 modalities × 3 classes", images=images, labels=labels, classes=3, spacing=(1.0, 1.0, 1.0))


def _read(path: Path) -> NDArray[Any]:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _only_file(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path
