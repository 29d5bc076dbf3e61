"""What all commands share: one line for wrong usage, help with an example, names that no person should see."""

from __future__ import annotations

import importlib.metadata
import runpy
import signal

import pytest
from click.testing import CliRunner

from geols_precompute import signals
from geols_precompute.cli.precompute import precompute
from geols_precompute.cli.store import store
from geols_precompute.formatting import printable
from geols_train.cli import predict, train
from geols_train.cli_evaluate import evaluate

COMMANDS = {"geols-precompute": precompute, "geols-train": train, "geols-predict": predict, "geols-evaluate": evaluate}
COMMANDS |= {"geols-store": store, **{f"geols-store {name}": command for name, command in store.commands.items()}}


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (train, "--crop 8 8", "--crop takes 3 numbers (Z Y X)"),
        (train, "--crop 8 8 --epochs 3", "--crop takes 3 numbers (Z Y X); '--epochs' is none"),
        (train, "--window 8 8 x d", "--window takes 3 numbers (Z Y X); 'x' is none"),
        (
            train,
            "d --crop 8 8 8 8",
            "8 is one argument too many; of numbers, --crop takes 3, --window takes 3, --split",
        ),
        (train, "--split 3 1", "1 is no folder; of numbers, --crop takes 3"),
        (train, "--split 3 1 1", "1 is one argument too many; of numbers"),
        (train, "--crop 32 32 32 32", "32 is no folder; of numbers, --crop takes 3"),
        (train, "--batch-size x", "--batch-size must be a whole number, got 'x'"),
        (train, "--lr x", "--lr must be a number, got 'x'"),
        (train, "--method dice", "--method must be one of geols, ce, ls, fl, svls, gauss, "),
        (train, "--features 4,x", "--features: '4,x' is not of the form 16,32,64,128"),
        (train, "--alhpa 1", "no such option '--alhpa'"),
        (precompute, "--workers -1 d", "--workers must be a whole number of at least 0, got -1"),
        (precompute, "--clip 1", "--clip takes 2 numbers (LOW HIGH)"),
        (precompute, "--name", "option '--name' requires an argument"),
        (predict, "run", "IMAGES is missing; geols-predict --help lists what there is"),
        (evaluate, "a", "REFERENCE is missing"),
        (store, "infos x", "no such command 'infos'"),
        (store, "agreement a.zarr --alpha 2 -o b", "--alpha must be a number from 0 to 1, got 2.0"),
        (store, "info a b", "b is one argument too many; geols-store info --help lists what there is"),
    ],
)
def test_wrong_usage_is_one_line_like_every_other_error(command, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(name for name, other in COMMANDS.items() if other is command)
    result = CliRunner().invoke(command, arguments.split(), prog_name=name)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {says}"), result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_version_an_example_and_the_address_of_the_documentation(name, monkeypatch):
    command = COMMANDS[name]
    assert CliRunner().invoke(command, ["--version"]).output == f"geols {importlib.metadata.version('geols')}\n"
    found = importlib.metadata.metadata("geols")
    del found["Project-URL"]
    found["Project-URL"] = "Source, https://somewhere.example/source"
    found["Project-URL"] = "Documentation, https://somewhere.example/docs"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda package: found)
    said = CliRunner().invoke(command, ["-h"], prog_name=name).output
    assert f"\nExample:\n  {name} " in said
    assert said.endswith("\nDocumentation: https://somewhere.example/docs\n")


def test_no_summary_is_cut_short():
    said = " ".join(CliRunner().invoke(store, ["--help"]).output.split())
    assert "..." not in said.removeprefix("Usage: store [OPTIONS] COMMAND [ARGS]...")
    assert "rivals that need none, predict the other raters." in said


def test_temporary_names_are_in_no_message():
    name = f".tmp-{'0123456789abcdef' * 2}"
    assert printable(f"out/a.zarr/{name}/zarr.json: no space") == "out/a.zarr/zarr.json: no space"
    assert printable(f"{name}: no space") == ": no space"


@pytest.mark.parametrize(("stopped_by", "ends"), [(0, True), (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_command_that_ctrl_c_stopped_ends_by_that_signal(monkeypatch, stopped_by, ends):
    monkeypatch.setattr(signals, "_stopped_by", stopped_by)
    monkeypatch.setattr(signals, "_ends_by_interrupt", False)
    monkeypatch.setattr(train, "main", lambda *args, **kwargs: (_ for _ in ()).throw(SystemExit(130)))
    with pytest.raises(SystemExit):
        train()
    assert signals._ends_by_interrupt is ends


def test_completion_is_what_the_readme_says(monkeypatch):
    monkeypatch.setenv("_GEOLS_TRAIN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "geols-train --alph")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert CliRunner().invoke(train, [], prog_name="geols-train").output == "plain,--alpha\n"


def test_python_m_geols_train_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["geols_train", "--version"])
    with pytest.raises(SystemExit):
        runpy.run_module("geols_train", run_name="__main__")
    assert capsys.readouterr().out.startswith("geols ")
