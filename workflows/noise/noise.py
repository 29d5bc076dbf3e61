r"""The study of noisy labels: deform the labels that train, then train every kind on clean and on noisy labels.

    python workflows/noise/noise.py --data HIPPOCAMPUS --out OUT                  # all of it
    python workflows/noise/noise.py --data HIPPOCAMPUS --out OUT --part 2/8       # an eighth; again, to go on
    for labels in noisy clean; do
        python workflows/paper/report.py workflows/noise/noise.toml OUT/$labels --tables \
            --title "Hippocampus, trained on $labels labels" -o docs/results/noise/$labels
    done

OUT/data/clean and OUT/data/noisy are the two data folders, OUT/data/noise.csv has the Dice of each deformed label to
the clean one, and OUT/clean and OUT/noisy are studies of workflows/paper/run.py, which resumes and writes, for every
training, its configuration and its test cases. Test labels are clean in both: the split is drawn here as there.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from geols_precompute.cli.command import EXIT_DONE
from geols_precompute.cli.options import reports_errors
from geols_precompute.digests import sha256_hex
from geols_precompute.errors import InputError
from geols_train.metrics import dice
from geols_train.splits import make_split

HERE = Path(__file__).parent
#: Root mean square of the displacement along each axis, and the smoothness of its field, in voxels.
DISPLACEMENT, SIGMA = 0.6, 4.0
SEED = 19


def deformed(label_ZYX: NDArray[np.uint8], case: str) -> NDArray[np.uint8]:
    """Return a label map moved by a smooth random field, nearest voxel; the field depends on SEED and the case."""
    rng = np.random.default_rng((SEED, int(sha256_hex(case.encode())[:8], 16)))
    places = np.indices(label_ZYX.shape).astype(np.float64)
    for axis in range(3):
        field = ndimage.gaussian_filter(rng.normal(size=label_ZYX.shape), SIGMA, mode="wrap")
        places[axis] += DISPLACEMENT * field / field.std()
    moved: NDArray[np.uint8] = ndimage.map_coordinates(label_ZYX, places, order=0, mode="nearest")
    return moved


def make_data(data: Path, out: Path, split: str) -> None:
    """Write the clean and the noisy data folder, unless they are there."""
    if (out / "noise.csv").exists():
        return
    description = json.loads((data / "dataset.json").read_text())
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (data / "labelsTr").glob("[!.]*.nii.gz"))
    if not cases:
        raise InputError(f"{data}: no labelsTr/CASE.nii.gz; give the folder of the hippocampus data")
    noisy = {case for part in ("train", "validation") for case in getattr(make_split(split, cases, seed=0), part)}
    rows = []
    for name in ("clean", "noisy"):
        for folder in ("imagesTr", "labelsTr"):
            shutil.copytree(data / folder, out / name / folder, dirs_exist_ok=True)
        (out / name / "dataset.json").write_text(json.dumps(description))
    for case in sorted(noisy):
        path = out / "noisy/labelsTr" / f"{case}.nii.gz"
        image = sitk.ReadImage(str(data / "labelsTr" / path.name))
        clean = sitk.GetArrayFromImage(image)
        moved = deformed(clean, case)
        changed = sitk.GetImageFromArray(moved)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
        rows.append([case, *(f"{dice(clean == value, moved == value):.4f}" for value in (1, 2))])
    # last: a data folder that is not whole is made again
    with (out / "noise.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["case", "anterior", "posterior"], *rows])


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The hippocampus data.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Receives data, stores and runs.")
@click.option("--part", default="1/1", help="Every n-th training only, the i-th first: i/n.")
@click.option("--study", type=click.Path(path_type=Path), default=HERE / "noise.toml", help="What is trained.")
@click.option("--split", default="140,20,40", help="As in the study.")
@reports_errors(extra="all")
def main(data: Path, out: Path, part: str, study: Path, split: str, debug: bool) -> int:
    """Run the study; see the top of this file."""
    make_data(data, out / "data", split)
    status = EXIT_DONE
    for name in ("noisy", "clean"):
        command = [sys.executable, str(HERE.parent / "paper/run.py"), str(study), "--part", part]
        command += ["--data", str(out / "data" / name), "--out", str(out / name)]
        status = max(status, subprocess.run(command, check=False).returncode)
    return status


if __name__ == "__main__":
    main()
