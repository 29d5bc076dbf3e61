"""The study of trainings: scores by hand, and a split that keeps patients apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from raters import rated_stores, write_raters

from geols_precompute.store.reader import VolumeStore

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
SPEC = importlib.util.spec_from_file_location("train_study", ROOT / "workflows/raters/train.py")
train = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(train)


def test_scores_by_hand(tmp_path):
    def drawn(label, seed, count):
        return [np.roll(label, shift, axis=2) for shift in range(1, count + 1)]

    out = rated_stores(write_raters(tmp_path, drawn, cases=1, raters=3))
    volumes = VolumeStore.open(out / "volumes.zarr")
    raters = np.stack([*volumes.raters("case00").values()]) == 1
    others = raters[1:]
    t = others.mean(axis=0)
    ideal = train.scores_of(volumes, "case00", t)
    assert ideal["brier"] == pytest.approx(0, abs=1e-9)
    assert ideal["soft_dice"] == pytest.approx(1)
    assert ideal["nll"] == pytest.approx(
        np.log(2) * (t == 0.5).sum() / train.near_raters(raters, (1, 1, 1)).sum(), abs=1e-5
    )
    first = train.scores_of(volumes, "case00", others[0].astype(float))
    common, n = (others[0] & others[1]).sum(), others[0].sum()
    assert first["dice"] == pytest.approx((1 + 2 * common / (n + others[1].sum())) / 2)
    assert first["soft_dice"] == pytest.approx(1 - 0.5 * (others[0] ^ others[1]).sum() / (n + t.sum()))
    # 2·E d(S, Y) - E d(Y, Y'), where S is the first rater
    d = 1 - common / (others[0] | others[1]).sum()
    assert first["ged"] == pytest.approx(2 * d / 2 - d / 2)


def test_what_counts_lies_within_3_mm_of_what_any_rater_drew():
    raters = np.zeros((2, 1, 9, 9), bool)
    raters[0, 0, 4, 4] = raters[1, 0, 4, 5] = True
    near = train.near_raters(raters, (1.0, 2.0, 1.5))
    rows = {3: [2, 3, 4, 5, 6, 7], 4: [2, 3, 4, 5, 6, 7], 5: [2, 3, 4, 5, 6, 7]}
    expected = {
        (y, x) for y in rows for x in rows[y] if min(np.hypot(2.0 * (y - 4), 1.5 * (x - c)) for c in (4, 5)) <= 3.0
    }
    assert {(int(y), int(x)) for _, y, x in np.argwhere(near)} == expected


def test_no_patient_is_in_two_parts():
    patients = {f"c{n:03d}": f"p{n // 2:03d}" for n in range(100)}
    split = train.split_by_patient(patients)
    assert sorted(split.cases) == sorted(patients)
    parts = [{patients[case] for case in part} for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [20, 5, 25]
    assert len(set.union(*parts)) == 50


def test_a_training_that_is_missing_is_named():
    rows = [
        {"method": "CE", "seed": "0", "patient": "a", "dice": "0.5"},
        {"method": "CE", "seed": "0", "patient": "a", "dice": "1"},
    ]
    np.testing.assert_array_equal(train.by_seed_and_patient(rows, "CE", "dice", [0]), [[0.75]])
    with pytest.raises(Exception, match="CE lacks the training with seed 1"):
        train.by_seed_and_patient(rows, "CE", "dice", [0, 1])
