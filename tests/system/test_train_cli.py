"""The commands as a user types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from click.testing import CliRunner
from datasets import write
from train_fixtures import make_stores
from trainings import SMALL, run

from geols_precompute.cli.precompute import precompute
from geols_precompute.data.volumes import read_image
from geols_train import cli, training
from geols_train.cli_evaluate import evaluate
from geols_train.config import TrainConfig, options

SMALL += ["--device", "cpu", "--precision", "float32", "--batch-size", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_stores(tmp_path / "data/geols")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_test_and_predict(here):
    result = run(cli.train, "--alpha", "0.1", *SMALL)
    assert result.exit_code == 0, result.output
    assert "epoch 1 of 1: loss" in result.output
    assert re.search(r"^inner +0\.\d{4} +0\.\d{4} +", result.output, re.MULTILINE)
    assert (here / "runs/labels-geols-0.1/best.pt").exists()
    image = np.random.default_rng(0).normal(size=(7, 9, 8)).astype(np.float32)
    write(image, here / "images/p1_0000.nii.gz", spacing=(1.0, 2.0, 3.0))
    write(image, here / "images/p2_0000.nii.gz")
    (here / "images/p3_0000.nii.gz").write_bytes(b"not an image")
    result = run(cli.predict, "runs/labels-geols-0.1", "images", "--device", "cpu", "-o", "out")
    assert result.exit_code == 1, result.output
    assert "failed: p3:" in result.output
    assert "2 cases predicted, 1 failed" in result.output
    found, geometry, _ = read_image(here / "out/p1.nii.gz")
    assert found.shape == (1, 7, 9, 8)
    assert geometry.spacing == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("method", "described"),
    [("nuls", "nuls (width 0.5 classes): "), ("bls", "bls (α 0.1, width 1 mm): "), ("nacl", "nacl (penalty 0.1): ")],
)
def test_the_first_line_names_the_unit_of_a_width(here, method, described):
    result = run(cli.train, *SMALL, "--method", method, "--out", "r")
    assert result.exit_code == 0, result.output
    assert described in result.output


def test_a_table_of_centre_windows_says_so(here):
    result = run(cli.train, *SMALL, "--eval", "crop", "--out", "data/run")  # below the data folder: as good as any
    assert result.exit_code == 0, result.output
    note = "note: --eval crop: measured on the centre of each volume only, 8 10 8 voxels; --eval whole takes all"
    assert note in result.output.splitlines()
    assert "--eval" not in run(cli.train, *SMALL, "--out", "whole").output


def test_a_run_is_not_overwritten_but_resumed(here):
    assert run(cli.train, *SMALL).exit_code == 0
    again = run(cli.train, *SMALL)
    assert again.exit_code == 2
    assert "holds a run already; go on with --resume, or name another folder with --out" in again.output
    longer = run(cli.train, "--resume", "--epochs", "2")
    assert longer.exit_code == 0, longer.output
    assert "epoch 2 of 2" in longer.output
    assert "epoch 1 of" not in longer.output
    changed = run(cli.train, "--resume", "--out", "runs/labels-geols-0.1", "--lr", "0.5")
    assert changed.exit_code == 2
    assert "was trained with lr 0.01 (now 0.5)" in changed.output


def test_settings_from_a_file_and_flags_over_it(here):
    (here / "run.toml").write_text('method = "ce"\nepochs = 3\nfeatures = [4, 8]\nsplit = "3,1,2"\ncrop = [8, 10, 8]\n')
    result = run(cli.train, "--config", "run.toml", "--epochs", "1", "--out", "r", "--device", "cpu")
    assert result.exit_code == 0, result.output
    saved = (here / "r/config.toml").read_text()
    assert 'method = "ce"' in saved
    assert "epochs = 1" in saved


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "2"], "error: --alpha must be in [0, 1], got 2.0"),
        (["--crop", "1", "8", "8"], "error: --crop 1 8 8 is too small: 2 levels"),
        (
            ["--augment", "flips", "--flip-axes", "xx"],
            "error: --flip-axes must be some of z, y and x, none of them twice, got 'xx'",
        ),
        (
            ["--crop", "2", "3", "2"],
            "error: --crop 2 3 2 is 1 voxel in the last of 2 levels (--features 4,8), with too few channels to "
            "normalise one voxel; take a larger --crop, fewer levels, or more than 8 channels in the last two",
        ),
        (["--out", "data"], "error: data is the data folder; name a folder of its own for the run with --out, which "),
        (["--out", "data/geols"], "error: data/geols is the folder of the stores; name a folder of its own"),
        (["data/geols", "--out", "data/../data"], "error: data/../data is the data folder; name a folder of its own"),
        (["--out", "data/geols/volumes.zarr/run"], "error: data/geols/volumes.zarr/run lies in the store "),
        (["--split", "9,9,9"], "error: --split 9,9,9 needs 27 cases, but the stores hold 6; ask for fewer"),
        (["--labels", "erosion"], "error: no label store data/geols/erosion.zarr; --labels takes one of labels"),
        (["nowhere"], "error: no volumes.zarr in nowhere/geols or nowhere; run geols-precompute nowhere first"),
        (["--device", "cuda:77"], "error: --device cuda:77 is not available here"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(here, flags, message):
    result = run(cli.train, *SMALL, *flags)
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if not line.startswith("reading:")]
    assert len(lines) == 1
    assert lines[0].startswith(message)
    assert not list(here.rglob("*.pt"))
    assert not list(here.rglob("config.toml"))


def test_predicting_without_a_run(here):
    result = run(cli.predict, "data", "data", "-o", "out")
    assert result.exit_code == 2
    assert "error: data/best.pt: no such checkpoint; is this the folder of a run" in result.output


def test_ctrl_c_saves_and_says_how_to_go_on(here, monkeypatch):
    step = training.Trainer.train_step

    def stopping(self, batch):
        import signal

        signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "train_step", stopping)
        result = run(cli.train, *SMALL, "--out", "r")
    assert result.exit_code == 130
    assert "stopped, saved; go on with: geols-train --resume --out r" in result.output
    assert run(cli.train, "--resume", "--out", "r").exit_code == 0


def test_a_stop_at_once_does_not_promise_that_all_is_saved(here, monkeypatch):
    save = training.Trainer.save

    def stopping(self, name):
        save(self, name)
        if name == "last.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Trainer, "save", stopping)
    result = run(cli.train, *SMALL, "--out", "r")
    assert result.exit_code == 130
    assert "stopped at once; go on from what was saved with: geols-train --resume --out r" in result.output


def test_every_setting_has_a_flag_with_the_same_choices():
    flags = {parameter.name: parameter for parameter in cli.train.params}
    assert {field.name for field in fields(TrainConfig)} <= set(flags)
    hints = get_type_hints(TrainConfig)
    for name in ("method", "normalize", "schedule", "augment", "eval", "cache", "precision"):
        assert tuple(flags[name].type.choices) == get_args(hints[name])


def test_every_flag_in_the_document_exists():
    text = (Path(__file__).parents[2] / "docs/training.md").read_text()
    known = {
        opt
        for command in (cli.train, cli.predict, evaluate, precompute)
        for p in command.params
        for opt in (*p.opts, *p.secondary_opts)
    }
    of_torchrun = {"--nproc-per-node", "--no-python"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known | of_torchrun


@pytest.mark.parametrize(("command", "name"), [(cli.train, "geols-train"), (cli.predict, "geols-predict")])
def test_the_version(command, name):
    result = CliRunner().invoke(command, ["--version"], prog_name=name)
    assert (result.exit_code, result.output) == (0, f"geols {version('geols')}\n")


def test_help_lists_every_setting_under_a_heading_with_its_default():
    text = " ".join(run(cli.train, "--help").output.split())
    headings = [option.heading for option in options().values() if option.heading]
    places = [text.index(f" {heading}: -") for heading in dict.fromkeys(headings)]
    assert places == sorted(places)
    for name, option in options().items():
        if option.heading:
            assert f"--{name.replace('_', '-')}" in text
            assert option.help in text
    for default in ("[default: geols]", "[default: 0.1]", "[default: 16,32,64,128,256,512]", "[default: no-compile]"):
        assert default in text


def test_help_and_wrong_usage_do_not_import_torch():
    code = "import sys; sys.argv = ['geols-train', '--help']\nfrom geols_train.cli import train\n"
    code += "try: train()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_without_torch_the_extra_is_named(here):
    blocker = "import sys; sys.modules['torch'] = None\nfrom geols_train.cli import train; train(['--epochs', '1'])"
    done = subprocess.run(
        [sys.executable, "-c", blocker], capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ['error: torch is not installed; run: pip install "geols[train]"']
