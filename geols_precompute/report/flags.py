"""Flags: what a person should look at before training; and which cases are odd."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geols_precompute.maps.case import SMALL_INTENSITY_RANGE
from geols_precompute.recipe.parameters import ClassLabel
from geols_precompute.report.quality import CaseQuality, Float64Array

#: Thresholds; docs/report.md says how each was chosen.
ONE_HOT_ALIVE = 0.1
ONE_HOT_LEAVING = 0.01
FLAT_SPREAD = 0.01
OTHER_LARGEST = 0.5
ANISOTROPY = 4.0
SWAP_COST = 6.0
LEAST_DEVIATION = 0.02
#: Fewer cases have no usual shape from which one could differ.
LEAST_CASES = 5


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something to look at: its kind, what was found, what to do, and the cases that have it."""

    kind: str
    text: str
    cases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Oddness:
    """How unusual a case is.

    Attributes:
        flags: how many it has that most cases do not have.
        score: the largest distance of one of its numbers from the median, in robust deviations.
        reason: its flags, and what that number is.
    """

    flags: int
    score: float
    reason: str


def find_flags(cases: Sequence[CaseQuality], classes: Sequence[ClassLabel], recipe: Mapping[str, Any]) -> list[Flag]:
    """Return what is worth a look, over all cases."""
    found = [*_seed_flags(cases, classes), *_map_flags(cases, classes), *_swapped(cases, classes)]
    if recipe["maps"]["metric"] == "gradient":
        weak = [c.id for c in cases if (c.contrast < SMALL_INTENSITY_RANGE).any()]
        found += _flag(
            "small intensities", weak,
            f"intensities range over less than {SMALL_INTENSITY_RANGE:g} in a modality, so that the constant 1e-5 in "
            "the step cost outweighs the image: give the images in their usual units",
        )  # fmt: skip
    coarse = [c.id for c in cases if c.anisotropy > ANISOTROPY]
    found += _flag(
        "anisotropy", coarse,
        f"one axis has voxels more than {ANISOTROPY:g} times as long as another: distances across slices rest on few "
        "voxels; consider a recipe that resamples",
    )  # fmt: skip
    return found


def rank(cases: Sequence[CaseQuality], classes: Sequence[ClassLabel], flags: Sequence[Flag]) -> dict[str, Oddness]:
    """Return every case by its oddness, the oddest first; a case with flags before those without, if few have them.

    Compared are, per foreground class, the logarithm of its size, the share of voxels where another map is larger,
    and what leaves the class, each as a robust z-score: (x - median) / (1.4826 · median absolute deviation).
    """
    numbers: dict[str, Float64Array] = {}
    for index, label in enumerate(classes[1:], start=1):
        with np.errstate(divide="ignore"):
            numbers[f"size of {label.name}"] = np.log([float(c.voxels[index]) for c in cases])
        numbers[f"voxels of {label.name} nearer to others"] = np.array([c.other_largest[index] for c in cases])
        numbers[f"what leaves {label.name}"] = np.array([c.leaving[index] for c in cases])
    scores = {name: _robust_scores(values) for name, values in numbers.items()}
    result = {}
    for number, case in enumerate(cases):
        name = max(scores, key=lambda name: abs(scores[name][number]))
        score = float(abs(scores[name][number]))
        side = "above" if scores[name][number] > 0 else "below"
        rare = [flag.kind for flag in flags if case.id in flag.cases and len(flag.cases) <= max(1, len(cases) // 2)]
        own = list(dict.fromkeys(rare))
        reasons = [*own, *([f"{name}: {score:.1f} deviations {side} the median"] if score else [])]
        result[case.id] = Oddness(flags=len(own), score=score, reason="; ".join(reasons) or "nothing")
    return dict(sorted(result.items(), key=lambda item: (-item[1].flags, -item[1].score, item[0])))


def _seed_flags(cases: Sequence[CaseQuality], classes: Sequence[ClassLabel]) -> Iterator[Flag]:
    for index, label in enumerate(classes[1:], start=1):
        vanished = [c.id for c in cases if c.seeds[index] and c.seeds[index] == c.fallbacks[index]]
        yield from _flag(
            "vanished seeds", vanished,
            f"{label.name} has no seed but the fallback's: its skeleton (or erosion) is empty, and one voxel per part "
            "stands in; look whether the label is as small as that",
        )  # fmt: skip
        unseeded = [c.id for c in cases if index in c.unseeded]
        yield from _flag(
            "no seeds", unseeded,
            f"{label.name} has voxels but no seeds, so it is treated as absent: allow the fallback (not --preset code)",
        )  # fmt: skip


def _map_flags(cases: Sequence[CaseQuality], classes: Sequence[ClassLabel]) -> Iterator[Flag]:
    for index, label in enumerate(classes[1:], start=1):
        having = [c for c in cases if c.voxels[index] and index not in c.unseeded]
        dead = [c.id for c in having if c.alive[index] < ONE_HOT_ALIVE or c.leaving[index] < ONE_HOT_LEAVING]
        yield from _flag(
            "near one-hot", dead,
            f"the map of {label.name} is 0 at more than {1 - ONE_HOT_ALIVE:.0%} of its voxels, or hardly anything "
            "leaves the class: it says little that the seeds or the label do not; a slower --decay, or mean, widens it",
        )  # fmt: skip
        flat = [c.id for c in having if c.spread[index] < FLAT_SPREAD and c.alive[index] >= ONE_HOT_ALIVE]
        yield from _flag(
            "flat", flat,
            f"the share of {label.name} hardly differs between its voxels: the soft label says the same everywhere "
            "inside the class, border or not; look at it before you expect more than of plain label smoothing",
        )  # fmt: skip
        against = [c.id for c in having if c.other_largest[index] > OTHER_LARGEST]
        yield from _flag(
            "maps against labels", against,
            f"at more than {OTHER_LARGEST:.0%} of the voxels of {label.name} another class has the larger map",
        )  # fmt: skip


def _swapped(cases: Sequence[CaseQuality], classes: Sequence[ClassLabel]) -> Iterator[Flag]:
    """Find cases in which two classes would lie as in the other cases if their names changed places."""
    if len(cases) < LEAST_CASES:
        return
    # a factor of 20 in size counts like the whole field of view
    places = np.array([np.column_stack([c.centroids, np.log(np.maximum(c.voxels, 1)) / 3]) for c in cases])
    usual, deviation = np.zeros(places.shape[1:]), np.ones(places.shape[1:])
    for index in range(1, len(classes)):
        having = places[[bool(c.voxels[index]) for c in cases], index]
        if len(having):
            usual[index] = np.median(having, axis=0)
            deviation[index] = 1.4826 * np.median(np.abs(having - usual[index]), axis=0) + LEAST_DEVIATION
    for a, b in itertools.combinations(range(1, len(classes)), 2):
        both = [n for n, c in enumerate(cases) if c.voxels[a] and c.voxels[b]]
        suspects = []
        for n in both:
            as_named = _distance(places[n, a], usual[a], deviation[a]) + _distance(places[n, b], usual[b], deviation[b])
            swapped = _distance(places[n, a], usual[b], deviation[b]) + _distance(places[n, b], usual[a], deviation[a])
            if as_named > SWAP_COST and swapped < as_named / 2:
                suspects.append(cases[n].id)
        yield from _flag(
            "swapped names", suspects,
            f"{classes[a].name} and {classes[b].name} lie where the other one does in most cases: are their values "
            "swapped in the label file?",
        )  # fmt: skip


def _distance(place: Float64Array, usual: Float64Array, deviation: Float64Array) -> float:
    """Return how many deviations a place is from the usual one, as the root mean square over its numbers."""
    return float(np.sqrt(np.mean(((place - usual) / deviation) ** 2)))


def _flag(kind: str, cases: Sequence[str], text: str) -> list[Flag]:
    return [Flag(kind=kind, text=text, cases=tuple(cases))] if cases else []


def _robust_scores(values: Float64Array) -> Float64Array:
    finite = np.isfinite(values)
    if finite.sum() < LEAST_CASES:
        return np.zeros(len(values))
    median = np.median(values[finite])
    deviation = 1.4826 * np.median(np.abs(values[finite] - median))
    if deviation == 0:
        return np.zeros(len(values))
    return np.where(finite, np.nan_to_num(values - median, nan=0, posinf=0, neginf=0) / deviation, 0)
