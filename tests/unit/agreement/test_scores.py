"""Scores of soft labels against raters, each recomputed the slow way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geols_precompute.agreement.patients import halves
from geols_precompute.agreement.rivals import rivals
from geols_precompute.agreement.scores import (
    GED_SAMPLES,
    LEVELS,
    Border,
    Histogram,
    as_it_stands,
    auc,
    calibration,
    energy_distance,
    interval,
    over_patients,
    softening_aucs,
)
from geols_precompute.data.patients import read_patients
from geols_precompute.errors import InputError

RNG = np.random.default_rng(0)
SHAPE = (4, 9, 11)
LABEL = np.zeros(SHAPE, bool)
LABEL[1:3, 3:7, 2:8] = True
EVERYWHERE = np.ones(SHAPE, bool)
SPACING = (2.5, 1.0, 0.5)


def test_auc_counts_pairs():
    score, positive = RNG.integers(0, 5, 60), RNG.random(60) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert auc(score, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(score, np.ones(60, bool)))


def test_band_and_shells_by_brute_force():
    border = Border.of(LABEL, SPACING, 1.2, EVERYWHERE)
    voxels = [*itertools.product(*map(range, SHAPE))]
    for v in voxels:
        others = [w for w in voxels if LABEL[w] != LABEL[v]]
        nearest = min(np.linalg.norm((np.array(v) - w) * SPACING) for w in others)
        assert border.band[v] == (nearest <= 1.2)
        beside = any(sum(abs(a - b) for a, b in zip(v, w, strict=True)) == 1 for w in others)
        assert (border.inner | border.outer)[v] == beside
    assert not (border.inner & ~LABEL).any()
    assert not (border.outer & LABEL).any()
    valid = EVERYWHERE.copy()
    valid[:, :, :4] = False
    assert not (Border.of(LABEL, SPACING, 1.2, valid).band & ~valid).any()


def test_equal_softening_ranks_nothing_and_the_truth_everything():
    border = Border.of(LABEL, SPACING, 1.2, EVERYWHERE)
    others = np.stack([LABEL, LABEL])
    others[0, 1, 3, 2:8] = False
    smoothed = np.where(LABEL, np.float32(0.95), np.float32(0.05))
    assert softening_aucs(smoothed, border, others)[0] == 0.5
    band, inner, outer = softening_aucs(others.mean(axis=0, dtype=np.float32), border, others)
    assert (band, inner) == (1, 1)
    assert np.isnan(outer)


def test_calibrated_scores_are_those_of_the_voxels():
    soft, target = RNG.integers(0, LEVELS + 1, 500) / LEVELS, RNG.integers(0, 4, 500) / 3
    probability = RNG.random(LEVELS + 1)
    q = probability[np.rint(soft * LEVELS).astype(int)]
    histogram = Histogram.of(soft, target)
    assert histogram.brier(probability) == pytest.approx(np.mean((q - target) ** 2))
    entropy = -(target * np.log(q) + (1 - target) * np.log(1 - q))
    assert histogram.log_loss(probability) == pytest.approx(np.mean(entropy))
    bins = np.minimum((q * 15).astype(int), 14)
    gaps = [abs(np.sum(q[bins == b] - target[bins == b])) / 500 for b in range(15)]
    assert histogram.calibration_error(probability) == pytest.approx(sum(gaps))
    assert histogram.brier(as_it_stands()) == pytest.approx(np.mean((soft - target) ** 2))


def test_calibration_is_the_mean_of_each_level_with_cases_of_equal_weight():
    small = Histogram.of(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.0, 0.0, 1.0, 0.5]))
    large = Histogram.of(np.repeat([0.25, 0.75], 500), np.repeat([0.5, 0.75], 500))
    probability = calibration([small, large])
    assert probability[LEVELS // 4] == pytest.approx(0.25, abs=1e-3)
    assert probability[3 * LEVELS // 4] == pytest.approx(0.75, abs=1e-3)
    # a level that no case has is that of its neighbour
    assert probability[0] == probability[LEVELS // 4]
    assert probability[LEVELS] == probability[3 * LEVELS // 4]
    assert len(np.unique(probability)) == 2


def test_calibration_restores_what_was_distorted():
    truth = np.linspace(0.02, 0.98, 20_000)
    target = (RNG.random((3, truth.size)) < truth).mean(axis=0)
    probability = calibration([Histogram.of(truth**3, target)])
    found = probability[np.rint(truth**3 * LEVELS).astype(int)]
    assert np.abs(found - truth).mean() < 0.02


def test_energy_distance_by_explicit_segmentations():
    border = Border.of(LABEL, SPACING, 1.2, EVERYWHERE)
    others = np.stack([LABEL, np.roll(LABEL, 1, axis=2), np.roll(LABEL, -1, axis=1)])
    probability = RNG.random(SHAPE)
    thresholds = (np.arange(GED_SAMPLES) + 0.5) / GED_SAMPLES
    samples = [np.where(border.band, probability >= t, LABEL) for t in thresholds]

    def distance(a, b):
        return 1 - np.sum(a & b) / np.sum(a | b)

    to = np.mean([distance(s, y) for s in samples for y in others])
    among = [np.mean([distance(a, b) for a in group for b in group]) for group in (samples, others)]
    assert energy_distance(probability, border, others) == pytest.approx(2 * to - sum(among))
    assert energy_distance(LABEL.astype(float), border, np.stack([LABEL] * 3)) == pytest.approx(0)


def test_the_interval_is_that_of_a_mean():
    values = RNG.normal(0.2, 1, 400).tolist()
    found = interval(values)
    assert found.mean == pytest.approx(np.mean(values))
    standard_error = np.std(values) / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert found.decides == (found.low > 0)
    assert interval(values) == found


def test_cases_count_by_patient():
    scores = {"a": 1.0, "b": 3.0, "c": 5.0, "d": float("nan")}
    assert over_patients(scores, {"a": "x", "b": "x", "c": "y", "d": "z"}) == {"x": 2.0, "y": 5.0}


def test_halves_keep_patients_together():
    patients = {f"case{n}": f"p{n // 2}" for n in range(14)}
    found = halves(patients, 3)
    assert all(found[f"case{n}"] == found[f"case{n + 1}"] for n in range(0, 14, 2))
    order = np.random.default_rng(3).permutation(7)
    assert {int(case[4:]) // 2 for case, half in found.items() if half == "fit"} == set(order[:4].tolist())


def test_patients_from_csv_and_json(tmp_path):
    (tmp_path / "p.csv").write_text("case,patient\na,1\nb,1\n")
    (tmp_path / "p.json").write_text('[{"case": "a", "patient": "1", "raters": 4}, {"case": "b", "patient": "1"}]')
    for name in ("p.csv", "p.json"):
        assert read_patients(tmp_path / name, ["a", "b"]) == {"a": "1", "b": "1"}
    with pytest.raises(InputError, match="names no patient of 1 case, the first c"):
        read_patients(tmp_path / "p.csv", ["a", "c"])
    (tmp_path / "p.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="list of objects"):
        read_patients(tmp_path / "p.json", ["a"])


def test_rivals_on_a_plane_are_what_their_formulas_say():
    from scipy.special import ndtr

    label = np.zeros((1, 1, 40), np.uint8)
    label[..., 20:] = 1
    # the border lies half a voxel before the first voxel of the class
    x = (np.arange(40) - 19.5) * 0.5
    np.testing.assert_allclose(
        rivals((1.5,))["Gaussian 1.5 mm"](label, (1, 1, 0.5), 2)[1, 0, 0], ndtr(x / 1.5), atol=2e-3
    )
    # to the nearest voxel of the other side
    d = np.where(label[0, 0] == 1, np.arange(40) - 19, np.arange(40) - 20) * 0.5
    np.testing.assert_allclose(
        rivals()["signed distance"](label, (1, 1, 0.5), 2)[1, 0, 0], 1 / (1 + np.exp(-d)), rtol=1e-5
    )


def test_rivals_are_distributions_and_leave_ignored_voxels_out():
    label = RNG.integers(0, 3, (3, 6, 7)).astype(np.uint8)
    label[0, 0, :3] = 255
    for name, rival in rivals((0.5, 2.0)).items():
        soft = rival(label, SPACING, 3)
        np.testing.assert_allclose(soft.sum(axis=0), label != 255, atol=1e-5, err_msg=name)
