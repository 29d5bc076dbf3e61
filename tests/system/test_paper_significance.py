"""The statistics of the studies against SciPy, textbook examples, and data whose truth is known."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows/paper"))

from results import DSC, HD95, Measured
from significance import Difference, difference, holm, interval, mean_of, spread_of
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


def test_the_interval_is_scipys_bootstrap(rng):
    values = rng.gamma(2.0, size=(1, 60))
    expected = stats.bootstrap((values[0],), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    assert interval(values) == pytest.approx(tuple(expected.confidence_interval), rel=0.02)


def test_repeats_that_differ_widen_the_interval(rng):
    cases = rng.normal(size=(1, 50))
    same, apart = np.repeat(cases, 3, axis=0), cases + np.array([[-1.0], [0.0], [1.0]])
    widths = [np.ptp(interval(values)) for values in (same, apart)]
    assert widths[0] == pytest.approx(np.ptp(interval(cases)), rel=0.03)
    # repeats add a standard error of sqrt(2/3) / sqrt(3) to the cases' own
    expected = 2 * 1.96 * np.hypot(cases.std() / np.sqrt(50), np.sqrt(2 / 3) / np.sqrt(3))
    assert widths[1] == pytest.approx(expected, rel=0.1)


def test_a_difference_is_paired_by_case(rng):
    cases = rng.normal(size=40) * 10
    one = cases + 0.5 + rng.normal(size=(3, 40)) * 0.1
    other = cases + rng.normal(size=(3, 40)) * 0.1
    found = difference(one, other)
    assert found.mean == pytest.approx(0.5, abs=0.05)
    assert 0.4 < found.low < found.mean < found.high < 0.6
    assert found.p == stats.wilcoxon(one.mean(axis=0), other.mean(axis=0)).pvalue < 1e-6
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
    assert difference(same, same).p == 1.0


def test_a_difference_reads_as_one_only_if_test_and_interval_agree():
    beyond = Difference(mean=1.0, low=0.2, high=1.8, p=0.001)
    assert verdict(beyond, 0.2, DSC) == "within noise"
    assert verdict(Difference(mean=1.0, low=-0.1, high=2.1, p=0.001), 0.001, DSC) == "within noise"
    assert verdict(beyond, 0.001, DSC) == "better"


def test_what_is_not_defined_is_left_out(rng):
    values = rng.normal(size=(2, 30))
    values[0, 3] = values[1, 5] = np.nan
    assert mean_of(values) == pytest.approx(np.nanmean(values))
    assert spread_of(values) == pytest.approx(np.std(np.nanmean(values, axis=1), ddof=1))
    assert spread_of(values[:1]) is None
    low, high = interval(values)
    assert low < mean_of(values) < high
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
