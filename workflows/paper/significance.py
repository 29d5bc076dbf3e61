"""Significance: what of a difference is beyond chance.

Values are [repeat,case]. Differences are paired by both: a repeat has the same random seed, and so the same first
weights, order and augmentation, whatever is compared. A test case is the unit of the paired tests, with its mean over
repeats: they speak of new cases for these networks. The bootstrap draws repeats and cases, so its intervals also know
that training has chances of its own, as far as a handful of repeats can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean of paired differences, its bootstrap interval, and p of Wilcoxon's signed-rank test over cases."""

    mean: float
    low: float
    high: float
    p: float


def mean_of(values_RC: NDArray[np.float64]) -> float:
    """Return the mean over cases and repeats, without what is not defined; NaN if nothing is."""
    return float(np.nanmean(values_RC)) if np.isfinite(values_RC).any() else float("nan")


def spread_of(values_RC: NDArray[np.float64]) -> float | None:
    """Return the standard deviation (n - 1) of the repeats' means; None for fewer than two."""
    means = [mean_of(values_C) for values_C in values_RC]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def interval(values_RC: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, over repeats and cases; NaN if nothing is defined."""
    if np.isnan(values_RC).all():
        return float("nan"), float("nan")
    R, C = values_RC.shape
    rng = np.random.default_rng(0)
    repeats, cases = rng.integers(0, R, (DRAWS, R)), rng.integers(0, C, (DRAWS, C))
    # a draw of repeats is a weight for each: the sum over them first, which is small, then over cases
    weights = np.stack([(repeats == r).sum(axis=1) for r in range(R)], axis=1).astype(float)
    defined = ~np.isnan(values_RC)
    draws = np.arange(DRAWS)[:, None]
    total = (weights @ np.where(defined, values_RC, 0))[draws, cases].sum(axis=1)
    count = (weights @ defined.astype(float))[draws, cases].sum(axis=1)
    means = total[count > 0] / count[count > 0]
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def difference(one_RC: NDArray[np.float64], other_RC: NDArray[np.float64]) -> Difference:
    """Return one - other, paired by repeat and case."""
    paired_RC = one_RC - other_RC
    paired_C = _mean_over_repeats(paired_RC)
    paired_C = paired_C[~np.isnan(paired_C)]
    p = float(wilcoxon(paired_C).pvalue) if paired_C.any() else 1.0
    low, high = interval(paired_RC)
    return Difference(mean=mean_of(paired_RC), low=low, high=high, p=p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold for all of a family together (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(p) for p in adjusted]


def _mean_over_repeats(values_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    defined = ~np.isnan(values_RC)
    count_C = defined.sum(axis=0)
    return np.where(count_C > 0, np.where(defined, values_RC, 0).sum(axis=0) / np.maximum(count_C, 1), np.nan)
