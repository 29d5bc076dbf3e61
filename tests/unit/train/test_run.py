"""A run from configuration to folder: contents, repeats, resume, default sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from train_fixtures import make_stores, open_fixture, tiny_config

from geols_precompute.errors import InputError, OutputError, RecipeError, StoreError
from geols_precompute.recipe.parameters import TrainingHints
from geols_train.config import TrainConfig
from geols_train.folder import holds_run
from geols_train.log import read_log
from geols_train.run import resumed_config, train_and_test, with_size

FILES = {
    "config.toml",
    "split.json",
    "log.jsonl",
    "best.pt",
    "last.pt",
    "test_cases.csv",
    "summary.json",
    "curves.png",
    "cases.png",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), vary=True)


def test_a_run_folder(out, tmp_path):
    summary = train_and_test(tiny_config(out), tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["tested_on"] == "test"
    assert summary["cases"] == 2
    assert set(summary["structures"]) == {"inner", "outer"}
    assert summary["stores"]["labels"] == open_fixture(out).labels.digest
    assert len(read_log(tmp_path / "run")) == 2 * (2 + 1)
    for picture in ("curves.png", "cases.png"):
        assert (tmp_path / "run" / picture).read_bytes()[:4] == b"\x89PNG"


def test_repeats_share_the_split_and_differ_in_their_seeds(out, tmp_path):
    summary = train_and_test(tiny_config(out, repeats=2, epochs=1), tmp_path / "run")
    first, second = (json.loads((tmp_path / f"run/repeat-{n}/summary.json").read_text()) for n in (1, 2))
    dice = summary["mean_foreground_dice"]
    assert dice["mean"] == pytest.approx((first["mean_foreground_dice"] + second["mean_foreground_dice"]) / 2)
    expected = np.std([s["mean_foreground_dice"] for s in (first, second)], ddof=1)
    assert dice["std"] == pytest.approx(expected)
    assert (summary["method"], summary["alpha"], summary["epochs"]) == ("geols", 0.1, 1)
    assert read_log(tmp_path / "run/repeat-1") != read_log(tmp_path / "run/repeat-2")
    assert holds_run(tmp_path / "run")
    # what is finished is not done again; what a crash left half written goes
    (abandoned := tmp_path / f"run/repeat-1/.tmp-{'0' * 32}").write_bytes(b"half a checkpoint")
    log = (tmp_path / "run/repeat-1/log.jsonl").stat().st_mtime_ns
    assert train_and_test(resumed_config(tmp_path / "run", {}), tmp_path / "run", resume=True) == summary
    assert (tmp_path / "run/repeat-1/log.jsonl").stat().st_mtime_ns == log
    assert not abandoned.exists()


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_run_is_not_resumed_over_stores_that_changed(tmp_path, repeats):
    out = make_stores(tmp_path / "stores", cases=6)
    train_and_test(tiny_config(out, repeats=repeats, epochs=1), tmp_path / "run")
    if repeats > 1:
        # as if the run had been killed before its last repeat
        shutil.rmtree(tmp_path / "run/repeat-2")
    shutil.rmtree(out)
    make_stores(out, cases=6, vary=True)
    with pytest.raises(StoreError, match="the volumes store has changed since"):
        train_and_test(resumed_config(tmp_path / "run", {}), tmp_path / "run", resume=True)
    # nor with a training that was cut short
    for summary in (tmp_path / "run").rglob("summary.json"):
        summary.unlink()
    with pytest.raises(StoreError, match="the volumes store has changed since"):
        train_and_test(resumed_config(tmp_path / "run", {}), tmp_path / "run", resume=True)


def test_epochs_may_not_fall_nor_change_under_a_schedule(out, tmp_path):
    train_and_test(tiny_config(out), tmp_path / "constant")
    with pytest.raises(RecipeError, match=r"epochs 2 \(now 1\)"):
        resumed_config(tmp_path / "constant", {"epochs": 1})
    train_and_test(tiny_config(out, schedule="poly"), tmp_path / "poly")
    with pytest.raises(RecipeError, match=r"epochs 2 \(now 3\)"):
        resumed_config(tmp_path / "poly", {"epochs": 3})


def test_an_output_that_cannot_be_made_names_out(out, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        train_and_test(tiny_config(out), tmp_path / "file" / "run")


def test_a_resumed_run_may_go_on_longer_but_not_change(out, tmp_path):
    train_and_test(tiny_config(out, epochs=1), tmp_path / "run")
    config = resumed_config(tmp_path / "run", {"epochs": 2, "workers": 0})
    longer = train_and_test(config, tmp_path / "run", resume=True)
    assert longer["epochs"] == 2
    whole = train_and_test(tiny_config(out, epochs=2), tmp_path / "whole")
    assert longer["structures"] == whole["structures"]
    with pytest.raises(RecipeError, match=r"was trained with alpha 0.1 \(now 0.2\); leave that as it was"):
        resumed_config(tmp_path / "run", {"alpha": 0.2})
    with pytest.raises(InputError, match="holds no run to resume"):
        resumed_config(tmp_path, {})


def test_folds_without_test_cases_report_validation_and_say_so(out, tmp_path):
    fold = {"train": ["case_00", "case_01"], "val": ["case_02"]}
    (tmp_path / "splits_final.json").write_text(json.dumps([fold]))
    split = str(tmp_path / "splits_final.json")
    summary = train_and_test(tiny_config(out, split=split, epochs=1, method="ce", eval="crop"), tmp_path / "run")
    assert (summary["tested_on"], summary["cases"], summary["alpha"]) == ("validation", 1, None)
    assert "labels" not in summary["stores"]


def test_the_crop_is_the_recipes_else_the_median_size(tmp_path):
    plain = open_fixture(make_stores(tmp_path / "a", cases=2, shape=(10, 17, 33)))
    config = TrainConfig(data=Path("d"), features=(4, 8))
    assert with_size(config, plain, plain.cases).crop == (16, 24, 40)
    assert with_size(TrainConfig(features=(4,) * 6), plain, plain.cases).crop == (32, 32, 40)
    assert with_size(TrainConfig(features=(4, 8), window=(4, 4, 4)), plain, plain.cases).crop is None
    hinted = open_fixture(make_stores(tmp_path / "b", cases=1, hints=TrainingHints(crop=(8, 12, 12))))
    assert with_size(config, hinted, hinted.cases).crop == (8, 12, 12)
    with pytest.raises(RecipeError, match="the recipe's crop 8 12 12 is too small: 6 levels"):
        with_size(TrainConfig(features=(4,) * 6), hinted, hinted.cases)


def test_a_refused_run_leaves_no_folder(out, tmp_path):
    with pytest.raises(InputError, match="needs 33 cases"):
        train_and_test(tiny_config(out, split="30,1,2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
