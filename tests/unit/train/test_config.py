"""The configuration: defaults of the paper, TOML and back, and one clear message for each wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest

from geols_precompute.errors import RecipeError
from geols_train.config import TrainConfig, options, read_toml
from geols_train.run import run_name


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (200, 4, 1e-4, 1e-4)
    assert (config.method, config.alpha, config.normalize, config.augment) == ("geols", 0.1, "sum", "paper")
    assert config.features == (16, 32, 64, 128, 256, 512)
    assert config.data == Path("data")


def test_toml_and_back(tmp_path):
    config = TrainConfig(
        data=Path("a b"), alpha=0.25, lr=1e-5, crop=(32, 48, 64), workers=2, tensorboard=True, labels='odd"näme'
    )
    (tmp_path / "c.toml").write_text(config.to_toml(), encoding="utf-8")
    assert TrainConfig.from_mapping(read_toml(tmp_path / "c.toml")) == config


def test_a_run_is_named_by_what_sets_it_apart():
    assert run_name(TrainConfig()) == "labels-geols-0.1"
    assert run_name(TrainConfig(labels="x/erosion.zarr", alpha=0.25)) == "erosion-geols-0.25"
    assert run_name(TrainConfig(method="ce")) == "ce"
    assert run_name(TrainConfig(method="ls")) == "ls-0.1"
    assert run_name(TrainConfig(method="gauss", width=0.75)) == "gauss-0.75"
    assert run_name(TrainConfig(method="dilate")) == "dilate-0.1-1"
    assert run_name(TrainConfig(method="mbls", margin=6)) == "mbls-0.1-6"


def test_a_setting_of_one_method_has_that_methods_default_and_is_kept(tmp_path):
    assert TrainConfig().width is TrainConfig().penalty is TrainConfig().margin is None
    assert TrainConfig(method="sdf").width == 1.0
    assert TrainConfig(method="nuls").width == 0.5
    nacl, mbls = TrainConfig(method="nacl"), TrainConfig(method="mbls")
    assert (nacl.penalty, nacl.margin, mbls.penalty, mbls.margin) == (0.1, None, 0.1, 10.0)
    (tmp_path / "c.toml").write_text(mbls.to_toml())
    assert read_toml(tmp_path / "c.toml")["margin"] == 10.0
    assert TrainConfig.from_mapping(read_toml(tmp_path / "c.toml")) == mbls


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("hippocampus", "hippocampus-ce"),
        ("../sets/Task04/geols/", "Task04-ce"),
        ("brats/data", "brats-ce"),
        ("/data/geols", "ce"),
        ("data/flare/", "flare-ce"),
        (".", "here-ce"),
        ("..", "above-ce"),
    ],
)
def test_the_runs_of_two_data_sets_have_different_names(tmp_path, monkeypatch, data, name):
    (tmp_path / "above/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above/here")
    assert run_name(TrainConfig(data=Path(data), method="ce")) == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, r"--alpha must be in \[0, 1\], got 1.5"),
        ({"alpha": -0.1}, r"--alpha must be in \[0, 1\]"),
        ({"alpha": float("nan")}, r"--alpha must be in \[0, 1\]"),
        ({"method": "dice"}, "--method must be one of geols, ce, ls, fl, svls, .*, raters, got 'dice'"),
        (
            {"method": "ce", "width": 1},
            "--width belongs to --method gauss, sdf, dilate, bls and nuls; here is --method ce: leave",
        ),
        ({"penalty": 0.1}, "--penalty belongs to --method nacl and mbls; here is --method geols"),
        ({"method": "nacl", "margin": 1}, "--margin belongs to --method mbls; here is --method nacl"),
        ({"method": "gauss", "width": 0}, "--width must be a positive number, got 0"),
        ({"method": "mbls", "margin": -1}, "--margin must be a number of at least 0, got -1"),
        ({"normalize": "max"}, "--normalize must be one of sum, none"),
        ({"lr": 0}, "--lr must be a positive number"),
        ({"epochs": 0}, "--epochs must be a count of at least 1"),
        ({"epochs": True}, "--epochs must be a count of at least 1"),
        ({"batch_size": 2.0}, "--batch-size must be a count"),
        ({"dice_weight": -1}, "--dice-weight must be a number of at least 0"),
        ({"overlap": 1.0}, "--overlap must be from 0 to below 1"),
        ({"features": []}, "--features must be channel counts"),
        ({"flip_axes": "xq"}, "--flip-axes must be some of z, y and x, none of them twice, got 'xq'"),
        ({"crop": [64, 64]}, "--crop must be three voxel counts"),
        ({"crop": [31, 64, 64]}, "--crop 31 64 64 is too small: 6 levels .* need at least 32 voxels per axis"),
        ({"window": [8, 4, 8], "features": [4] * 4}, "--window 8 4 8 is too small: 4 levels"),
        ({"crop": [32, 32, 32], "window": [32, 32, 32]}, "give one of them"),
        ({"learning_rate": 1}, "unknown setting 'learning_rate'; known: accumulate, adam_eps, alpha, "),
        ({"features": 3}, "wrong type"),
        ({"split_seed": -1}, "--split-seed must be a whole number"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        TrainConfig.from_mapping(settings)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("alpha 0.1")
    with pytest.raises(RecipeError, match=r"bad\.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    "values",
    [
        {"labels": 3},
        {"crop": 64},
        {"data": 3},
        {"tensorboard": "no"},
        {"device": ""},
        {"flip_axes": ["z"]},
        {"split": 0.7},
    ],
)
def test_a_value_of_a_wrong_type_is_named(values):
    with pytest.raises(RecipeError, match=next(iter(values)).replace("_", ".")):
        TrainConfig.from_mapping(values)


def test_a_split_may_be_a_list_in_a_file():
    assert TrainConfig.from_mapping({"split": [3, 1, 2]}).split == "3,1,2"


def test_every_setting_says_what_it_is_and_takes_its_default():
    for name, option in options().items():
        assert option.help.endswith((".", "'s.")), name
        assert option.kind.valid(getattr(TrainConfig(), name)), name


def test_only_where_a_run_takes_place_may_change_when_it_is_resumed():
    assert {name for name, option in options().items() if option.may_change} == {
        "data",
        "cache",
        "workers",
        "device",
        "compile",
        "channels_last",
        "tensorboard",
        "profile",
    }
