"""Where the time of steps goes."""

from __future__ import annotations

import re

import torch
from test_train_cli import SMALL, run
from train_fixtures import make_stores

from geols_train import cli, profile
from geols_train.profile import Profile


def test_laps_add_up(monkeypatch):
    clock = iter([0.0, 10.0, 11.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(profile.time, "perf_counter", lambda: next(clock))
    measured = Profile(torch.device("cpu"), enabled=True)
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
    measured = Profile(torch.device("cpu"), enabled=False)
    monkeypatch.setattr(measured, "_now", lambda: 1 / 0)
    measured.start()
    measured.lap("data")


def test_the_flag(tmp_path):
    make_stores(tmp_path / "geols")
    result = run(cli.train, tmp_path, "--profile", "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.output
    for name in ("data", "prepare", "network", "loss", "backward", "optimiser", "step"):
        assert re.search(rf"^{name} +[\d.]+ ms +[\d.]+%$", result.output, re.MULTILINE)
