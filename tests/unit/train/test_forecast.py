"""What is said before a training: padding, days on a CPU; and the time left of a run."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from train_fixtures import SPEC, make_stores
from trainings import SMALL, run

from geols_train import cli, forecast
from geols_train.config import TrainConfig
from geols_train.forecast import cpu_note, levels_note, operations, padding_note
from geols_train.log import RunClock


@pytest.mark.parametrize("features", [(4, 8), (3, 5, 8, 8)])
def test_operations_are_those_that_torch_counts(features):
    spec = replace(SPEC, features=features, window=(9, 16, 11))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        spec.network()(torch.zeros(1, len(spec.preprocessing.modalities), *spec.window))
    assert operations(spec) == counter.get_total_flops()


def test_a_window_larger_than_every_volume_is_named_with_one_that_is_not():
    shapes = [(10, 40, 33), (20, 30, 38)]
    config = TrainConfig(window=(64, 32, 64), features=(4, 8, 8))
    note = padding_note(config, shapes)
    # 20 and 38 go up to multiples of 8; 24 · 32 · 40 voxels of 64 · 32 · 64
    assert note == (
        "--window 64 32 64 is larger than every volume (the largest sizes are 20 40 38); --window 24 32 40 loses "
        "nothing and saves 77% of the time"
    )
    assert padding_note(TrainConfig(crop=(24, 40, 40), features=(4, 8, 8)), shapes) == ""
    # a network of six levels needs 32 voxels per axis, whatever the volumes have
    assert padding_note(TrainConfig(crop=(32, 40, 40)), shapes) == ""


def test_levels_that_force_a_crop_to_be_mostly_padding_are_named_with_fewer():
    shapes = [(41, 50, 42), (30, 52, 40)]
    features = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    note = levels_note(TrainConfig(crop=(256, 256, 256), features=features), shapes)
    assert note == (
        "--crop 256 256 256 is larger than every volume (the largest sizes are 41 52 42), as 9 levels (--features) "
        "need 256 voxels per axis; fewer --features help: 4,8,16,32,64,128 allows --crop 48 56 48, less than 1% of the "
        "voxels"
    )
    # slices of thick MRI: twice the work
    assert "--window 16 64 64, 50% of the voxels" in levels_note(TrainConfig(window=(32, 64, 64)), [(12, 80, 80)])
    # hippocampus, and a third of padding
    assert levels_note(TrainConfig(crop=(40, 56, 40)), [(43, 59, 47)]) == ""
    assert levels_note(TrainConfig(crop=(32, 40, 40)), [(20, 40, 38)]) == ""
    # larger than asked for by the levels: the other note's matter
    assert levels_note(TrainConfig(crop=(64, 64, 64), features=(4, 8)), shapes) == ""


def test_the_command_says_that_levels_force_a_large_crop(tmp_path):
    make_stores(tmp_path)
    arguments = [*SMALL[:2], "--features", "4,8,16,16,16,16", *SMALL[4:6], "--device", "cpu"]
    result = run(cli.train, tmp_path, *arguments, "--batch-size", 1, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    first, *_ = result.output.splitlines()
    assert first.startswith("note: --crop 32 32 32 is larger than every volume (the largest sizes are 10 12 11), as 6 ")
    assert "fewer --features help: 4,8,16,16,16 allows --crop 16 16 16, 12% of the voxels" in first


def test_a_training_of_days_on_a_cpu_is_announced_with_what_helps(monkeypatch):
    monkeypatch.setattr(forecast, "cpu_speed", lambda: 1e11)
    spec = replace(SPEC, features=(16, 32, 64, 128, 256, 512), window=(128, 128, 128))
    config = TrainConfig(window=spec.window)
    days = 3 * 140 * 200 * operations(spec) / 1e11 / 86400
    assert 2 < days < 4
    note = cpu_note(config, spec, 140)
    assert note.startswith(f"this network on a CPU will need {days:.1f} days or more: --window 64 64 64 takes 12% of")
    assert "--features 8,16,32,64,128,256 2" in note
    assert cpu_note(config, spec, 1) == ""


def test_the_command_says_both_before_it_trains(tmp_path, monkeypatch):
    make_stores(tmp_path)
    monkeypatch.setattr(forecast, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(forecast, "cpu_speed", lambda: 1.0)
    result = run(cli.train, tmp_path, *SMALL, "--crop", 40, 12, 12, "--epochs", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("note: --crop 40 12 12 is larger than every volume (the largest sizes are 10 12 11); ")
    assert " --crop 16 12 12 loses nothing" in lines[0]
    assert lines[1].startswith("note: this network on a CPU will need ")
    assert " days or more: --crop 20 6 6 takes " in lines[1]
    first, last = (line for line in lines if line.startswith("epoch "))
    assert first.endswith(" s left")
    assert last.endswith(" s")


def test_the_time_left_is_that_of_the_whole_run(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = RunClock(done=10, total=100)  # resumed after 10 batches
    assert clock.left(10) == ""
    now = 60.0
    assert clock.left(30) == "4 min left"  # 3 s a batch, 70 batches
    assert clock.left(100) == ""
