"""The statistics of the studies against SciPy, simulation, textbook examples, and data whose truth is known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows/paper"))

import coverage_of_intervals
from results import DSC, HD95, Measured
from significance import Estimate, by_patient, difference, estimate, holm, mean_of, spread_of
from tables import differences_table, metrics_table, verdict


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_holm_by_hand():
    # sorted 0.005 · 4, 0.01 · 3, 0.03 · 2, 0.04 · 1 and never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_without_a_share_of_repeats_it_is_the_t_interval_over_cases(rng):
    values = rng.normal(size=(1, 60))
    for repeats in (1, 3):
        found = estimate(np.repeat(values, repeats, axis=0))
        expected = stats.ttest_1samp(values[0], 0)
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_without_a_share_of_cases_it_is_the_t_interval_over_repeats(rng):
    values = rng.normal(size=(5, 1)) + 1e-9 * rng.normal(size=(5, 40))
    found, expected = estimate(values), stats.ttest_1samp(values.mean(axis=1), 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6)


def test_the_mean_squares_by_hand():
    # deviations of repeats -1, 1, of cases -2, 0, 2, and a rest of ±0.5 in two cases
    values = np.array([[-1.0], [1.0]]) + np.array([[-2.0, 0.0, 2.0]]) + np.array([[0.5, 0, -0.5], [-0.5, 0, 0.5]]) + 7
    repeats, cases, rest = 3 * 2.0, 2 * 4.0, 1.0 / 2
    variance = (cases + repeats - rest) / 6
    freedom = (cases + repeats - rest) ** 2 / (repeats**2 / 1 + cases**2 / 2 + rest**2 / 2)
    found = estimate(values)
    half = max(stats.t.ppf(0.975, freedom) * np.sqrt(variance), stats.t.ppf(0.975, 1) * np.sqrt((repeats - rest) / 6))
    assert found.mean == pytest.approx(7)
    assert found.high - 7 == pytest.approx(half)
    assert 7 - found.low == pytest.approx(half)


@pytest.mark.parametrize("size", coverage_of_intervals.SIZES)
@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("shares", [(0.0, 0.3), (0.2, 0.5), (1.0, 1.0)])
def test_intervals_hold_the_truth(size, skewed, shares):
    held = coverage_of_intervals.held(
        coverage_of_intervals.draw(np.random.default_rng(5), 2000, size, shares, skewed=skewed)
    )
    # 93 to 97 %, and twice the standard error of 2000 draws
    assert 0.93 - 0.01 <= held <= 0.97 + 0.01


def test_cases_alone_claim_what_seeds_brought_about():
    values = coverage_of_intervals.draw(np.random.default_rng(5), 200, (3, 40), (0.5, 0.5), skewed=False)
    assert coverage_of_intervals.wilcoxon_claims(values) > 0.3


def test_a_patient_with_several_cases_is_one(rng):
    patients = {f"c{i}": f"p{i // 4}" for i in range(40)}
    cases = list(patients)
    shared = np.repeat(rng.normal(size=10), 4)  # what a patient has, all cases have
    values = shared + 0.01 * rng.normal(size=(3, 40))
    by = by_patient(values, cases, patients)
    assert by == pytest.approx(values.reshape(3, 10, 4).mean(axis=2))
    assert np.ptp([estimate(by).low, estimate(by).high]) > 1.8 * np.ptp([estimate(values).low, estimate(values).high])
    # without names every case is a patient; a patient without a defined case has no value
    assert by_patient(values, cases, {}) == pytest.approx(values)
    values[1, :4] = np.nan
    assert np.isnan(by_patient(values, cases, patients)[:, 0]).all()


def test_a_difference_is_paired_by_case(rng):
    cases = rng.normal(size=40) * 10
    one = cases + 0.5 + rng.normal(size=(3, 40)) * 0.1
    other = cases + rng.normal(size=(3, 40)) * 0.1
    found = difference(one, other)
    assert found.mean == pytest.approx(0.5, abs=0.05)
    assert 0.4 < found.low < found.mean < found.high < 0.6
    assert found.p < 0.001
    assert verdict(found, found.p, DSC) == "better"
    assert verdict(found, found.p, HD95) == "worse"


def test_a_difference_is_paired_by_repeat(rng):
    seeds = np.array([[-2.0], [0.0], [2.0]])  # what a seed does, it does to both
    cases = rng.normal(size=(3, 40)) + seeds
    found = difference(cases + 0.3 + rng.normal(size=(3, 40)) * 0.1, cases)
    assert 0.25 < found.low < 0.3 < found.high < 0.35
    # and what a repeat does to the difference is in the interval
    uneven = difference(cases + seeds, cases)
    assert uneven.low < -1 < 1 < uneven.high


def test_repeats_that_only_one_of_two_has_are_not_compared(rng):
    def measured(kind, values, repeats):
        per_structure = np.asarray(values)[:, :, None]
        return Measured(
            kind=kind,
            repeats=repeats,
            cases=tuple("abcdefgh"),
            structures=("s",),
            values={metric.column: per_structure for metric in (DSC, HD95)},
        )

    one = rng.normal(size=(2, 8))
    rows = [("one", measured("one", one, (0, 1))), ("other", measured("other", one[1:] - 2, (1,)))]
    table = differences_table("d", "", rows, rows[0], (DSC,))
    assert dict(table.rows[0][2].numbers)["mean"] == pytest.approx(-2)


def test_nothing_is_claimed_where_there_is_nothing(rng):
    claims = 0
    for _ in range(200):
        one, other = rng.normal(size=(2, 3, 40))
        found = difference(one, other)
        claims += verdict(found, found.p, DSC) != "within noise"
    assert claims <= 20  # 5 % and chance
    same = rng.normal(size=(3, 40))
    assert difference(same, same) == Estimate(mean=0.0, low=0.0, high=0.0, p=1.0)


def test_a_difference_reads_as_one_only_if_it_holds_for_the_whole_table():
    beyond = Estimate(mean=1.0, low=0.2, high=1.8, p=0.001)
    assert verdict(beyond, 0.2, DSC) == "within noise"
    assert verdict(beyond, 0.001, DSC) == "better"


def test_what_is_not_defined_is_left_out(rng):
    values = rng.normal(size=(2, 30))
    values[0, 3] = values[1, 5] = np.nan
    # a case counts where every repeat has it
    left = np.delete(values, [3, 5], axis=1)
    assert mean_of(values) == pytest.approx(left.mean())
    assert spread_of(values) == pytest.approx(np.std(left.mean(axis=1), ddof=1))
    assert spread_of(values[:1]) is None
    assert estimate(values) == estimate(left)
    empty = values.copy()
    empty[:, 7] = np.nan
    found = difference(empty, rng.normal(size=(2, 30)))
    assert np.isfinite([found.mean, found.low, found.high, found.p]).all()


def test_a_distance_that_is_defined_nowhere_has_no_difference():
    nothing = np.full((2, 5), np.nan)
    found = difference(nothing, nothing)
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert verdict(found, 1.0, HD95) == "not defined"
    assert np.isnan(mean_of(nothing))


def test_a_mean_over_structures_is_defined_where_all_of_them_are():
    hard, easy = [2.0, np.nan, 2.0], [1.0, 1.0, 1.0]
    values = {HD95.column: np.stack([easy, hard], axis=-1)[None]}
    found = Measured(kind="k", repeats=(0,), cases=tuple("abc"), structures=("easy", "hard"), values=values)
    assert found.of(HD95)[0] == pytest.approx([1.5, np.nan, 1.5], nan_ok=True)
    # what misses a case is not ranked
    other = replace(found, values={HD95.column: np.full((1, 3, 2), 9.0)})
    table = metrics_table("t", "", [("misses", found), ("worse", other)], (HD95,), structures=False)
    assert [row[1].emphasis for row in table.rows] == ["", ""]
    # equal ones share a mark
    table = metrics_table("t", "", [("one", other), ("same", other)], (HD95,), structures=False)
    assert [row[1].emphasis for row in table.rows] == ["best", "best"]


@pytest.mark.parametrize("metric", [DSC, HD95])
def test_the_best_two_are_marked(metric):
    rows = []
    for name, value in (("low", 1.0), ("high", 3.0), ("middle", 2.0)):
        values = {metric.column: np.full((1, 4, 1), value)}
        rows.append((name, Measured(kind=name, repeats=(0,), cases=tuple("abcd"), structures=("s",), values=values)))
    table = metrics_table("t", "", rows, (metric,), structures=False)
    marks = {row[0].text: row[1].emphasis for row in table.rows}
    best, worst = ("high", "low") if metric is DSC else ("low", "high")
    assert marks == {best: "best", "middle": "second", worst: ""}
