"""Several processes train as one does: the same losses, the same files, written once; stopped, they go on together."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from train_fixtures import make_stores, tiny_config

from geols_precompute.signals import Stopped
from geols_train.batches import EpochBatches
from geols_train.device import World
from geols_train.log import read_log
from geols_train.run import train_and_test

CPU = torch.device("cpu")
#: Five cases in batches of two: in the last, one of two processes has no case of its own. Three cases to validate.
SETTINGS = {"split": "5,3,3", "epochs": 2, "batch_size": 2, "crop": (8, 8, 8), "augment": "paper"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), cases=11, vary=True, ignore=9)


def launched(processes, *command):
    """What starts several processes of a command."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {"args": [*launcher, "--no-python", *command], "env": environment}


def torchrun(processes, config, run, *arguments):
    """The command that trains with several processes."""
    settings = run.parent / f"{run.name}.toml"
    settings.write_text(config.to_toml(), encoding="utf-8")
    train = str(Path(sys.executable).parent / "geols-train")
    return launched(processes, train, "--config", str(settings), "--out", str(run), *arguments)


def losses(run):
    return [line["loss"] for line in read_log(run)]


def rows(run):
    with (run / "test_cases.csv").open() as file:
        return [(row["case"], row["structure"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "geols", "intensity": True, "accumulate": 2},
        {"method": "svls", "dice_weight": 1.0},
    ],
)
def test_two_processes_give_the_losses_and_the_results_of_one(out, tmp_path, changes):
    config = tiny_config(out, **SETTINGS, **changes)
    alone = train_and_test(config, tmp_path / "one")
    run = tmp_path / "two"
    done = subprocess.run(**torchrun(2, config, run), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert losses(run) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert len(losses(run)) == 2 * 3 + 2
    together = json.loads((run / "summary.json").read_text())
    assert together["mean_foreground_dice"] == pytest.approx(alone["mean_foreground_dice"], abs=2e-2)
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert rows(run) == rows(tmp_path / "one")
    # one of them speaks
    assert done.stdout.count("epoch 1 of 2") == 1
    assert "2 × cpu" in done.stdout


@pytest.mark.timeout(800)
def test_processes_stop_together_and_go_on_to_the_same_bits(out, tmp_path):
    config = tiny_config(out, **{**SETTINGS, "epochs": 150, "augment": "none", "workers": 2})
    run, whole = tmp_path / "run", tmp_path / "whole"
    with subprocess.Popen(**torchrun(2, config, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (run / "log.jsonl").exists() or len(losses(run)) < 8:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        # as SLURM does; torchrun then signals its processes, and their loading workers, once more
        launcher = psutil.Process(process.pid)
        everyone = [launcher, *launcher.children(recursive=True)]
        assert len(everyone) == 1 + 2 + 2 * 2
        for one in everyone:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    assert stderr.count(b"stopped, saved; go on with") == 2, stderr.decode()
    steps = [line for line in read_log(run) if "epoch" not in line]
    progress = torch.load(run / "last.pt", weights_only=True)["progress"]
    assert 3 * progress["epoch"] + len(progress["losses"]) == len(steps) < 450
    for folder, *arguments in ((run, "--resume"), (whole,)):
        done = subprocess.run(**torchrun(2, config, folder, *arguments), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    assert losses(run) == losses(whole)
    first, second = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (run, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_process_that_stops_waits_until_the_run_is_saved(out, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(World, "any", lambda world, flag: True)
    monkeypatch.setattr(World, "barrier", lambda world: saved.append((tmp_path / "run/last.pt").exists()))
    with pytest.raises(Stopped):
        train_and_test(tiny_config(out, **SETTINGS), tmp_path / "run")
    assert saved == [True]


def test_a_signal_that_comes_while_the_others_are_asked_is_not_lost(out, tmp_path, monkeypatch):
    config = tiny_config(out, **SETTINGS)

    def ask_others(world, flag):
        """No process had a signal when it was asked; then this one gets it."""
        asked.append(flag)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGTERM)
        return flag

    asked: list[bool] = []
    monkeypatch.setattr(World, "any", ask_others)
    with pytest.raises(Stopped):
        train_and_test(config, tmp_path / "run")
    assert asked == [False, True]
    assert len(losses(tmp_path / "run")) == 2


def test_too_few_cases_in_a_batch_for_the_processes_are_an_error(out, tmp_path):
    config = tiny_config(out, **{**SETTINGS, "batch_size": 1})
    done = subprocess.run(**torchrun(2, config, tmp_path / "run"), capture_output=True, text=True, timeout=240)
    assert "--batch-size 1 is of all 2 processes together: give at least 2" in done.stderr
    assert not (tmp_path / "run").exists()


FAILS_ALONE = """
import time, click, torch
from geols_precompute.errors import StoreError
from geols_precompute.cli.options import reports_errors
from geols_train.device import join_world

@click.command()
@reports_errors("train")
def command(debug):
    # as NCCL does, which ends a group once all are there
    torch.distributed.destroy_process_group = lambda: time.sleep(1000)
    with join_world(torch.device("cpu")) as world:
        if world.rank == 1:
            raise StoreError("damaged, as one process found")
        world.barrier()

command()
"""


def test_a_process_that_fails_says_so_and_does_not_wait_for_the_others():
    done = subprocess.run(**launched(2, sys.executable, "-c", FAILS_ALONE), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "error: damaged, as one process found" in done.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_case_is_in_one_shard_and_no_step_is_missed(size):
    cases = [f"c{i}" for i in range(10)]
    whole = list(EpochBatches(cases, 4, seed=3))
    worlds = [World(rank=rank, size=size, device=CPU) for rank in range(size)]
    batches = [EpochBatches(cases, 4, seed=3, world=world) for world in worlds]
    for number, (together, *shards) in enumerate(zip(whole, *batches, strict=True)):
        counted = [shard for shard, its in zip(shards, batches, strict=True) if its.has_cases(number)]
        assert sorted(item for shard in counted for item in shard) == sorted(together)
        assert all(len(shard) == 1 for shard in shards if shard not in counted)


def test_shards_are_gathered_in_order(monkeypatch):
    items = list(range(11))
    shards = [World(rank=rank, size=4, device=CPU).shard(items) for rank in range(4)]

    def gather(into, mine):
        assert mine == shards[2]
        into[:] = shards

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert World(rank=2, size=4, device=CPU).gather(shards[2]) == items


def test_the_gradient_of_a_sum_is_right_once_averaged(monkeypatch):
    parts = torch.tensor([1.5, -2.0, 4.0], dtype=torch.float64)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(parts.sum()))
    gradients = []
    for rank in range(3):
        part = parts[rank].clone().requires_grad_()
        total = World(rank=rank, size=3, device=CPU).sum(part)
        assert total.item() == pytest.approx(3.5)
        (total**2).backward()
        gradients.append(part.grad.item())
    # DDP divides by the number of processes; d(total²)/d(part) = 2 · total
    assert np.array(gradients) / 3 == pytest.approx([7.0] * 3)
