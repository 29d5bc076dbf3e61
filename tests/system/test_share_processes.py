"""Whole cases from store to store: pull, unpack and merge on this machine, and how the commands say what they did."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from sharing import CASES, make_store, run, verified_store
from stores import label_store

from geols_precompute.share import copy as share
from geols_precompute.store.reader import LabelStore


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return make_store(tmp_path / "labels.zarr", CASES)


def test_killed_in_the_middle_it_goes_on(tmp_path):
    store = label_store(tmp_path / "big.zarr", [f"case_{i}" for i in range(60)], shape=(32, 70, 130))
    out = tmp_path / "out.zarr"
    command = [sys.executable, "-c", "from geols_precompute.cli.store import store; store()"]
    command += ["pull", str(store.path), "-o", str(out)]
    kills = 0
    for there in (1, 9, 20, 30):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(1 for _ in out.glob("case_*")) < there:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        if process.wait(30) != -signal.SIGKILL or (out / "manifest.json").exists():
            break  # it was faster
        kills += 1
        for path in out.glob("case_*"):
            assert share.committed_case(out, path.name, store.manifest.cases) is not None
    assert kills
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"digest  {store.digest}" in done.stdout
    assert " 0 there already" not in done.stdout
    verified_store(out, store.digest)


def test_a_full_disk_stops_with_one_line_and_goes_on(tmp_path):
    store = label_store(tmp_path / "big.zarr", [f"case_{i}" for i in range(12)], shape=(32, 70, 130))
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        for command in (("pull", store.path, "-o", small / "out.zarr"), ("pack", store.path, "-o", small / "s.zip")):
            result = run(*command)
            assert result.exit_code == 2
            assert "no space left; free some and run the same command again" in result.output
            assert not list(small.rglob(".tmp-*"))
            assert not (small / "s.zip").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        result = run("pull", store.path, "-o", small / "out.zarr")
        assert result.exit_code == 0
        verified_store(small / "out.zarr", store.digest)
    finally:
        subprocess.run(["umount", small], check=True)
