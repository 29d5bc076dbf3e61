"""What a person should look at before training; and which cases are odd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geols_precompute.arrays import Float64Array
from geols_precompute.maps.case import SMALL_INTENSITY_RANGE
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.report.quality import CaseQuality

#: Thresholds; docs/report.md says how each was chosen.
ONE_HOT_ALIVE = 0.1
ONE_HOT_LEAVING = 0.01
FLAT_SPREAD = 0.01
OTHER_LARGEST = 0.5
ANISOTROPY = 4.0
#: Fewer cases have no usual number from which one could differ.
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


def find_flags(cases: Sequence[CaseQuality], classes: ClassTable, recipe: Mapping[str, Any]) -> list[Flag]:
    """Return what is worth a look, over all cases."""
    found: list[Flag] = []
    for index, name in enumerate(classes.names[1:], start=1):
        found += _seed_flags(cases, index, name)
    for index, name in enumerate(classes.names[1:], start=1):
        found += _map_flags(cases, index, name)
    found += _volume_flags(cases, recipe["maps"]["metric"])
    return [flag for flag in found if flag.cases]


def rank(cases: Sequence[CaseQuality], classes: ClassTable, flags: Sequence[Flag]) -> dict[str, Oddness]:
    """Return every case by its oddness, the oddest first; a case with flags before those without, if few have them.

    Compared are, per foreground class, the logarithm of its size, the share of voxels where another map is larger,
    and what leaves the class, each as a robust z-score: (x - median) / (1.4826 · median absolute deviation).
    """
    numbers: dict[str, Float64Array] = {}
    for index, name in enumerate(classes.names[1:], start=1):
        with np.errstate(divide="ignore"):
            numbers[f"size of {name}"] = np.log([float(c.voxels[index]) for c in cases])
        numbers[f"voxels of {name} nearer to others"] = np.array([c.other_largest[index] for c in cases])
        numbers[f"what leaves {name}"] = np.array([c.leaving[index] for c in cases])
    scores = {what: _robust_scores(values) for what, values in numbers.items()}
    rare: dict[str, list[str]] = {case.id: [] for case in cases}
    for flag in flags:
        if len(flag.cases) <= max(1, len(cases) // 2):
            for case_id in flag.cases:
                rare[case_id].append(flag.kind)
    result = {}
    for number, case in enumerate(cases):
        what = max(scores, key=lambda what: abs(scores[what][number]))
        score = float(abs(scores[what][number]))
        side = "above" if scores[what][number] > 0 else "below"
        kinds = list(dict.fromkeys(rare[case.id]))
        reasons = [*kinds, *([f"{what}: {score:.1f} deviations {side} the median"] if score else [])]
        result[case.id] = Oddness(flags=len(kinds), score=score, reason="; ".join(reasons) or "nothing")
    return dict(sorted(result.items(), key=lambda item: (-item[1].flags, -item[1].score, item[0])))


def _seed_flags(cases: Sequence[CaseQuality], index: int, name: str) -> Iterator[Flag]:
    yield Flag(
        kind="vanished seeds",
        text=f"{name} has no seed but the fallback's: its skeleton (or erosion) is empty, and one voxel per part "
        "stands in; look whether the label is as small as that",
        cases=tuple(c.id for c in cases if c.seeds[index] and c.seeds[index] == c.fallbacks[index]),
    )
    yield Flag(
        kind="no seeds",
        text=f"{name} has voxels but no seeds, so it is treated as absent: allow the fallback (not --preset code)",
        cases=tuple(c.id for c in cases if index in c.unseeded),
    )


def _map_flags(cases: Sequence[CaseQuality], index: int, name: str) -> Iterator[Flag]:
    having = [c for c in cases if c.voxels[index] and index not in c.unseeded]
    dead = [c.id for c in having if c.alive[index] < ONE_HOT_ALIVE or c.leaving[index] < ONE_HOT_LEAVING]
    flat = [c.id for c in having if c.spread[index] < FLAT_SPREAD and c.alive[index] >= ONE_HOT_ALIVE]
    against = [c.id for c in having if c.other_largest[index] > OTHER_LARGEST]
    yield Flag(
        kind="near one-hot",
        text=f"the map of {name} is 0 at more than {1 - ONE_HOT_ALIVE:.0%} of its voxels, or hardly anything leaves "
        "the class: it says little that the seeds or the label do not; a slower --decay, or mean, widens it",
        cases=tuple(dead),
    )
    yield Flag(
        kind="flat",
        text=f"the share of {name} hardly differs between its voxels: the soft label says the same everywhere inside "
        "the class, border or not; look at it before you expect more than of plain label smoothing",
        cases=tuple(flat),
    )
    yield Flag(
        kind="maps against labels",
        text=f"at more than {OTHER_LARGEST:.0%} of the voxels of {name} another class has the larger map",
        cases=tuple(against),
    )


def _volume_flags(cases: Sequence[CaseQuality], metric: str) -> Iterator[Flag]:
    if metric == "gradient":
        yield Flag(
            kind="small intensities",
            text=f"intensities range over less than {SMALL_INTENSITY_RANGE:g} in a modality, so that the constant 1e-5 "
            "in the step cost outweighs the image: give the images in their usual units",
            cases=tuple(c.id for c in cases if (c.contrast < SMALL_INTENSITY_RANGE).any()),
        )
    yield Flag(
        kind="anisotropy",
        text=f"one axis has voxels more than {ANISOTROPY:g} times as long as another: distances across slices rest on "
        "few voxels; consider a recipe that resamples",
        cases=tuple(c.id for c in cases if c.anisotropy > ANISOTROPY),
    )


def _robust_scores(values: Float64Array) -> Float64Array:
    finite = np.isfinite(values)
    if finite.sum() < LEAST_CASES:
        return np.zeros(len(values))
    median = np.median(values[finite])
    deviation = 1.4826 * np.median(np.abs(values[finite] - median))
    if deviation == 0:
        return np.zeros(len(values))
    return np.where(finite, np.nan_to_num(values - median, nan=0, posinf=0, neginf=0) / deviation, 0)
