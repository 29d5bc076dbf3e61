"""Compute on a Dask cluster whose workers are jobs, as many as there is work for.

    pip install dask-jobqueue
    python workflows/slurm/dask_jobs.py --jobs 64 --memory 2GB --walltime 04:00:00 -- data/ --seeds skeleton

Run it where it may stay for hours, for instance in a small job of its own: it holds scheduler and client, which need no
more than half a gigabyte. What follows -- are the arguments of geols-precompute.

Who can talk to a scheduler can run code in it, and every user of a cluster reaches its ports. So scheduler, workers and
client talk TLS with a key of their own. For the jobs it lies in a folder below the one where you are, which must be on
a file system that they see; only you may read it, and it is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from distributed.security import Security


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute on jobs of a queue; see the top of this file.")
    parser.add_argument("--system", choices=["slurm", "pbs", "sge", "lsf", "local"], default="slurm")
    parser.add_argument("--jobs", type=int, default=16, help="at most (default 16)")
    parser.add_argument("--memory", default="2GB", help="of a job; --dry-run says how much (default 2GB)")
    parser.add_argument("--walltime", default="04:00:00", help="of a job (default 04:00:00)")
    parser.add_argument("--queue", help="or partition")
    parser.add_argument("precompute", nargs="+", help="arguments of geols-precompute")
    arguments = parser.parse_args()
    security = Security.temporary()
    with (
        tempfile.TemporaryDirectory(prefix="dask-key-", dir=Path.cwd()) as keys,
        make_cluster(arguments, security, keys) as cluster,
    ):
        cluster.adapt(minimum=1, maximum=arguments.jobs)
        command = [sys.executable, "-m", "geols_precompute", "--scheduler", cluster.scheduler_address]
        environment = {**os.environ, **tls_settings(security)}
        sys.exit(subprocess.run([*command, *arguments.precompute], check=False, env=environment).returncode)


def tls_settings(security: Security) -> dict[str, str]:
    """Return what tells Dask in another process, by its environment, to talk to the cluster as its client."""
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": security.tls_ca_file,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": security.tls_client_key,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": security.tls_client_cert,
    }


def make_cluster(arguments: argparse.Namespace, security: Security, keys: str) -> Any:
    """Return a cluster of one-core jobs, whose key lies in the folder `keys`."""
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    kinds = {
        "slurm": dask_jobqueue.SLURMCluster,
        "pbs": dask_jobqueue.PBSCluster,
        "sge": dask_jobqueue.SGECluster,
        "lsf": dask_jobqueue.LSFCluster,
        "local": LocalCluster,
    }
    settings = {} if arguments.system == "local" else {"walltime": arguments.walltime, "queue": arguments.queue}
    # a worker leaves before its queue ends it, so that no case is cut short without need
    lifetime = seconds(arguments.walltime) - 300
    return kinds[arguments.system](
        cores=1,
        processes=1,
        memory=arguments.memory,
        worker_extra_args=["--lifetime", f"{lifetime}s", "--lifetime-stagger", "60s"],
        protocol="tls://",
        security=security,
        shared_temp_directory=keys,
        **settings,
    )


def seconds(walltime: str) -> int:
    """Return the seconds of HH:MM:SS."""
    hours, minutes, rest = (int(part) for part in walltime.split(":"))
    return 3600 * hours + 60 * minutes + rest


if __name__ == "__main__":
    main()
