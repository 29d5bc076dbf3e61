"""Measure geols-precompute at scale: many tiny cases, several workers, parts, dry runs; and simulate a cluster.

    GEOLS_TEST_DATA=../shared/data python workflows/benchmarks/scale.py
    python workflows/benchmarks/scale.py --tiny 300 --cts 4 --repeats 1      # small: does it run?

1. Tiny cases (8×8×8 voxels) through the real scheduler and stores, in memory (/dev/shm), where fsync costs nothing:
   what Dask, stores and bookkeeping take per case, memory of the process that holds client and scheduler, a second run.
2. CTs of 112×160×208 voxels and 4 classes (see inputs.py) on the disk, in turn: one worker, two workers, and two jobs
   with a part and a worker each; all must end with one digest. And a dry run against what the run took.
3. A simulation of 1 to 512 workers from those times: a scheduler and a storage that serve one after another, workers
   that compute side by side. It draws docs/scale.png with --plot.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK
from case import write_files
from inputs import DATA, load_ct
from simulation import Times, simulate

from geols_precompute.data.cases import Case
from geols_precompute.recipe.parameters import MapParameters, Recipe
from geols_precompute.run import state
from geols_precompute.run.dask import OnDask, local_cluster
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import plan_run
from geols_precompute.run.task import Outcome, Task
from geols_precompute.store.reader import LabelStore

COMMAND = (sys.executable, "-m", "geols_precompute")
MEMORY = 4 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure at scale; see the top of this file.")
    parser.add_argument("--tiny", type=int, default=20_000, help="tiny cases (default 20000)")
    parser.add_argument("--cts", type=int, default=40, help="CTs (default 40)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--plot", action="store_true", help="draw docs/scale.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        many_tiny_cases(Path(folder), arguments.tiny)
    per_second = scheduler_throughput()
    with tempfile.TemporaryDirectory() as folder:
        data = write_cts(Path(folder), arguments.cts)
        two_against_one(data, Path(folder), arguments.repeats)
        parts_against_one(data, Path(folder), arguments.repeats, "0")
        times = parts_against_one(data, Path(folder), arguments.repeats, "1")
        dry_run(data, times)
    simulate(times, per_second, plot=arguments.plot)


# --- tiny cases ----------------------------------------------------------------------------------------------------


def many_tiny_cases(folder: Path, count: int) -> None:
    """Run many tiny cases on two workers, twice, and print time and memory."""
    root = folder / "data"
    write_tiny(root, count)
    command = [*COMMAND, "--workers", "2", str(root)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    log, memory = root / "geols" / "state.jsonl", {}
    marks = [count * k // 8 for k in range(1, 9)]
    while process.poll() is None:
        done = log.read_bytes().count(b"\n") if log.exists() else 0
        while marks and done >= marks[0]:
            memory[marks.pop(0)] = resident(process.pid)
        time.sleep(0.2)
    assert process.returncode == 0
    whole = time.perf_counter() - begin
    assert process.stdout is not None
    print(f"## {count} tiny cases, 2 workers\n\n{process.stdout.read().splitlines()[-3]}")
    records = list(state.read(log))
    seconds = records[-1]["at"] - records[0]["at"]
    inside = statistics.mean(sum(r["seconds"].values()) for r in records)
    print(f"whole run {whole:.0f} s; {len(records) / seconds:.0f} cases/s; in a task {1e3 * inside:.1f} ms, of which")
    print(
        ", ".join(f"{k} {1e3 * statistics.mean(r['seconds'][k] for r in records):.1f}" for k in records[0]["seconds"])
    )
    computing = statistics.mean(r["seconds"]["maps"] + r["seconds"]["read"] + r["seconds"]["prepare"] for r in records)
    overhead = 2 * seconds / len(records) - computing
    print(f"Dask, stores and bookkeeping (all but reading, preparing and maps): {1e3 * overhead:.1f} ms per case")
    print("memory of client and scheduler: " + ", ".join(f"{n} cases {m:.0f} MB" for n, m in memory.items()))
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"second run, all done: {time.perf_counter() - begin:.1f} s")


def write_tiny(root: Path, count: int) -> None:
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    for number in range(count):
        image = rng.normal(100, 20, (8, 8, 8)).astype(np.int16)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(root / f"imagesTr/case_{number:05d}_0000.nii"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(label), str(root / f"labelsTr/case_{number:05d}.nii"))
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii"}
    (root / "dataset.json").write_text(json.dumps(description | {"numTraining": count}))


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) * 1024 / 1e6


def scheduler_throughput(count: int = 3000) -> float:
    """Return how many tasks that do nothing go through client and scheduler per second."""
    recipe = Recipe(classes={1: "a"}).resolve(modalities=("m",))
    task = Task(case=Case(id="x", images=(), label=None), recipe=recipe, volumes=Path("v"), labels=Path("l"))
    with local_cluster(2, MEMORY, MapParameters(), dashboard=False) as executor:
        list(executor.run(nothing, [task] * 100))
        begin = time.perf_counter()
        list(executor.run(nothing, [task] * count))
        per_second = count / (time.perf_counter() - begin)
    print(f"\nempty tasks through client and scheduler: {per_second:.0f} per second")
    return per_second


def nothing(task: Task) -> Outcome:
    return Outcome(case=task.case.id, status="computed")


# --- CTs -----------------------------------------------------------------------------------------------------------


def write_cts(folder: Path, count: int) -> Path:
    """Write one CT and name it `count` times."""
    root = folder / "cts"
    root.mkdir()
    write_files(load_ct(DATA, quick=False), root)
    rows = [f"ct_{number:03d},label.nii.gz,m0.nii.gz" for number in range(count)]
    (root / "cases.csv").write_text("\n".join(["case,label,m0", *rows, ""]))
    return root


def two_against_one(data: Path, folder: Path, repeats: int) -> None:
    """Time clusters of one and of two workers in turn, once they are warm."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(repeats):
        for workers, times in seconds.items():
            with local_cluster(workers, MEMORY, MapParameters(), dashboard=False) as executor:
                timed_run(data, folder / f"warm-{number}-{workers}", executor, 2)
                times.append(timed_run(data, folder / f"run-{number}-{workers}", executor, None))
    ratio = statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    print(f"\n## CTs on warm workers, medians of {repeats} in turn\n")
    print(", ".join(f"{n} workers {statistics.median(t):.1f} s" for n, t in seconds.items()) + f": {ratio:.2f}×")


def timed_run(data: Path, out: Path, executor: OnDask, count: int | None) -> float:
    plan = plan_run(data, recipe=Recipe(), out=out)
    create_stores(plan)
    plan = replace(plan, tasks=plan.tasks[:count])
    begin = time.perf_counter()
    execute(plan, executor)
    return time.perf_counter() - begin


def parts_against_one(data: Path, folder: Path, repeats: int, workers: str) -> Times:
    """Time whole commands in turn: one job with one worker, and two jobs with a part and a worker each.

    `workers` is 0, a job that is its own worker, as in workflows/slurm/array.sh, or 1, a Dask worker of its own.
    """
    one: list[float] = []
    parts: list[float] = []
    digests = set()
    for number in range(repeats):
        out = folder / f"one-{workers}-{number}"
        with timed(one):
            subprocess.run(job(data, out, workers), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        digests.add(LabelStore.open(out / "labels.zarr").digest)
        out = folder / f"parts-{workers}-{number}"
        with timed(parts):
            jobs = [
                subprocess.Popen(
                    job(data, out, workers, "--part", f"{i}/2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                for i in (1, 2)
            ]
            assert [process.wait() for process in jobs] == [0, 0]
        finalize = "from geols_precompute.cli.store import store; store()"
        subprocess.run([sys.executable, "-c", finalize, "finalize", out], check=True, stdout=subprocess.DEVNULL)
        digests.add(LabelStore.open(out / "labels.zarr").digest)
    ratio = statistics.median(np.divide(one, parts))
    print(f"\n## Whole commands over CTs, --workers {workers}, medians of {repeats} in turn\n")
    print(f"one job {statistics.median(one):.1f} s, two parts {statistics.median(parts):.1f} s: {ratio:.2f}×")
    print(f"different digests: {len(digests)}", flush=True)
    out = folder / f"one-{workers}-0"
    records = list(state.read(out / "state.jsonl"))
    return Times(
        steps=[record["seconds"] for record in records],
        wall=statistics.median(one),
        stored=sum(p.stat().st_size for p in out.glob("*.zarr/ct_*/**/*") if p.is_file()),
        source=sum(p.stat().st_size for p in data.glob("*.nii.gz")) * len(records),
        peak=max(record["peak_memory"] for record in records),
    )


def job(data: Path, out: Path, *more: str) -> list[str]:
    workers, *flags = more
    return [*COMMAND, "--workers", workers, *flags, "--out", str(out), str(data)]


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    times.append(time.perf_counter() - begin)


def dry_run(data: Path, times: Times) -> None:
    """Compare a dry run with what the run with one worker took."""
    with tempfile.TemporaryDirectory() as out:
        command = [*COMMAND, "--dry-run", "--workers", "1", "--out", f"{out}/o", str(data)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"\n## Dry run\n\n{output}")
    spent = sum(sum(steps.values()) for steps in times.steps)
    print(f"the run: {spent / 3600:.3g} CPU-hours, {times.wall:.0f} s with 1 worker, {times.stored / 1e6:.3g} MB,")
    print(f"peak memory of the worker {times.peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
