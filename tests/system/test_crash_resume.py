"""Writers that are killed without warning: what is in the store is whole, and the next run ends as if undisturbed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from whole_cases import assert_only_whole_cases

from geols_precompute.atomic import TEMPORARY_PREFIX
from geols_precompute.store.verify import open_store, verify_case

CASES = 12


def command(root, out, workers):
    return [sys.executable, "-m", "geols_precompute", "--workers", str(workers), "--out", str(out), str(root)]


def run_to_the_end(root, out, workers=0) -> str:
    done = subprocess.run(command(root, out, workers), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1]


def killed_at(seconds, root, out, workers):
    """Start a run, kill it and its workers with SIGKILL after a while, and say whether it was still running."""
    process = subprocess.Popen(
        command(root, out, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def survive(nnunet, tmp_path, kills, workers):
    root = nnunet(cases=CASES, shape=(24, 40, 40))
    start = time.monotonic()
    expected = run_to_the_end(root, tmp_path / "undisturbed", workers)
    whole_run = time.monotonic() - start
    rng = random.Random(0)
    out = tmp_path / "out"
    interrupted = 0
    for _ in range(kills):
        killed = killed_at(rng.uniform(0.3, 1.0) * whole_run, root, out, workers)
        interrupted += killed
        whole_run *= 1.0 if killed else 0.7  # the machine may have become faster
        for name in ("labels", "volumes"):
            if (out / f"{name}.zarr").exists():
                assert_only_whole_cases(out / f"{name}.zarr")
        if (out / "labels.zarr/manifest.json").exists():
            # a run came to its end before it was killed: begin anew, so that every kill has something to interrupt
            (out / "labels.zarr").rename(tmp_path / f"finished-{len(list(tmp_path.iterdir()))}")
    assert interrupted
    assert run_to_the_end(root, out, workers) == expected
    store = open_store(out / "labels.zarr")
    assert [verify_case(store, case) for case in store.cases] == [None] * CASES
    assert not list(out.glob(f"*/{TEMPORARY_PREFIX}*"))


def test_three_kills(nnunet, tmp_path):
    survive(nnunet, tmp_path, kills=3, workers=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kills", "workers"), [(40, 0), (10, 2)])
def test_fifty_kills(nnunet, tmp_path, kills, workers):
    survive(nnunet, tmp_path, kills, workers)


def test_two_runs_on_one_output_at_the_same_time_do_no_harm(nnunet, tmp_path):
    root = nnunet(cases=CASES, shape=(24, 40, 40))
    expected = run_to_the_end(root, tmp_path / "alone")
    out = tmp_path / "out"
    both = [
        subprocess.Popen(command(root, out, 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors + output
    assert run_to_the_end(root, out) == expected
    assert not list(out.glob(f"*/{TEMPORARY_PREFIX}*"))
