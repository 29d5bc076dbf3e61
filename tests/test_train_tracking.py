"""The log: flat JSON lines, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import sys

import pytest

from geols_precompute.errors import MissingExtraError
from geols_train.tracking import Tracker, read_log


def test_lines_are_flat_and_hold_what_was_logged(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.log({"loss": 0.5, "lr": 1e-4}, 1)
        tracker.log({"loss": 0.25, "epoch": 1}, 1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "lr": 1e-4}, {"step": 1, "loss": 0.25, "epoch": 1}] == read_log(tmp_path)


def test_a_resumed_log_goes_on_at_the_checkpoint(tmp_path):
    with Tracker(tmp_path) as tracker:
        for step in (1, 2, 3):
            tracker.log({"loss": float(step)}, step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a crash in the middle of a line
    with Tracker(tmp_path, after=2) as tracker:
        tracker.log({"loss": 30.0}, 3)
    assert [line["loss"] for line in read_log(tmp_path)] == [1.0, 2.0, 30.0]


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geols\[tensorboard\]"'):
        Tracker(tmp_path, tensorboard=True)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    with Tracker(tmp_path, tensorboard=True) as tracker:
        tracker.log({"loss": 0.5}, 1)
    assert list((tmp_path / "tensorboard").iterdir())
