"""Compute on a Dask cluster whose workers are jobs, as many as there is work for.

    pip install dask-jobqueue
    python workflows/slurm/dask_jobs.py --jobs 64 --memory 2GB --walltime 04:00:00 -- data/ --seeds skeleton

Run it where it may stay for hours, for instance in a small job of its own: it holds scheduler and client, which need no
more than half a gigabyte. What follows -- are the arguments of geols-precompute.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute on jobs of a queue; see the top of this file.")
    parser.add_argument("--system", choices=["slurm", "pbs", "sge", "lsf", "local"], default="slurm")
    parser.add_argument("--jobs", type=int, default=16, help="at most (default 16)")
    parser.add_argument("--memory", default="2GB", help="of a job; --dry-run says how much (default 2GB)")
    parser.add_argument("--walltime", default="04:00:00", help="of a job (default 04:00:00)")
    parser.add_argument("--queue", help="or partition")
    parser.add_argument("precompute", nargs="+", help="arguments of geols-precompute")
    arguments = parser.parse_args()
    with make_cluster(arguments) as cluster:
        cluster.adapt(minimum=1, maximum=arguments.jobs)
        command = [sys.executable, "-m", "geols_precompute", "--scheduler", cluster.scheduler_address]
        sys.exit(subprocess.run([*command, *arguments.precompute], check=False).returncode)


def make_cluster(arguments: argparse.Namespace) -> Any:
    """Return a cluster of one-core jobs."""
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    kinds = {
        "slurm": dask_jobqueue.SLURMCluster, "pbs": dask_jobqueue.PBSCluster, "sge": dask_jobqueue.SGECluster,
        "lsf": dask_jobqueue.LSFCluster, "local": LocalCluster,
    }  # fmt: skip
    settings = {} if arguments.system == "local" else {"walltime": arguments.walltime, "queue": arguments.queue}
    # a worker leaves before its queue ends it, so that no case is cut short without need
    lifetime = seconds(arguments.walltime) - 300
    return kinds[arguments.system](
        cores=1, processes=1, memory=arguments.memory,
        worker_extra_args=["--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"], **settings,
    )  # fmt: skip


def seconds(walltime: str) -> int:
    """Return the seconds of HH:MM:SS."""
    hours, minutes, rest = (int(part) for part in walltime.split(":"))
    return 3600 * hours + 60 * minutes + rest


if __name__ == "__main__":
    main()
