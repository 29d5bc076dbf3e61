"""Time a whole case, from source files to both committed stores, against the published script.

    GEOLS_TEST_DATA=../shared/data taskset -c 0 python workflows/benchmarks/case.py
    python workflows/benchmarks/case.py --quick           # small crops, two repeats: does it run?

The published script, transcribed here, reads the files, takes scikit-image skeletons of whole volumes, runs GeodisTK
with 4 iterations per class and modality, computes the maps and writes them with the background as one float32 .nii.gz.
Ours is a task of geols-precompute: checks, fingerprints, maps and two commits with fsync. Both run in turn; pin
the process to one core as above, for one thread. The table gives medians, and ours step by step.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import GeodisTK
import numpy as np
import SimpleITK
from inputs import DATA, Case, load_ct, load_mr
from skimage.morphology import skeletonize

from geols_precompute.data.cases import Case as Files
from geols_precompute.data.layouts import discover
from geols_precompute.recipe.parameters import Recipe
from geols_precompute.run.dask import compile_once
from geols_precompute.run.execute import create_stores
from geols_precompute.run.plan import plan_run
from geols_precompute.run.task import Outcome, Task, run_case


def write_files(case: Case, root: Path) -> Files:
    """Write a case as a CSV data set and return its files."""
    names = [f"m{m}" for m in range(len(case.images))]
    for name, array in [*zip(names, case.images.astype(np.int16), strict=True), ("label", case.labels)]:
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(case.spacing[::-1])
        SimpleITK.WriteImage(image, str(root / f"{name}.nii.gz"), True)
    row = ["case", *(f"{name}.nii.gz" for name in ("label", *names))]
    (root / "cases.csv").write_text(",".join(["case", "label", *names]) + "\n" + ",".join(row) + "\n")
    (root / "classes.csv").write_text("value,name\n" + "".join(f"{v},c{v}\n" for v in range(1, case.classes + 1)))
    (files,) = discover(root).cases
    return files


def published_script(files: Files, classes: int, output: Path) -> None:
    """Do what the authors' script does, file in, file out."""
    images = [SimpleITK.ReadImage(str(path)) for path in files.images]
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(files.label)))
    spacing = list(images[0].GetSpacing()[::-1])
    maps = np.zeros((classes + 1, *labels.shape), np.float32)
    for value in range(1, classes + 1):
        skeleton = skeletonize(labels == value).astype(np.uint8)
        for image in images:
            voxels = SimpleITK.GetArrayFromImage(image).astype(np.float32)
            distance = GeodisTK.geodesic3d_raster_scan(voxels, skeleton, spacing, 1.0, 4)
            g = np.exp(-distance / distance.mean())
            maps[value] += (g - g.min()) / (g.max() - g.min()) / len(images)
    maps[0] = 1 - maps[1:].mean(axis=0)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.moveaxis(maps, 0, -1), isVector=True), str(output), True)


def prepare_task(root: Path, out: Path) -> Task:
    """Return the task of the one case in `root`, with fresh stores to write to."""
    shutil.rmtree(out, ignore_errors=True)
    plan = plan_run(root, recipe=Recipe(), out=out)
    create_stores(plan)
    compile_once(plan.recipe.maps)
    return plan.tasks[0]


def timed_task(root: Path, out: Path) -> tuple[float, Outcome]:
    task = prepare_task(root, out)
    begin = time.perf_counter()
    outcome = run_case(task)
    seconds = time.perf_counter() - begin
    if outcome.status != "computed":
        raise SystemExit(f"{outcome.case}: {outcome.error}\n{outcome.trace}")
    return seconds, outcome


def report(case: Case, repeats: int) -> None:
    """Time both in turn and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = write_files(case, root)
        timed_task(root, root / "out")
        ours: list[float] = []
        published: list[float] = []
        steps: list[dict[str, float]] = []
        for _ in range(repeats):
            begin = time.perf_counter()
            published_script(files, case.classes, root / "published.nii.gz")
            published.append(time.perf_counter() - begin)
            seconds, outcome = timed_task(root, root / "out")
            ours.append(seconds)
            steps.append(outcome.seconds)
    ratio = statistics.median(p / o for p, o in zip(published, ours, strict=True))
    print(f"\n## {case.name}, {'×'.join(map(str, case.labels.shape))}\n\n| | seconds |\n|---|---|")
    print(f"| published script | {statistics.median(published):.2f} |\n| ours | {statistics.median(ours):.3f} |")
    print(f"| ratio (median of pairs) | {ratio:.1f} |")
    for step in steps[0]:
        print(f"| {step} | {statistics.median(s[step] for s in steps):.3f} |")
    print(f"| peak memory of this process, MiB | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time whole cases; see the top of this file.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="small crops and two repeats")
    parser.add_argument("--case", choices=["ct", "mr"], help="only one of the two cases")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else arguments.repeats
    print(f"Medians of {repeats} runs in turn, {len(os.sched_getaffinity(0))} core(s).")
    for name, load in {"ct": load_ct, "mr": load_mr}.items():
        if arguments.case in (None, name):
            report(load(DATA, arguments.quick), repeats)


if __name__ == "__main__":
    main()
