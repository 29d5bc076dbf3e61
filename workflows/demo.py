"""The demo: simulated brain scans, their soft labels, a trained network, a prediction, a report of the soft labels.

Usage: python workflows/demo.py [FOLDER]      (default: demo)

The scans are simulated from a population template, the MNI152 T1 average with its grey and white matter maps, which
the nilearn package carries: nothing is downloaded and no one's scan is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from geols_precompute import LabelStore, VolumeStore

CASES = 12
SPACING_MM = 2.0
ALPHA = 0.1
CLASSES = ("background", "grey matter", "white matter")


def main(folder: Path) -> None:
    data = folder / "data"
    print(f"Simulating {CASES} scans from the MNI152 population template (no patient's data) in {data}")
    simulate_dataset(data)
    run("geols-precompute", "--seeds", "skeleton", str(data))
    picture = draw_soft_label(data / "geols", folder / "softlabel.png")
    train(data, folder / "run")
    test_case = json.loads((folder / "run/split.json").read_text())["test"][0]
    image = data / f"imagesTr/{test_case}_0000.nii.gz"
    run("geols-predict", str(folder / "run"), str(image), "-o", str(folder / "predictions"))
    store = LabelStore.open(data / "geols/labels.zarr")
    run("geols-store", "report", str(store.path), "-o", str(folder / "report.html"))
    print(f"\nstore       {store.path}\ndigest      {store.digest}\npicture     {picture}")
    print(f"run         {folder / 'run'} (curves.png, cases.png)\nprediction  {folder / 'predictions'}")
    print_dice(folder / "run")
    print(f"\nLook at the soft labels in a browser: {folder / 'report.html'}")


def simulate_dataset(data: Path) -> None:
    """Write an nnU-Net raw data set of deformed templates with bias field and noise; skip scans that are there."""
    (data / "imagesTr").mkdir(parents=True, exist_ok=True)
    (data / "labelsTr").mkdir(exist_ok=True)
    template = [read_template(name) for name in ("t1", "gm", "wm")]
    for number in range(CASES):
        label_path = data / f"labelsTr/brain_{number:02d}.nii.gz"
        if not label_path.exists():
            image, label = simulate_scan(template, np.random.default_rng(number))
            sitk.WriteImage(image, str(data / f"imagesTr/brain_{number:02d}_0000.nii.gz"))
            sitk.WriteImage(label, str(label_path))
    description = {
        "name": "Simulated from the MNI152 population template",
        "channel_names": {"0": "T1"},
        "labels": {name: value for value, name in enumerate(CLASSES)},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
        "reference": "MNI ICBM152 nonlinear symmetric 2009a average, Fonov et al. 2009, NeuroImage 47:S102",
    }
    (data / "dataset.json").write_text(json.dumps(description, indent=1))


def read_template(name: str) -> sitk.Image:
    """Read a map of the MNI152 template from the files inside the nilearn package, which is not imported."""
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        sys.exit('the demo needs the template inside nilearn; run: pip install "geols[demo]"')
    path = Path(package.origin).parent / f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    return sitk.ReadImage(str(path), sitk.sitkFloat32)


def simulate_scan(template: list[sitk.Image], rng: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
    """Return one scan (int16) and its tissue label (uint8) on a 2 mm grid."""
    t1, grey, white = template
    grid = brain_grid(grey)
    warp = random_deformation(grid, rng)
    t1, grey, white = (sitk.Resample(image, grid, warp, sitk.sitkLinear) for image in (t1, grey, white))
    grey_ZYX, white_ZYX = (sitk.GetArrayFromImage(image) for image in (grey, white))
    label_ZYX = np.argmax([1 - grey_ZYX - white_ZYX, grey_ZYX, white_ZYX], axis=0).astype(np.uint8)
    t1_ZYX = sitk.GetArrayFromImage(t1)
    t1_ZYX = 800 * t1_ZYX / np.percentile(t1_ZYX[label_ZYX > 0], 99) * bias_field(t1_ZYX.shape, rng)
    t1_ZYX += rng.normal(0, 20, t1_ZYX.shape)
    image, label = sitk.GetImageFromArray(np.rint(t1_ZYX).astype(np.int16)), sitk.GetImageFromArray(label_ZYX)
    image.CopyInformation(grid)
    label.CopyInformation(grid)
    return image, label


def brain_grid(grey: sitk.Image) -> sitk.Image:
    """Return an empty 2 mm image around the brain, 10 mm wider on every side."""
    inside = np.argwhere(sitk.GetArrayFromImage(grey) > 0.5)
    margin = round(10 / grey.GetSpacing()[0])
    low = np.maximum(inside.min(axis=0) - margin, 0)[::-1]
    high = np.minimum(inside.max(axis=0) + margin, np.array(grey.GetSize())[::-1] - 1)[::-1]
    size = np.ceil((high - low + 1) * np.array(grey.GetSpacing()) / SPACING_MM).astype(int)
    grid = sitk.Image([int(n) for n in size], sitk.sitkFloat32)
    grid.SetSpacing([SPACING_MM] * 3)
    grid.SetOrigin(grey.TransformIndexToPhysicalPoint([int(n) for n in low]))
    grid.SetDirection(grey.GetDirection())
    return grid


def random_deformation(grid: sitk.Image, rng: np.random.Generator) -> sitk.Transform:
    """Return a smooth deformation: a cubic B-spline whose control points move by 4 mm (standard deviation)."""
    transform = sitk.BSplineTransformInitializer(grid, [4, 4, 4])
    transform.SetParameters(rng.normal(0, 4, len(transform.GetParameters())).tolist())
    return transform


def bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a smooth multiplicative field of about ±15 %."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    return np.exp(sum(rng.normal(0, 0.08) * axis + rng.normal(0, 0.05) * axis**2 for axis in axes))


def draw_soft_label(stores: Path, path: Path) -> Path:
    """Draw image, label and soft label of the middle slice of the first case, and what probability left the label."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    volumes, labels = VolumeStore.open(stores / "volumes.zarr"), LabelStore.open(stores / "labels.zarr")
    case = labels.cases[0]
    image_ZYX, label_ZYX = volumes.intensities(case)[0], volumes.label(case)
    soft_CZYX = labels.soft_label(case, label_ZYX, alpha=ALPHA)
    left_ZYX = 1 - np.take_along_axis(soft_CZYX, label_ZYX[np.newaxis], axis=0)[0]
    z = label_ZYX.shape[0] // 2
    figure, axes = plt.subplots(1, 4, figsize=(15, 5), layout="constrained")
    panels: tuple[tuple[str, npt.NDArray[Any], dict[str, Any]], ...] = (
        ("image (simulated)", image_ZYX[z], {"cmap": "gray"}),
        ("label", label_ZYX[z], {"cmap": mpl.colors.ListedColormap(["black", "#0072B2", "#F0E442"])}),
        (f"soft label of {CLASSES[1]}, α = {ALPHA:g}", soft_CZYX[1, z], {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("probability given to other classes", left_ZYX[z], {"cmap": "magma", "vmin": 0}),
    )
    for axis, (title, slice_YX, style) in zip(axes, panels, strict=True):
        drawn = axis.imshow(slice_YX[::-1], interpolation="nearest", **style)
        axis.set_title(title)
        axis.set_axis_off()
        if title not in ("image (simulated)", "label"):
            figure.colorbar(drawn, ax=axis, shrink=0.75)
    handles = [mpl.patches.Patch(color=c, label=n) for c, n in zip(("#0072B2", "#F0E442"), CLASSES[1:], strict=True)]
    axes[1].legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    figure.suptitle(f"{case}: simulated from the MNI152 population template")
    figure.savefig(path, dpi=110)
    return path


def train(data: Path, folder: Path) -> None:
    """Train a small network for a few epochs; a run that is there already is gone on with, or left as it is."""
    settings = (
        "--alpha 0.1 --features 8,16,32 --window 64 64 64 --batch-size 2 --epochs 6 --lr 3e-3 --schedule poly "
        "--augment flips --flip-axes x --split 8,1,3 --overlap 0.25"
    )
    resume = ["--resume"] if (folder / "last.pt").exists() else []
    run("geols-train", *settings.split(), *resume, "--out", str(folder), str(data))


def print_dice(folder: Path) -> None:
    """Print the mean Dice of the test cases per class."""
    summary = json.loads((folder / "summary.json").read_text())
    print("\nDice of the 3 test cases")
    for name, found in summary["structures"].items():
        print(f"  {name:<13}{found['dice']:.3f}")


def run(*command: str) -> None:
    """Run one of our commands as a user would, and stop with it if it fails."""
    print("\n$ " + " ".join(command), flush=True)
    script = Path(sys.executable).parent / command[0]
    if status := subprocess.run([script, *command[1:]], check=False).returncode:
        sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
