"""Significance: what of a difference is beyond chance, for other seeds and for other patients at once.

Values are [repeat,case], or [repeat,patient] where a patient has several cases (`by_patient`). Differences are paired
by both: a repeat has the same random seed, and so the same first weights, order and augmentation, whatever is compared.

A value is the mean, a share of its repeat, a share of its case, and a rest, all drawn at random: the two-way model with
random effects and one observation per cell (Searle, Casella and McCulloch 1992, Variance Components, chapter 4). With R
repeats, C cases and the mean squares of repeats, cases and rest, the mean has the variance

    (MS_cases + max(0, MS_repeats - MS_rest)) / RC

and its degrees of freedom are Satterthwaite's (1946), over the mean squares that are in it. No interval is narrower
than the share of the repeats alone, with R - 1 degrees of freedom, asks for: Satterthwaite's are too many where few
repeats by chance are alike. coverage_of_intervals.py measures how often such an interval holds the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, its two-way interval, and p of the hypothesis that it is 0; NaN and p = 1 if nothing is defined."""

    mean: float
    low: float
    high: float
    p: float


def mean_of(values_RC: NDArray[np.float64]) -> float:
    """Return the mean over the cases that are defined in every repeat; NaN if none is."""
    values_RC = complete(values_RC)
    return float(values_RC.mean()) if values_RC.size else float("nan")


def spread_of(values_RC: NDArray[np.float64]) -> float | None:
    """Return the standard deviation (n - 1) of the repeats' means; None for fewer than two."""
    values_RC = complete(values_RC)
    return float(np.std(values_RC.mean(axis=1), ddof=1)) if len(values_RC) > 1 and values_RC.size else None


def complete(values_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cases that are defined in every repeat: the shares of repeats and cases are told apart by those."""
    return values_RC[:, ~np.isnan(values_RC).any(axis=0)]


def by_patient(
    values_RC: NDArray[np.float64], cases: Sequence[str], patients: Mapping[str, str]
) -> NDArray[np.float64]:
    """Return [repeat,patient]: means over the defined cases of each patient, who then count alike.

    Args:
        values_RC: by case.
        cases: their ids.
        patients: of each case; a case that is not named is a patient of its own.
    """
    places: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        places.setdefault(patients.get(case, case), []).append(place)
    means = []
    for of_patient in places.values():
        defined_RC = complete(values_RC[:, of_patient])
        means.append(defined_RC.mean(axis=1) if defined_RC.size else np.full(len(values_RC), np.nan))
    return np.stack(means, axis=1)


def estimate(values_RC: NDArray[np.float64]) -> Estimate:
    """Return the mean of values with its two-way interval.

    With one repeat the interval is of other cases alone, for this one training.
    """
    values_RC = complete(values_RC)
    if not values_RC.size:
        return Estimate(mean=np.nan, low=np.nan, high=np.nan, p=1.0)
    mean, errors = float(values_RC.mean()), _errors(values_RC)
    half = max(float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error for error, freedom in errors)
    p = max(float(2 * stats.t.sf(_ratio(abs(mean), error), freedom)) for error, freedom in errors)
    return Estimate(mean=mean, low=mean - half, high=mean + half, p=p)


def _errors(values_RC: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return standard errors of the mean with their degrees of freedom; the one that asks for most counts."""
    R, C = values_RC.shape
    n = R * C
    if n == 1:
        return [(np.inf, 1.0)]
    if 1 in (R, C):
        return [(float(values_RC.std(ddof=1) / np.sqrt(n)), n - 1.0)]
    of_repeats_R, of_cases_C = values_RC.mean(axis=1, keepdims=True), values_RC.mean(axis=0, keepdims=True)
    rest_RC = values_RC - of_repeats_R - of_cases_C + values_RC.mean()
    repeats = float(C * of_repeats_R.var(ddof=1))
    cases = float(R * of_cases_C.var(ddof=1))
    rest = float((rest_RC**2).sum() / ((R - 1) * (C - 1)))
    beyond = max(0.0, repeats - rest)
    squares = [(cases, C - 1)] + ([(repeats, R - 1), (rest, (R - 1) * (C - 1))] if beyond else [])
    below = sum(square**2 / freedom for square, freedom in squares)
    freedom = (cases + beyond) ** 2 / below if below else C - 1.0
    return [(float(np.sqrt((cases + beyond) / n)), freedom), (float(np.sqrt(beyond / n)), R - 1.0)]


def _ratio(mean: float, error: float) -> float:
    return mean / error if error else np.inf if mean else 0.0


def difference(one_RC: NDArray[np.float64], other_RC: NDArray[np.float64]) -> Estimate:
    """Return one - other, paired by repeat and case."""
    return estimate(one_RC - other_RC)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold for all of a family together (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(p) for p in adjusted]
