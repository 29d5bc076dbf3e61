"""Data sets in which raters are drawn from a model that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from commands import precompute
from datasets import write
from scipy import ndimage

SIZE = 22


def _shape(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The radius of every voxel of an uneven ball, and how far it lies to one side of it, from -1 to 1."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.normal(size=(SIZE,) * 3), 4)
    grid = np.indices((SIZE,) * 3) - (SIZE - 1) / 2 + rng.uniform(-1, 1, 3)[:, None, None, None]
    distance = np.sqrt((grid**2).sum(axis=0))
    side = rng.normal(size=3)
    towards = np.tensordot(side / np.linalg.norm(side), grid, axes=1) / np.maximum(distance, 1e-6)
    return distance + 2 * rough / np.abs(rough).max(), towards


def lesion_of(seed: int) -> np.ndarray:
    """A lesion [z,y,x] of about 6 mm radius."""
    return _shape(seed)[0] < 6


def bulge_of(seed: int) -> np.ndarray:
    """Tissue as bright as the lesion, on one side of it."""
    radius, towards = _shape(seed)
    return (radius >= 6) & (radius < 6 + 2.5 * (towards > 0.2))


def image_of(seed: int) -> np.ndarray:
    """Bright tissue in dark tissue, 100 apart, with noise of 8."""
    noise = np.random.default_rng(seed + 1000).normal(0, 8, (SIZE,) * 3)
    return np.rint(100 * (lesion_of(seed) | bulge_of(seed)) + noise).astype(np.int16)


def write_raters(root: Path, draw, *, cases: int = 16, raters: int = 10) -> Path:
    """Write CASE/image and CASE/annotation_K: the first is the label, the others are drawn; patients have two cases.

    Args:
        root: folder.
        draw: of (label, seed, number of raters) gives so many label maps.
        cases: how many.
        raters: the first included.
    """
    listed = []
    for number in range(cases):
        label, case = lesion_of(number), f"case{number:02d}"
        write(image_of(number), root / case / "image.nii.gz")
        for rater, mask in enumerate([label, *draw(label, number, raters - 1)], start=1):
            write(np.asarray(mask, np.uint8), root / case / f"annotation_{rater}.nii.gz")
        listed.append({"case": case, "patient": f"p{number // 2}"})
    (root / "patients.json").write_text(json.dumps(listed))
    return root


def rated_stores(root: Path, *flags: str, name: str = "labels") -> Path:
    """Compute the stores of such a data set, rater 1 softened and all kept; return their folder."""
    done = precompute(root, "--classes", "1=lesion", "--rater", "1", "--keep-raters", "--name", name, *flags)
    assert done.exit_code == 0, done.output
    return root / "geols"
