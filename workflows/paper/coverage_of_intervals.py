"""Measure how often the intervals of significance.py hold the truth, and what other tests claim where there is nothing.

    python workflows/paper/coverage_of_intervals.py --draws 20000

Differences are drawn from the two-way model: a share of each repeat and of each case, in units of the rest. In the
paired differences of the hippocampus study those of repeats are 0 to 0.2, those of cases 0.1 to 0.5. "skewed" are
cases and rest from gamma distributions, with the tails of a Dice that few cases lose.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from significance import estimate

SIZES = ((3, 40), (5, 60), (8, 40))
#: Standard deviations of the shares of repeats and cases; that of the rest is 1.
SHARES = ((0.0, 0.3), (0.1, 0.3), (0.2, 0.5), (0.5, 0.5), (0.0, 1.0), (0.2, 1.0), (1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure coverage; see the top of this file.")
    parser.add_argument("--draws", type=int, default=20_000, help="of each kind (default 20000)")
    draws = parser.parse_args().draws
    print("| repeats × cases | share of repeats | of cases | drawn as | two-way | cases alone | bootstrap | Wilcoxon |")
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    for size in SIZES:
        for shares in SHARES:
            for skewed in (False, True):
                values = draw(np.random.default_rng(0), draws, size, shares, skewed=skewed)
                few = values[: max(1, draws // 40)]
                found = [held(values), float(np.mean(stats.ttest_1samp(values.mean(axis=1), 0, axis=1).pvalue >= 0.05))]
                found += [bootstrap_held(few), 1 - wilcoxon_claims(few)]
                print(
                    f"| {size[0]} × {size[1]} | {shares[0]} | {shares[1]} | {'skewed' if skewed else 'normal'} | "
                    + " | ".join(f"{100 * share:.1f}" for share in found)
                    + " |",
                    flush=True,
                )


def draw(
    rng: np.random.Generator, draws: int, size: tuple[int, int], shares: tuple[float, float], *, skewed: bool
) -> NDArray[np.float64]:
    """Return [draw,repeat,case] with a mean of 0."""
    (R, C), (of_repeats, of_cases) = size, shares

    def unit(shape: tuple[int, ...]) -> NDArray[np.float64]:
        # a gamma distribution of shape 4 has mean 4, variance 4 and skewness 1
        return rng.gamma(4.0, size=shape) / 2 - 2 if skewed else rng.normal(size=shape)

    return of_repeats * rng.normal(size=(draws, R, 1)) + of_cases * unit((draws, 1, C)) + unit((draws, R, C))


def held(values: NDArray[np.float64]) -> float:
    """Return the share of two-way intervals that hold 0."""
    found = map(estimate, values)
    return float(np.mean([e.low <= 0 <= e.high for e in found]))


def bootstrap_held(values: NDArray[np.float64]) -> float:
    """Return the share of percentile bootstrap intervals, over repeats and cases, that hold 0."""
    _, R, C = values.shape
    rng = np.random.default_rng(1)
    repeats, cases = rng.multinomial(R, [1 / R] * R, 1000), rng.multinomial(C, [1 / C] * C, 1000)
    low, high = np.quantile(np.einsum("br,drc,bc->db", repeats, values, cases, optimize=True), [0.025, 0.975], axis=1)
    return float(np.mean((low <= 0) & (high >= 0)))


def wilcoxon_claims(values: NDArray[np.float64]) -> float:
    """Return the share of Wilcoxon's signed-rank tests over the cases' means with p below 0.05."""
    return float(np.mean([stats.wilcoxon(of_cases).pvalue < 0.05 for of_cases in values.mean(axis=1)]))


if __name__ == "__main__":
    main()
