"""The study of noisy labels: only what trains is deformed, the same way every time, and both studies can be read."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

WORKFLOWS = Path(__file__).parents[2] / "workflows"
sys.path[:0] = [str(WORKFLOWS / "noise"), str(WORKFLOWS / "paper")]

from matrix import read_study  # noqa: E402
from noise import deformed, dice, make_data  # noqa: E402

from geols_train.splits import make_split  # noqa: E402


def label_map():
    grid = np.indices((20, 24, 22))
    label = np.zeros((20, 24, 22), np.uint8)
    for value, centre in ((1, 8), (2, 16)):
        label[sum((g - c) ** 2 for g, c in zip(grid, (10, centre, 11), strict=True)) <= 16] = value
    return label


def test_labels_that_train_are_deformed_and_those_that_test_are_not(tmp_path):
    data, cases = tmp_path / "data", [f"h_{number}" for number in range(6)]
    for name in ("imagesTr", "labelsTr"):
        (data / name).mkdir(parents=True)
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    for case in cases:
        sitk.WriteImage(sitk.GetImageFromArray(label_map()), str(data / f"labelsTr/{case}.nii.gz"))
    make_data(data, tmp_path / "out", "3,1,2")
    tested = set(make_split("3,1,2", cases, seed=0).test)
    scores = {row["case"]: row for row in csv.DictReader((tmp_path / "out/noise.csv").read_text().splitlines())}
    assert set(scores) == set(cases) - tested
    for case in cases:
        clean, noisy = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"out/{name}/labelsTr/{case}.nii.gz")))
            for name in ("clean", "noisy")
        )
        assert np.array_equal(clean, label_map())
        assert np.array_equal(noisy, clean) == (case in tested)
        if case not in tested:
            found = dice(clean == 1, noisy == 1)
            assert 0.5 < found < 1
            assert float(scores[case]["anterior"]) == round(found, 4)
    assert np.array_equal(deformed(label_map(), "h_0"), deformed(label_map(), "h_0"))
    assert not np.array_equal(deformed(label_map(), "h_0"), deformed(label_map(), "h_1"))


def test_the_study_is_what_was_registered():
    study = read_study(WORKFLOWS / "noise/noise.toml")
    kinds = {t.kind for t in study.trainings()}
    assert kinds == {
        "ce", "ls-0.1", "svls", "geols-0.1-skeleton", "geols-0.1-skeleton-lam-0.0", "geols-0.1-border-margin-2",
        "geols-0.1-skeleton-control-shuffled",
    }  # fmt: skip
    assert len(study.trainings()) == 5 * len(kinds)
    protocol = read_study(WORKFLOWS / "paper/hippocampus.toml").train
    assert study.train == {**protocol, "precision": "bf16", "channels-last": True, "compile": True}
    assert study.metrics[:4] == ["dice", "surface_dice", "hd95_mm", "nll_border"]
