"""Time the distance engines against GeodisTK (and FastGeodis where installed), and check their results.

    GEOLS_TEST_DATA=../shared/data python workflows/benchmarks/engines.py
    python workflows/benchmarks/engines.py --quick        # small crops, two repeats: does it run?

Two cases: the CT ``flare/ct_001`` upsampled to 112×160×208 with noise (4 classes, one image), and the MR exam
``brats/BraTS-GLI-00001-000`` cropped to 128×192×192 (4 modalities × 3 classes = 12 transforms). Seeds are skeletons.
All engines run in turn, repeat after repeat, so that a busy machine slows all of them; the table gives medians.
Times are from arrays to arrays, output allocation included. Peak memory is what one run in a fresh process needs
above its inputs. Pin the process (``taskset -c 0``, without the rows of two threads) for quiet figures.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from inputs import DATA, Case, load_ct, load_mr
from numpy.typing import NDArray

from geols_precompute.geodesic import geodesic_distance

ORACLE = "GeodisTK, 4 iterations"
SWEEPS_UNTIL_NOTHING_CHANGES = 100_000


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One row of the table: options of `geodesic_distance`, or a function of its own."""

    name: str
    options: dict[str, Any]
    threads: int = 1
    transform: Callable[..., NDArray[np.float32]] = geodesic_distance

    def run(self, case: Case) -> list[NDArray[np.float32]]:
        """Compute the distances [class,z,y,x] of every modality; threads share out modalities, or classes of one."""
        parts = self.threads if len(case.images) == 1 else 1
        tasks = [(image, seeds) for image in case.images for seeds in np.array_split(case.seeds, parts)]
        if self.threads == 1:
            return [self.transform(image, seeds, case.spacing, **self.options) for image, seeds in tasks]
        return list(threads(self.threads).map(lambda task: self.transform(*task, case.spacing, **self.options), tasks))


@functools.cache
def threads(count: int) -> ThreadPoolExecutor:
    """Threads that live on between runs, as a worker's do: each keeps its workspace."""
    return ThreadPoolExecutor(count)


def make_engines() -> list[Engine]:
    engines = [
        Engine(name=ORACLE, options={"engine": "geodistk"}),
        Engine(name="raster, 4 iterations", options={}),
        Engine(name="raster, 4 iterations, 2 threads", options={}, threads=2),
        Engine(name="raster, 4 iterations, λ = 0.5", options={"lam": 0.5}),
        Engine(name="raster, 4 iterations, riemannian", options={"metric": "riemannian"}),
        Engine(name="exact", options={"iterations": "exact"}),
        Engine(name="exact, 2 threads", options={"iterations": "exact"}, threads=2),
        Engine(name="exact, riemannian", options={"iterations": "exact", "metric": "riemannian"}),
    ]
    try:
        import FastGeodis  # noqa: F401
    except ImportError:
        return engines
    return [*engines, Engine(name="FastGeodis, 4 iterations, its own metric", options={}, transform=fast_geodis)]


def fast_geodis(image: NDArray[np.float32], seeds: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float32]:
    import FastGeodis
    import torch

    volume = torch.from_numpy(image)[None, None]
    masks = [torch.from_numpy(1 - mask.astype(np.float32))[None, None] for mask in seeds]
    large, lam, iterations = 1e10, 1.0, 4
    maps = [FastGeodis.generalised_geodesic3d(volume, m, list(spacing), large, lam, iterations) for m in masks]
    return np.stack([distance[0, 0].numpy() for distance in maps])


def time_in_turn(case: Case, engines: Sequence[Engine], repeats: int) -> dict[str, float]:
    """Median seconds per engine; a first round warms caches and is not counted, except for the slow oracle."""
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for repeat in range(repeats + 1):
        for engine in engines:
            if repeat == 0 and engine.name == ORACLE:
                continue
            begin = time.perf_counter()
            engine.run(case)
            if repeat > 0:
                seconds[engine.name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def largest_relative_difference(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> float:
    def difference(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        return float(np.max(np.abs(x - y) / np.maximum(np.maximum(x, y), np.finfo(np.float32).tiny)))

    return max(difference(x, y) for x, y in zip(a, b, strict=True))


def check(case: Case) -> None:
    """Compare engines that must agree; raise if two differ by more than 1e-6."""

    def run(**options: Any) -> list[NDArray[np.float32]]:
        return Engine(name="", options=options).run(case)

    sweeps: dict[str, Any] = {"iterations": SWEEPS_UNTIL_NOTHING_CHANGES}
    pairs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "raster and GeodisTK, 4 iterations": ({}, {"engine": "geodistk"}),
        "exact and sweeps until nothing changes": ({"iterations": "exact"}, sweeps),
        "the same, riemannian": ({"iterations": "exact", "metric": "riemannian"}, {**sweeps, "metric": "riemannian"}),
    }
    for name, (left, right) in pairs.items():
        difference = largest_relative_difference(run(**left), run(**right))
        print(f"- {name}: largest relative difference {difference:.1e}")
        if difference > 1e-6:
            raise SystemExit(f"{case.name}: {name} differ by {difference:.1e}, more than 1e-6")


def peak_mebibytes(engine_index: int, case: Case) -> float:
    """Run in a fresh process: the peak of resident memory above what was resident before the run."""
    engine = make_engines()[engine_index]
    labels = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]], np.uint8)
    crop = Case(name="", images=case.images[:, :2, :2, :2], labels=labels, classes=1, spacing=case.spacing)
    engine.run(crop)  # load the compiled kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status_mebibytes("VmRSS")
    kept = engine.run(case)
    peak = _status_mebibytes("VmHWM") - before
    del kept
    return peak


def _status_mebibytes(field: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) / 1024


def measure_memory(engine_index: int, case: Case) -> str:
    if not Path("/proc/self/clear_refs").exists():
        return "–"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return f"{pool.submit(peak_mebibytes, engine_index, case).result():.0f}"


def report(case: Case, repeats: int, only: str) -> None:
    print(f"\n## {case.name}, {'×'.join(map(str, case.seeds.shape[1:]))}\n")
    if not only:
        check(case)
    engines = {i: e for i, e in enumerate(make_engines()) if only in e.name or e.name == ORACLE}
    seconds = time_in_turn(case, list(engines.values()), repeats)
    print("\n| engine | seconds | × GeodisTK | peak memory, MiB |\n|---|---|---|---|")
    for index, engine in engines.items():
        ratio = seconds[ORACLE] / seconds[engine.name]
        memory = measure_memory(index, case)
        print(f"| {engine.name} | {seconds[engine.name]:.3f} | {ratio:.1f} | {memory} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the distance engines; see the top of this file.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each engine (default 5)")
    parser.add_argument("--quick", action="store_true", help="small crops and two repeats")
    parser.add_argument("--only", default="", help="only rows with this text, and GeodisTK; skips the checks")
    parser.add_argument("--case", choices=["ct", "mr"], help="only one of the two cases")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else arguments.repeats
    print(f"Medians of {repeats} runs in turn, {len(os.sched_getaffinity(0))} core(s).")
    for name, load in {"ct": load_ct, "mr": load_mr}.items():
        if arguments.case in (None, name):
            report(load(DATA, arguments.quick), repeats, arguments.only)


if __name__ == "__main__":
    main()
