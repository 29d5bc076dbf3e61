"""Significance: what of a difference is beyond chance.

Values are [repeat,case]. A test case is the unit of the paired tests, with its mean over repeats: they speak of new
cases for these networks. The bootstrap draws repeats and cases, so its intervals also know that training has chances
of its own, as far as a handful of repeats can tell.
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
    """Return the mean over cases and repeats, without what is not defined."""
    return float(np.nanmean(values_RC))


def spread_of(values_RC: NDArray[np.float64]) -> float | None:
    """Return the standard deviation (n - 1) of the repeats' means; None for a single repeat."""
    return float(np.std(np.nanmean(values_RC, axis=1), ddof=1)) if len(values_RC) > 1 else None


def interval(values_RC: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, over repeats and cases."""
    return _percentiles(_draws(values_RC, *_indices(values_RC.shape, np.random.default_rng(0))))


def difference(one_RC: NDArray[np.float64], other_RC: NDArray[np.float64]) -> Difference:
    """Return one - other, paired by case; the number of repeats may differ."""
    paired_C = _mean_over_repeats(one_RC) - _mean_over_repeats(other_RC)
    paired_C = paired_C[~np.isnan(paired_C)]
    p = float(wilcoxon(paired_C).pvalue) if paired_C.any() else 1.0
    rng = np.random.default_rng(0)
    repeats, cases = _indices(one_RC.shape, rng)
    other_repeats, _ = _indices(other_RC.shape, rng)
    # the same cases of both, and repeats that have nothing to do with each other
    draws = _draws(one_RC, repeats, cases) - _draws(other_RC, other_repeats, cases)
    low, high = _percentiles(draws)
    return Difference(mean=float(np.mean(paired_C)), low=low, high=high, p=p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values that hold for all of a family together (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return [float(p) for p in adjusted]


def _indices(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    R, C = shape
    return rng.integers(0, R, (DRAWS, R)), rng.integers(0, C, (DRAWS, C))


def _draws(values_RC: NDArray[np.float64], repeats: NDArray[np.intp], cases: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean of each draw."""
    # a draw of repeats is a weight for each: the mean over them first, which is small, then over cases
    R = len(values_RC)
    weights = np.stack([(repeats == r).sum(axis=1) for r in range(R)], axis=1).astype(float)
    defined = ~np.isnan(values_RC)
    total = (weights @ np.where(defined, values_RC, 0))[np.arange(DRAWS)[:, None], cases].sum(axis=1)
    count = (weights @ defined.astype(float))[np.arange(DRAWS)[:, None], cases].sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _mean_over_repeats(values_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    defined = ~np.isnan(values_RC)
    count_C = defined.sum(axis=0)
    return np.where(count_C > 0, np.where(defined, values_RC, 0).sum(axis=0) / np.maximum(count_C, 1), np.nan)
