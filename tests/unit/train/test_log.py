"""The log: flat JSON lines, cut back to the checkpoint on resume; and where the time of steps goes."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from train_fixtures import make_stores
from trainings import SMALL, run

from geols_precompute.errors import MissingExtraError
from geols_train import cli, log
from geols_train.log import RunLog, StepTimer, read_log


def test_lines_are_flat_and_hold_what_was_logged(tmp_path):
    with RunLog(tmp_path) as written:
        written.write({"loss": 0.5, "lr": 1e-4}, 1)
        written.write({"loss": 0.25, "epoch": 1}, 1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "lr": 1e-4}, {"step": 1, "loss": 0.25, "epoch": 1}] == read_log(tmp_path)


def test_a_resumed_log_goes_on_at_the_checkpoint(tmp_path):
    with RunLog(tmp_path) as written:
        for step in (1, 2, 3):
            written.write({"loss": float(step)}, step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a crash in the middle of a line
    with RunLog(tmp_path, after=2) as written:
        written.write({"loss": 30.0}, 3)
    assert [line["loss"] for line in read_log(tmp_path)] == [1.0, 2.0, 30.0]


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geols\[tensorboard\]"'):
        RunLog(tmp_path, tensorboard=True)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, tensorboard=True) as written:
        written.write({"loss": 0.5}, 1)
    assert list((tmp_path / "tensorboard").iterdir())


def test_laps_add_up(monkeypatch):
    clock = iter([0.0, 10.0, 11.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(log.time, "perf_counter", lambda: next(clock))
    measured = StepTimer(torch.device("cpu"), enabled=True)
    measured.start()
    measured.lap("data")
    measured.lap("network")
    measured.start()
    measured.lap("data")
    measured.steps = 2
    assert measured.table().splitlines() == [
        "data        1000.00 ms   40.0%",
        "network     1500.00 ms   60.0%",
        "step        2500.00 ms  100.0%",
    ]


def test_disabled_it_does_nothing(monkeypatch):
    measured = StepTimer(torch.device("cpu"), enabled=False)
    monkeypatch.setattr(measured, "_now", lambda: 1 / 0)
    measured.start()
    measured.lap("data")


def test_the_flag(tmp_path):
    make_stores(tmp_path / "geols")
    result = run(cli.train, tmp_path, "--profile", "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.output
    for name in ("data", "prepare", "network", "loss", "backward", "optimiser", "step"):
        assert re.search(rf"^{name} +[\d.]+ ms +[\d.]+%$", result.output, re.MULTILINE)
