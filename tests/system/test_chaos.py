"""Workers, schedulers and clients that die at random moments: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dask_processes import dask_scheduler, dask_worker, kill
from whole_cases import assert_only_whole_cases

from geols_precompute.atomic import TEMPORARY_PREFIX
from geols_precompute.store.verify import open_store, verify_case
from geols_precompute.store.writer import committed_cases

CASES, WORKERS = 16, 2
VICTIMS = ("worker", "scheduler", "client", "all")


class Cluster:
    """A scheduler, workers and a client, each a process that may be killed."""

    def __init__(self, folder: Path, root: Path, out: Path) -> None:
        self.folder, self.root, self.out = folder, root, out
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        self.stop()
        self.file = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        self.processes = {"scheduler": dask_scheduler(self.file)}
        for number in range(WORKERS):
            self.processes[f"worker{number}"] = self._worker()
        while not self.file.exists():
            time.sleep(0.02)
        self.run_client()

    def run_client(self) -> None:
        command = [sys.executable, "-m", "geols_precompute", "--scheduler", str(self.file), "--out", str(self.out)]
        self.log = self.folder / f"client-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.processes["client"] = subprocess.Popen(
                [*command, str(self.root)], stdout=log, stderr=log, start_new_session=True
            )

    def strike(self, victim: str, rng: random.Random) -> None:
        """Kill a part; a dead worker is replaced, as a job scheduler does, other parts are started anew."""
        if victim == "worker":
            name = rng.choice([name for name in self.processes if name.startswith("worker")])
            kill(self.processes[name])
            self.processes[name] = self._worker()
            return
        for name in list(self.processes) if victim == "all" else [victim]:
            kill(self.processes[name])
        if victim == "client":
            self.run_client()
        else:
            self.start()

    def stop(self) -> None:
        for process in self.processes.values():
            kill(process)

    def _worker(self) -> subprocess.Popen:
        return dask_worker(self.file, self.folder)


@contextmanager
def started(folder, root, out) -> Iterator[Cluster]:
    cluster = Cluster(folder, root, out)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def committed(out: Path) -> set[str]:
    """The cases that both stores hold."""
    with suppress(FileNotFoundError):
        return set(committed_cases(out / "volumes.zarr")) & set(committed_cases(out / "labels.zarr"))
    return set()


def here(root, out) -> tuple[str, int]:
    """Run to the end in one process; (the digest, how many cases were computed)."""
    command = [sys.executable, "-m", "geols_precompute", "--workers", "0", "--out", str(out), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1], int(re.search(r"(\d+) cases computed", done.stdout)[1])


def survive(nnunet, tmp_path, strikes: int) -> None:
    root, rng = nnunet(cases=CASES, shape=(24, 50, 50)), random.Random(0)
    expected, _ = here(root, tmp_path / "undisturbed")
    done = 0
    while done < strikes:
        out = tmp_path / f"out{done}"
        with started(tmp_path, root, out) as cluster:
            while done < strikes and len(before := committed(out)) < CASES:
                wanted = len(before) + rng.randint(1, 3)
                deadline = time.monotonic() + 60
                while len(committed(out)) < min(wanted, CASES) and cluster.processes["client"].poll() is None:
                    assert time.monotonic() < deadline, cluster.log.read_text()
                    time.sleep(rng.uniform(0, 0.03))
                if len(committed(out)) == CASES:
                    break
                cluster.strike(VICTIMS[done % len(VICTIMS)], rng)
                done += 1
                # nothing that was there is gone, and all that is there is whole
                for name in ("labels", "volumes"):
                    assert_only_whole_cases(out / f"{name}.zarr")
                assert before <= committed(out)
        there = committed(out)
        digest, computed = here(root, out)
        assert digest == expected
        assert computed == CASES - len(there)
        store = open_store(out / "labels.zarr")
        assert [verify_case(store, case) for case in store.cases] == [None] * CASES
        assert not list(out.glob(f"*/{TEMPORARY_PREFIX}*"))


@pytest.mark.timeout(280)
def test_each_part_killed_once(nnunet, tmp_path):
    survive(nnunet, tmp_path, strikes=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_kills(nnunet, tmp_path):
    survive(nnunet, tmp_path, strikes=30)
