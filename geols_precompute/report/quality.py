"""The numbers of one case that a person would want to know.

Shapes: C classes (background first), K stored channels, M modalities, V voxels of one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geols_precompute import softlabel
from geols_precompute.arrays import Float64Array, Int64Array
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.report.cases import ReportCase

LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class CaseQuality:
    """Numbers of a case; NaN where a class has no voxel.

    Attributes:
        id: of the case.
        voxels: per class [c].
        seeds, fallbacks: per class [c]; 0 where there are none, or the class has no map.
        histograms: of the stored values of each channel over the whole volume [k,256].
        alive: share of each class's voxels whose own stored map is not 0 [c].
        other_largest: share of each class's voxels where the map of another class is larger [c].
        leaving: per class, the mean over its voxels of 1 - g̃ of its own [c]: times α, what leaves the labelled class.
        leaving_unnormalised: the same of maps that are not divided by their sum: the sum of the other classes' g [c].
        spread: standard deviation over a class's voxels of its own share g̃ [c].
        contrast: range of the intensities between the 0.5 and 99.5 % percentiles, per modality [m].
        anisotropy: largest spacing divided by the smallest.
        unseeded: class indices that have voxels but no map.
    """

    id: str
    voxels: Int64Array
    seeds: Int64Array
    fallbacks: Int64Array
    histograms: Int64Array
    alive: Float64Array
    other_largest: Float64Array
    leaving: Float64Array
    leaving_unnormalised: Float64Array
    spread: Float64Array
    contrast: Float64Array
    anisotropy: float
    unseeded: tuple[int, ...]

    def foreground(self, per_class_C: Float64Array) -> float:
        """Return the mean over foreground voxels of a number that is given per class; NaN if there are none."""
        weights = np.where(np.isnan(per_class_C[1:]), 0, self.voxels[1:])
        return float(np.nansum(per_class_C[1:] * weights) / weights.sum()) if weights.sum() else float("nan")


def measure(case: ReportCase, n_classes: int) -> CaseQuality:
    """Return the numbers of a case."""
    voxels_C = np.bincount(case.label.ravel(), minlength=IGNORE_INDEX + 1)[:n_classes]
    there = [int(index) for index in np.flatnonzero(voxels_C)]
    numbers = np.full((n_classes, 5), np.nan)
    for index in there:
        numbers[index] = _class_numbers(case, index, n_classes)
    alive, other_largest, leaving, leaving_unnormalised, spread = numbers.T
    low_high = [np.percentile(modality, [0.5, 99.5]) for modality in case.image]
    return CaseQuality(
        id=case.id,
        voxels=voxels_C,
        seeds=_seeds(case, "count", n_classes),
        fallbacks=_seeds(case, "fallbacks", n_classes),
        histograms=np.stack([np.bincount(channel.ravel(), minlength=LEVELS) for channel in case.maps]),
        alive=alive,
        other_largest=other_largest,
        leaving=leaving,
        leaving_unnormalised=leaving_unnormalised,
        spread=spread,
        contrast=np.array([high - low for low, high in low_high]),
        anisotropy=max(case.spacing) / min(case.spacing),
        unseeded=tuple(index for index in there if index in case.channels and index not in case.present),
    )


def _class_numbers(case: ReportCase, index: int, n_classes: int) -> tuple[float, float, float, float, float]:
    """Return (alive, other_largest, leaving, leaving_unnormalised, spread) of a class that has voxels."""
    stored_KV = case.maps[:, case.label == index]
    maps_CV = softlabel.class_maps(
        stored_KV[:, None, None, :], channels=case.channels, present=case.present, n_classes=n_classes
    )[:, 0, 0, :]
    own_V, total_V = maps_CV[index], maps_CV.sum(axis=0)
    # without any mass the soft label is the one-hot label
    share_V = np.where(total_V > 0, own_V / np.where(total_V > 0, total_V, 1), 1)
    others_CV = np.delete(maps_CV, index, axis=0)
    return (
        np.count_nonzero(own_V) / len(own_V),
        np.count_nonzero(others_CV.max(axis=0) > own_V) / len(own_V),
        1 - share_V.mean(dtype=np.float64),
        others_CV.sum(axis=0).mean(dtype=np.float64),
        share_V.std(dtype=np.float64),
    )


def _seeds(case: ReportCase, key: str, n_classes: int) -> Int64Array:
    return np.array([case.seeds.get(index, {}).get(key, 0) for index in range(n_classes)])
