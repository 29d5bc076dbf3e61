"""Draw nodules with the contours of all raters, where these disagree, and what soft labels of rater 1 say of it.

    python workflows/raters/picture.py OUT -o nodules.png      # OUT as train.py made it

Drawn are the nodules of the test half at the quartiles of disagreement, so that none was picked by eye.
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from scipy.ndimage import find_objects
from train import SPLIT_SEED, near_raters

from geols_precompute.agreement.cases import RatedCase, from_volumes
from geols_precompute.agreement.patients import halves
from geols_precompute.arrays import Float64Array
from geols_precompute.data.patients import read_patients
from geols_precompute.softlabel import soft_label
from geols_precompute.store.reader import LabelStore, VolumeStore

QUARTILES = (0.25, 0.5, 0.75)
#: Voxels around what the raters drew.
MARGIN = 6
COLOURS = ("#e41a1c", "#377eb8", "#4daf4a", "#ff7f00")


@click.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option("--group", required=True, type=click.Path(exists=True, path_type=Path), help="Case to patient.")
@click.option("-o", "--picture", required=True, type=click.Path(path_type=Path), help="PNG.")
def draw(out: Path, group: Path, picture: Path) -> None:
    """Draw a row per nodule."""
    volumes = VolumeStore.open(out / "volumes.zarr")
    half = halves(read_patients(group, volumes.cases), SPLIT_SEED)
    rated = {case: from_volumes(volumes, case) for case in volumes.cases if half[case] == "test"}
    order = sorted(rated, key=lambda case: (disagreement(rated[case]), case))
    cases = [order[round(q * (len(order) - 1))] for q in QUARTILES]
    figure, axes = plt.subplots(len(cases), 5, figsize=(12, 2.5 * len(cases)), layout="constrained")
    for row, case in zip(axes, cases, strict=True):
        raters_RZYX = np.concatenate([[rated[case].label == 1], rated[case].others == 1])
        z = int(raters_RZYX.sum(axis=(0, 2, 3)).argmax())
        (box,) = find_objects(raters_RZYX[:, z].any(axis=0).astype(int))
        y, x = (slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in box)
        row[0].imshow(volumes.intensities(case)[0, z, y, x], cmap="gray")
        for rater, colour in zip(raters_RZYX, COLOURS, strict=False):
            row[0].contour(rater[z, y, x], levels=[0.5], colors=colour, linewidths=1)
        shown = {"share of raters": raters_RZYX.mean(axis=0), **softened(out, volumes, case)}
        for cell, values in zip(row[1:], shown.values(), strict=True):
            image = cell.imshow(values[z, y, x], cmap="magma", vmin=0, vmax=1)
        for cell, title in zip(row, ("image, raters", *shown), strict=True):
            cell.set_title(title, fontsize=9)
            cell.set_axis_off()
    figure.colorbar(image, ax=axes, shrink=0.6, label="nodule")
    figure.savefig(picture, dpi=110)


def softened(out: Path, volumes: VolumeStore, case: str) -> dict[str, Float64Array]:
    """Return what soft labels of rater 1 say of the nodule, [z,y,x] by name; α as in the trainings."""
    label, found = volumes.label(case), {}
    found["SVLS"] = soft_label(label, method="svls", n_classes=2)[1].astype(np.float64)
    for name, alpha in (("default", 0.1), ("border", 0.85)):
        soft = LabelStore.open(out / f"{name}.zarr").soft_label(case, label, alpha=alpha)
        found[f"GeoLS {name}, α = {alpha:g}"] = soft[1].astype(np.float64)
    return found


def disagreement(rated: RatedCase) -> float:
    """Return the mean variance of the raters' labels near the nodule."""
    raters_RZYX = np.concatenate([[rated.label == 1], rated.others == 1])
    share = raters_RZYX.mean(axis=0)
    return float((share * (1 - share))[near_raters(raters_RZYX, rated.spacing)].mean())


if __name__ == "__main__":
    draw()
