"""Batches: the same whatever loads them, each once and in order, and on the device."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_train.batches import EpochBatches, WindowDataset, make_loader


def loaded(reader, workers, start_method=None):
    batches = EpochBatches(reader.stores.cases, 2, seed=5)
    dataset = WindowDataset(reader, (6, 8, 8), place="random")
    loader = make_loader(dataset, batches, workers=workers, start_method=start_method)
    found = []
    for batches.epoch in range(2):
        found += list(loader)
    return found


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_batches_are_the_same_for_every_kind_of_worker(tmp_path, start_method):
    reader = make_fixture_reader(make_stores(tmp_path, cases=5))
    expected = loaded(reader, 0)  # the parent has read before the workers start
    assert len(expected) == 6
    for ours, theirs in zip(loaded(reader, 2, start_method), expected, strict=True):
        assert ours.cases == theirs.cases
        for name in ("image", "label", "maps", "present", "inside", "mean", "std"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.maps.dtype == torch.uint8


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_signal_to_every_process_leaves_the_workers_at_work(tmp_path, start_method):
    reader = make_fixture_reader(make_stores(tmp_path, cases=10))
    dataset, batches = WindowDataset(reader, (6, 8, 8), place="random"), EpochBatches(reader.stores.cases, 1, seed=0)
    loader = make_loader(dataset, batches, workers=2, start_method=start_method)
    cases = []
    for number, batch in enumerate(loader):
        cases += batch.cases
        if number == 1:  # both work
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGINT)
    assert sorted(cases) == sorted(reader.stores.cases)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    del loader
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


HOLDS_A_LOADER = """
import sys, time
from pathlib import Path
from train_fixtures import make_fixture_reader
from geols_train.batches import EpochBatches, WindowDataset, make_loader
reader = make_fixture_reader(Path(sys.argv[1]))
batches = EpochBatches(reader.stores.cases, 1, seed=0)
dataset = WindowDataset(reader, (6, 8, 8), place="random")
"""


TO_THE_END = """
loader = make_loader(dataset, batches, workers=2)
cycle = [loader]
cycle.append(cycle)
print(len(list(loader)))
"""


STUCK = """
WindowDataset.__getitem__ = lambda self, item: time.sleep(1000)
windows = iter(make_loader(dataset, batches, workers=1))
time.sleep(1)
print("4")
"""


@pytest.mark.parametrize("script", [TO_THE_END, STUCK])
def test_a_script_with_a_loader_ends(tmp_path, script):
    make_stores(tmp_path, cases=4)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_A_LOADER + script, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
