"""Scores of a soft label against the raters that it has not seen, as functions of arrays.

A case is the label map of one rater, made soft: p in [0, 1] per voxel and class. The target t is the mean of the other
raters. All scores are of the voxels within a few mm of the label's border, for elsewhere everybody is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata

from geols_precompute.arrays import BoolArray, Float32Array, Float64Array

#: p is counted in steps of 1/LEVELS; soft labels of 8-bit maps at α = 0.1 have steps of 1/2550.
LEVELS = 4096
#: Bins of a calibration, of equal mass.
CALIBRATION_BINS = 50
#: Bins of the expected calibration error, of equal width.
ECE_BINS = 15
#: Nested segmentations that a soft label stands for in the energy distance.
GED_SAMPLES = 16
#: Of a case, so that no calibrated probability is 0 or 1.
_PRIOR = 1e-3
_6_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True, kw_only=True)
class Border:
    """What surrounds the border of one class in one rater's label map.

    Attributes:
        label: the voxels of the class [z,y,x].
        band: those within so many mm of the other side's nearest voxel.
        inner, outer: those with a 6-neighbour on the other side.
    """

    label: BoolArray
    band: BoolArray
    inner: BoolArray
    outer: BoolArray

    @classmethod
    def of(cls, label_ZYX: BoolArray, spacing: tuple[float, float, float], band_mm: float, valid: BoolArray) -> Border:
        """Return the border of a class that has voxels and leaves some; `valid` are the voxels that count."""
        inside = ndimage.distance_transform_edt(label_ZYX, sampling=spacing)
        outside = ndimage.distance_transform_edt(~label_ZYX, sampling=spacing)
        # spacings of files are rounded
        reach = band_mm * (1 + 1e-6)
        return cls(
            label=label_ZYX,
            band=((inside + outside) <= reach) & valid,
            inner=label_ZYX & ndimage.binary_dilation(~label_ZYX, _6_NEIGHBOURS) & valid,
            outer=~label_ZYX & ndimage.binary_dilation(label_ZYX, _6_NEIGHBOURS) & valid,
        )


def auc(score_V: NDArray[np.number], positive_V: BoolArray) -> float:
    """Return the area under the ROC curve, ties counting half; NaN where all voxels are of one kind."""
    n_positive = int(np.count_nonzero(positive_V))
    n_negative = positive_V.size - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = float(rankdata(score_V)[positive_V].sum())
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def softening_aucs(soft_ZYX: Float32Array, border: Border, others_RZYX: BoolArray) -> tuple[float, float, float]:
    """Return the AUC in the band and the shells inside and outside.

    What ranks the voxels is the probability that the soft label takes from the label; what is to be found is the voxels
    where another rater disagrees.
    """
    # in whole levels, so that what is equal but for rounding is a tie
    levels_ZYX = levels_of(soft_ZYX)
    taken_ZYX = np.where(border.label, LEVELS - levels_ZYX, levels_ZYX)
    disagree_ZYX = (others_RZYX != border.label).any(axis=0)
    band, inner, outer = (auc(taken_ZYX[m], disagree_ZYX[m]) for m in (border.band, border.inner, border.outer))
    return band, inner, outer


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The band of one case by levels of p, as shares of its voxels: all that calibrated scores depend on.

    Attributes:
        levels: of p · LEVELS, ascending.
        share: of the band's voxels at each level.
        target: their sum of t, over the same number of voxels.
        squares: mean of t² over the band.
    """

    levels: NDArray[np.int64]
    share: Float64Array
    target: Float64Array
    squares: float

    @classmethod
    def of(cls, soft_V: NDArray[np.floating], target_V: NDArray[np.floating]) -> Histogram:
        """Return the histogram of the voxels of a band, at least one."""
        levels, places = np.unique(levels_of(soft_V), return_inverse=True)
        count = soft_V.size
        target = np.bincount(places.ravel(), target_V.astype(np.float64), minlength=len(levels))
        return cls(
            levels=levels,
            share=np.bincount(places.ravel(), minlength=len(levels)) / count,
            target=target / count,
            squares=float(np.mean(np.square(target_V, dtype=np.float64))),
        )

    def brier(self, probability_L: Float64Array) -> float:
        """Return the mean of (q - t)² if level l stands for the probability q_l."""
        q = probability_L[self.levels]
        return float((self.share * q * q - 2 * q * self.target).sum() + self.squares)

    def log_loss(self, probability_L: Float64Array) -> float:
        """Return the mean of -t·log q - (1-t)·log(1-q), in nats; q is kept 1e-6 from 0 and 1."""
        q = probability_L[self.levels].clip(1e-6, 1 - 1e-6)
        return float(-(self.target * np.log(q) + (self.share - self.target) * np.log1p(-q)).sum())

    def calibration_error(self, probability_L: Float64Array) -> float:
        """Return the expected calibration error: |mean q - mean t| in bins of q of equal width, weighted by voxels."""
        q = probability_L[self.levels]
        bins = (q * ECE_BINS).astype(int).clip(max=ECE_BINS - 1)
        gaps = np.bincount(bins, self.share * q - self.target, minlength=ECE_BINS)
        return float(np.abs(gaps).sum())


def levels_of(soft: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return p in steps of 1/LEVELS."""
    return np.rint(soft.astype(np.float64).clip(0, 1) * LEVELS).astype(np.int64)


def as_it_stands() -> Float64Array:
    """Return the probability of every level of p if p is taken at its word."""
    return np.arange(LEVELS + 1) / LEVELS


def calibration(histograms: list[Histogram]) -> Float64Array:
    """Return the probability of every level of p: the mean of t in bins of equal mass, every case of equal weight.

    A level that no case has gets the probability of the nearest one that some case has.
    """
    share, target = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    for histogram in histograms:
        share[histogram.levels] += histogram.share
        target[histogram.levels] += histogram.target
    seen = np.flatnonzero(share)
    middle = np.cumsum(share[seen]) - share[seen] / 2
    bins = np.floor(CALIBRATION_BINS * middle / share.sum()).astype(int).clip(max=CALIBRATION_BINS - 1)
    mass = np.bincount(bins, share[seen], minlength=CALIBRATION_BINS) + _PRIOR
    means = (np.bincount(bins, target[seen], minlength=CALIBRATION_BINS) + _PRIOR / 2) / mass
    nearest = np.searchsorted((seen[1:] + seen[:-1]) / 2, np.arange(LEVELS + 1))
    return means[bins][nearest]


def energy_distance(probability_ZYX: Float64Array, border: Border, others_RZYX: BoolArray) -> float:
    """Return the squared generalised energy distance between a soft label and the other raters.

    2·E d(S, Y) - E d(S, S') - E d(Y, Y') with d = 1 - IoU (Kohl et al. 2018). S is a level set of the calibrated
    probabilities, at a threshold that is uniform in [0, 1]: raters draw one border, not noise. Beyond the band S is the
    label.
    """
    thresholds = (np.arange(GED_SAMPLES) + 0.5) / GED_SAMPLES
    # how many of the thresholds a voxel passes; level sets are nested
    passed_ZYX = np.where(border.band, np.searchsorted(thresholds, probability_ZYX, side="right"), 0)
    passed_ZYX[~border.band & border.label] = GED_SAMPLES
    sizes_S = _at_least(passed_ZYX.ravel())
    sizes_R = others_RZYX.sum(axis=(1, 2, 3))
    common_RS = np.stack([_at_least(passed_ZYX[other]) for other in others_RZYX])
    to_raters = _one_minus_iou(common_RS, sizes_S[None, :], sizes_R[:, None]).mean()
    smaller = np.minimum(sizes_S[:, None], sizes_S[None, :])
    among_samples = _one_minus_iou(smaller, sizes_S[:, None], sizes_S[None, :]).mean()
    flat_RV = others_RZYX.reshape(len(others_RZYX), -1).astype(np.float32)
    among_raters = _one_minus_iou(flat_RV @ flat_RV.T, sizes_R[:, None], sizes_R[None, :]).mean()
    return float(2 * to_raters - among_samples - among_raters)


def _at_least(passed_V: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of voxels that pass each threshold, from the lowest."""
    counts = np.bincount(passed_V, minlength=GED_SAMPLES + 1)
    return np.cumsum(counts[::-1])[::-1][1:]


def _one_minus_iou(common: NDArray[np.number], one: NDArray[np.number], other: NDArray[np.number]) -> Float64Array:
    union = np.asarray(one + other - common, np.float64)
    return np.where(union > 0, 1 - common / np.maximum(union, 1), 0.0)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over patients with its bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether it excludes 0."""
        return self.low > 0 or self.high < 0


def over_patients(values: dict[str, float], patients: dict[str, str]) -> dict[str, float]:
    """Return the mean of each patient's cases (their finite values)."""
    found: dict[str, list[float]] = {}
    for case, value in values.items():
        if np.isfinite(value):
            found.setdefault(patients[case], []).append(value)
    return {patient: float(np.mean(of_patient)) for patient, of_patient in sorted(found.items())}


def interval(values: list[float], *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the mean of one value per patient and its percentile bootstrap interval, patients being drawn anew."""
    if not values:
        return Interval(mean=float("nan"), low=float("nan"), high=float("nan"))
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, array.size, (resamples, array.size))
    low, high = np.percentile(array[drawn].mean(axis=1), (2.5, 97.5))
    return Interval(mean=float(array.mean()), low=float(low), high=float(high))
