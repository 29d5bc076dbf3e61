"""Flags that would change nothing are refused, by the command; a file of settings may hold all of them."""

from __future__ import annotations

import pytest
from train_fixtures import make_stores
from trainings import SMALL, run

from geols_train import cli


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_stores(folder)
    return folder


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--flip-axes", "x"], "--flip-axes belongs to --augment flips; here is --augment paper, which flips and"),
        (["--augment", "none", "--flip-axes", "x"], "--flip-axes belongs to --augment flips; here is --augment none:"),
        (
            ["--method", "ce", "--alpha", "0.1"],
            "--alpha belongs to --method geols, ls, dilate and bls; here is --method ",
        ),
        (["--method", "svls", "--normalize", "none"], "--normalize belongs to --method geols; here is --method svls"),
        (["--focal-gamma", "2"], "--focal-gamma belongs to --method fl; here is --method geols: leave it out"),
        (["--method", "ls", "--labels", "labels"], "--labels belongs to --method geols; here is --method ls, which "),
        (["--split", "s.json", "--split-seed", "1"], "--split-seed belongs to a split that is drawn; here is --split "),
        (
            ["--precision", "tf32", "--device", "cpu"],
            "--precision tf32 belongs to CUDA GPUs; here is the device cpu, which computes in float32: leave it out",
        ),
        (["--cache", "device", "--workers", "2"], "--workers belongs to --cache none and ram; here is --cache device"),
    ],
)
def test_a_flag_without_effect_is_refused(data, tmp_path, flags, says):
    result = run(cli.train, data, *SMALL, "--out", tmp_path / "run", *flags)
    assert (result.exit_code, result.output.startswith(f"error: {says}")) == (2, True), result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_flags_with_an_effect_and_settings_of_a_file_are_taken(data, tmp_path):
    settings = 'method = "ce"\nalpha = 0.3\nlabels = "labels"\nflip_axes = "x"\nfocal_gamma = 2.0\n'
    (tmp_path / "all.toml").write_text(settings)
    result = run(
        cli.train, data, *SMALL, "--out", tmp_path / "run", "--config", tmp_path / "all.toml", "--augment", "flips",
        "--flip-axes", "y", "--split-seed", "1", "--cache", "device", "--workers", "0", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert 'flip_axes = "y"' in (tmp_path / "run/config.toml").read_text()
