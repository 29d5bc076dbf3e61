"""The job scripts, with what a queue would tell them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import digest, precompute, store

SLURM = Path(__file__).parents[2] / "workflows/slurm"


def environment(**variables) -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}


def test_a_job_array(nnunet, tmp_path):
    root = nnunet(cases=5)
    expected = digest(precompute("--out", tmp_path / "one", root))
    out = tmp_path / "o"
    for job in ("2", "1"):
        subprocess.run(
            ["bash", SLURM / "array.sh", "2", root, "--out", out, "--seeds", "skeleton"],
            env=environment(SLURM_ARRAY_TASK_ID=job),
            check=True,
            capture_output=True,
            timeout=100,
        )
    assert digest(store("finalize", out / "labels.zarr")) == expected


def test_a_dask_cluster_of_jobs(nnunet, tmp_path):
    pytest.importorskip("dask_jobqueue")
    root = nnunet(cases=3)
    expected = digest(precompute("--out", tmp_path / "one", root))
    done = subprocess.run(
        [
            sys.executable,
            SLURM / "dask_jobs.py",
            "--system",
            "local",
            "--jobs",
            "2",
            "--",
            root,
            "--out",
            tmp_path / "o",
        ],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_seconds_of_a_walltime(monkeypatch):
    monkeypatch.syspath_prepend(SLURM)
    from dask_jobs import seconds

    assert seconds("04:30:15") == 4 * 3600 + 30 * 60 + 15
