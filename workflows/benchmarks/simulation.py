"""Simulate a cluster of 1 to 512 workers from what cases took on one machine; scale.py measures and calls this."""

from __future__ import annotations

import heapq
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Of shared storage, in GB/s: a network share, a good file server, a parallel file system.
BANDWIDTHS = (0.1, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Times:
    """What CTs took: seconds per case and step, wall time of whole runs with one worker, bytes and memory."""

    steps: list[dict[str, float]]
    wall: float
    stored: int
    source: int
    peak: int


def simulate(times: Times, per_second: float, *, plot: bool) -> None:
    """Print, and draw, cases per hour for 1 to 512 workers."""
    storing = ("read", "commit volume", "commit maps")
    computing = [sum(s for step, s in steps.items() if step not in storing) for steps in times.steps]
    on_cpu = [sum(steps[step] for step in storing) for steps in times.steps]
    moved = (times.stored + times.source) / len(times.steps)
    busy = [c + s for c, s in zip(computing, on_cpu, strict=True)]
    print(f"\n## Simulation\n\n{statistics.mean(busy):.2f} s and {moved / 1e6:.1f} MB per case; cases per hour:\n")
    print("| workers | " + " | ".join(f"{b:g} GB/s" for b in BANDWIDTHS) + " |\n|---|" + "---|" * len(BANDWIDTHS))
    curves = {b: [cases_per_hour(n, busy, moved / (b * 1e9), 1 / per_second) for n in WORKERS] for b in BANDWIDTHS}
    for index, workers in enumerate(WORKERS):
        print(f"| {workers} | " + " | ".join(f"{curves[b][index]:,.0f}" for b in BANDWIDTHS) + " |")
    limits = {f"storage of {b:g} GB/s": 3600 * b * 1e9 / moved for b in BANDWIDTHS} | {"scheduler": 3600 * per_second}
    print("\nlimits: " + ", ".join(f"{name} {limit:,.0f} cases per hour" for name, limit in limits.items()))
    if plot:
        draw(curves, limits["scheduler"])


def cases_per_hour(workers: int, busy: list[float], storage: float, scheduler: float, rounds: int = 40) -> float:
    """Simulate workers that each, again and again, ask the scheduler, use the storage, and compute.

    Scheduler and storage serve one after another, for so many seconds a case; times to compute are drawn from `busy`.
    """
    rng = np.random.default_rng(0)
    events = [(0.0, worker) for worker in range(workers)]
    scheduler_free = storage_free = 0.0
    total = rounds * workers
    ends = []
    for _ in range(total):
        now, worker = heapq.heappop(events)
        scheduler_free = max(now, scheduler_free) + scheduler
        storage_free = max(scheduler_free, storage_free) + storage
        end = storage_free + float(rng.choice(busy))
        ends.append(end)
        heapq.heappush(events, (end, worker))
    # the first and the last rounds are not those of a full cluster
    ends.sort()
    first, last = total // 4, 3 * total // 4
    return 3600 * (last - first) / (ends[last] - ends[first])


def draw(curves: dict[float, list[float]], scheduler: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    styles = zip(curves.items(), ("#0072b2", "#009e73", "#d55e00"), ("o", "s", "^"), strict=True)
    for (bandwidth, values), colour, marker in styles:
        axes.plot(WORKERS, values, color=colour, marker=marker, label=f"storage of {bandwidth:g} GB/s")
    axes.plot(WORKERS, [curves[BANDWIDTHS[-1]][0] * n for n in WORKERS], color="0.6", linestyle=":", label="no limit")
    axes.axhline(scheduler, color="0.3", linestyle="--", label="scheduler")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(WORKERS, [str(n) for n in WORKERS])
    axes.set_xlabel("workers, one core each")
    axes.set_ylabel("CTs per hour")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(Path(__file__).resolve().parents[2] / "docs" / "scale.png", dpi=110)
