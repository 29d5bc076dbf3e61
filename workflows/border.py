"""The picture of the README: a border in a simulated scan, its label, and how far two soft labels smooth it.

Usage: python workflows/border.py [PICTURE]      (default: docs/border.png)

The scan is that of the demo, on a grid of 1 mm. A Gaussian smooths a border by the same width everywhere; the preset
border smooths it where the image does not show it, and leaves it sharp where it does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import demo
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from geols_precompute import MapParameters, Recipe, compute_maps, soft_label

ALPHA = 0.85
SPACING_MM = 1.0
#: The part of the scan that is shown (z,y,x), and its slice.
PART = (slice(60, 84), slice(40, 104), slice(20, 84))
SLICE = 12
#: The Gaussian's, such that it gives away as much probability in all as the preset does.
WIDTHS_MM = np.arange(0.4, 2.5, 0.05)


def main(path: Path) -> None:
    image_ZYX, label_ZYX = scan()
    maps = compute_maps(
        image_ZYX,
        label_ZYX,
        (SPACING_MM,) * 3,
        classes=dict(enumerate(demo.CLASSES)),
        recipe=Recipe(maps=MapParameters().changed(preset="border")),
    )
    border = soft_label(label_ZYX, maps.class_maps(), n_classes=3, alpha=ALPHA)
    given = given_away(border, label_ZYX)
    gaussians = (
        soft_label(label_ZYX, method="gauss", n_classes=3, spacing=(SPACING_MM,) * 3, width=float(w)) for w in WIDTHS_MM
    )
    gaussian = min(gaussians, key=lambda soft: abs(given_away(soft, label_ZYX).mean() - given.mean()))
    draw(image_ZYX, label_ZYX, given_away(gaussian, label_ZYX), given, path)


def scan() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Return a part of a simulated scan [z,y,x] and its label, class indices."""
    demo.SPACING_MM = SPACING_MM
    template = [demo.read_template(name) for name in ("t1", "gm", "wm")]
    image, label = demo.simulate_scan(template, np.random.default_rng(0))
    part = sitk.GetArrayFromImage(image)[PART].astype(np.float32)
    return part, sitk.GetArrayFromImage(label)[PART].astype(np.int32)


def given_away(soft_CZYX: npt.NDArray[np.float32], label_ZYX: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Return the probability [z,y,x] that a soft label gives to other classes than the label's."""
    return 1 - np.take_along_axis(soft_CZYX, label_ZYX[np.newaxis], axis=0)[0]


def draw(
    image_ZYX: npt.NDArray[np.float32],
    label_ZYX: npt.NDArray[np.int32],
    gaussian_ZYX: npt.NDArray[np.float32],
    border_ZYX: npt.NDArray[np.float32],
    path: Path,
) -> None:
    """Draw one slice of all four."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.9), layout="constrained")
    colours = mpl.colors.ListedColormap(["black", "#0072B2", "#F0E442"])
    axes[0].imshow(image_ZYX[SLICE, ::-1], cmap="gray")
    axes[0].set_title("image (simulated)")
    axes[1].imshow(label_ZYX[SLICE, ::-1], cmap=colours, vmin=0, vmax=2)
    axes[1].set_title("label")
    for axis, shown, title in ((axes[2], gaussian_ZYX, "Gaussian"), (axes[3], border_ZYX, "GeoLS, preset border")):
        drawn = axis.imshow(shown[SLICE, ::-1], cmap="magma", vmin=0, vmax=0.6)
        axis.set_title(title)
    figure.colorbar(drawn, ax=axes[3], label="probability given to other classes")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/border.png"))
