"""Processes that load batches: where one is lost, a training ends soon, with one line that says why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_precompute.errors import StoreError
from geols_train import batches as module
from geols_train.batches import EpochBatches, WindowDataset, make_loader
from geols_train.device import LostWorkerError, explain_lost_workers

TRAIN = "import sys; from geols_train.cli import train; train(sys.argv[1:])"
SMALL = ["--epochs", "2", "--features", "4,8", "--split", "3,1,2", "--batch-size", "2", "--workers", "2"]
SMALL += ["--device", "cpu", "--method", "ce"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return make_fixture_reader(make_stores(tmp_path_factory.mktemp("stores"), cases=6))


def load(dataset, cases, workers=2):
    loader = make_loader(dataset, EpochBatches(cases, 2, seed=0), workers=workers)
    with explain_lost_workers(workers):
        return list(loader)


class Dying(WindowDataset):
    def __getitem__(self, index):
        time.sleep(0.2)
        os.kill(os.getpid(), self.signal) if self.signal else os._exit(3)


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        (signal.SIGKILL, "was killed, as happens where memory ends"),
        (signal.SIGBUS, "no room in /dev/shm"),
        (signal.SIGSEGV, "ended without an answer"),
        (0, "ended without an answer"),
    ],
)
def test_a_worker_that_dies(reader, by, reason):
    dataset = Dying(reader, (6, 8, 8), place="centre")
    dataset.signal = by
    started = time.monotonic()
    with pytest.raises(LostWorkerError, match=rf"{reason}.*; lower --workers \(now 2\), or give --workers 0"):
        load(dataset, reader.stores.cases)
    assert time.monotonic() - started < 60


def test_a_batch_that_cannot_be_sent(reader, monkeypatch):
    # an error in the thread that sends, after the batch is made
    monkeypatch.setattr(module, "collate", lambda windows: [lambda: None])
    with pytest.raises(LostWorkerError, match="ended without an answer"):
        load(WindowDataset(reader, (6, 8, 8), place="centre"), reader.stores.cases)


class Damaged(WindowDataset):
    def __getitem__(self, index):
        raise StoreError("case_00: damaged; get it again")


def test_an_error_of_a_worker_is_said_as_if_there_were_none(reader):
    for workers in (0, 2):
        with pytest.raises(StoreError) as caught:
            load(Damaged(reader, (6, 8, 8), place="centre"), reader.stores.cases, workers)
        assert str(caught.value) == "case_00: damaged; get it again"


def test_batches_of_workers_lie_in_shared_memory_at_once(reader, monkeypatch):
    windows = [WindowDataset(reader, (6, 8, 8), place="centre")[(reader.stores.cases[0], (0,))]]
    assert not any(tensor.is_shared() for tensor in module.collate(windows).tensors())
    monkeypatch.setattr(module, "get_worker_info", lambda: object())
    shared = module.collate(windows)
    assert all(tensor.is_shared() for tensor in shared.tensors() if tensor.numel())
    assert torch.equal(shared.image[0], torch.from_numpy(windows[0].image))


def test_a_small_shared_memory_is_named(tmp_path):
    make_stores(tmp_path / "geols", shape=(40, 40, 40), cases=6)
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        if shutil.which("unshare") and not subprocess.run([*unshare, "true"], capture_output=True).returncode:
            break
    else:
        pytest.skip("no right to mount")
    mount = [*unshare, "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    train = [sys.executable, "-c", TRAIN, *SMALL, "--out", str(tmp_path / "run"), str(tmp_path)]
    done = subprocess.run([*mount, *train], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "/dev/shm" in line
    assert "--workers (now 2)" in line
    assert "Traceback" not in done.stderr
