"""Several soft labels of the same cases, scored against the raters that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geols_precompute.agreement.cases import RatedCase, ReadRated
from geols_precompute.agreement.patients import Half
from geols_precompute.agreement.scores import (
    Border,
    Histogram,
    Interval,
    as_it_stands,
    calibration,
    energy_distance,
    interval,
    levels_of,
    over_patients,
    softening_aucs,
)
from geols_precompute.arrays import Float32Array, Float64Array
from geols_precompute.progress import OnCase

#: Softens a case: [class,z,y,x] float32.
Soften = Callable[[RatedCase], Float32Array]

#: Every score, and whether more is better.
SCORES = {
    "auc_band": True,
    "auc_inner": True,
    "auc_outer": True,
    "brier": False,
    "log_loss": False,
    "ece": False,
    "ged": False,
    "brier_uncalibrated": False,
    "ece_uncalibrated": False,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score of one soft label of one class, over the test patients.

    Attributes:
        method: the soft label.
        class_name: of the class.
        score: one of `SCORES`.
        patients: how many have it.
        value: mean over patients.
        difference: to the reference, patient by patient; None for the reference itself.
    """

    method: str
    class_name: str
    score: str
    patients: int
    value: Interval
    difference: Interval | None


@dataclass(kw_only=True)
class Agreement:
    """What was measured.

    Attributes:
        rows: per class, method and score.
        per_case: score of (method, class, case), test half only: {(method, class): {score: {case: value}}}.
        cases: how many were scored per class and half.
        skipped: case to why it has no score.
        probabilities: calibrated probability of every level of p, by (method, class).
    """

    rows: list[Row] = field(default_factory=list)
    per_case: dict[tuple[str, str], dict[str, dict[str, float]]] = field(default_factory=dict)
    cases: dict[str, dict[Half, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    probabilities: dict[tuple[str, str], Float64Array] = field(default_factory=dict)


def measure(
    cases: Sequence[str],
    read: ReadRated,
    methods: Mapping[str, Soften],
    class_names: Sequence[str],
    *,
    patients: Mapping[str, str],
    half_of: Mapping[str, Half],
    reference: str,
    band_mm: float,
    on_case: OnCase = lambda case, error: None,
) -> Agreement:
    """Calibrate every soft label on the cases of one half, score it on those of the other.

    Cases are read twice: the energy distance needs the calibration. Nothing large is kept of a case in between.

    Args:
        cases: ids.
        read: gives a case.
        methods: the soft labels by name.
        class_names: of all classes, background first, which has no score of its own.
        patients: of each case.
        half_of: each case: "fit" calibrates, "test" is scored.
        reference: the method that the others are compared with.
        band_mm: how far from the label's border voxels count.
        on_case: called after every reading of a case.
    """
    found = Agreement()
    histograms: dict[tuple[str, str], dict[str, Histogram]] = {}
    for case, borders in _with_borders(cases, read, len(class_names), band_mm, found, on_case):
        half = half_of[case.id]
        for index in borders:
            found.cases.setdefault(class_names[index], {"fit": 0, "test": 0})[half] += 1
        for method, soften in methods.items():
            soft_CZYX = soften(case)
            for index, border in borders.items():
                key, others = (method, class_names[index]), case.others == index
                target = others.mean(axis=0, dtype=np.float32)[border.band]
                histograms.setdefault(key, {})[case.id] = Histogram.of(soft_CZYX[index][border.band], target)
                if half == "test":
                    aucs = softening_aucs(soft_CZYX[index], border, others)
                    for score, value in zip(("auc_band", "auc_inner", "auc_outer"), aucs, strict=True):
                        _note(found, key, score, case.id, value)
    for key, by_case in histograms.items():
        fit = [histogram for case_id, histogram in by_case.items() if half_of[case_id] == "fit"]
        if not fit:
            continue
        probability = found.probabilities[key] = calibration(fit)
        for case_id, histogram in by_case.items():
            if half_of[case_id] == "test":
                for score, value in calibrated_scores(histogram, probability).items():
                    _note(found, key, score, case_id, value)
    tested = [case for case in cases if half_of[case] == "test" and case not in found.skipped]
    for case, borders in _with_borders(tested, read, len(class_names), band_mm, found, on_case):
        for method, soften in methods.items():
            soft_CZYX = soften(case)
            for index, border in borders.items():
                key = (method, class_names[index])
                if key in found.probabilities:
                    calibrated_ZYX = found.probabilities[key][levels_of(soft_CZYX[index])]
                    _note(found, key, "ged", case.id, energy_distance(calibrated_ZYX, border, case.others == index))
    found.rows = list(_rows(found, methods, class_names, patients, reference))
    return found


def calibrated_scores(histogram: Histogram, probability: Float64Array) -> dict[str, float]:
    """Return the scores of a case that depend on its histogram alone."""
    return {
        "brier": histogram.brier(probability),
        "log_loss": histogram.log_loss(probability),
        "ece": histogram.calibration_error(probability),
        "brier_uncalibrated": histogram.brier(as_it_stands()),
        "ece_uncalibrated": histogram.calibration_error(as_it_stands()),
    }


def border_of(case: RatedCase, index: int, band_mm: float) -> Border | None:
    """Return the border of a class in a case; None if the label has none, or nobody else has labelled the case."""
    label_ZYX = case.label == index
    valid = case.valid
    if not len(case.others) or not (label_ZYX & valid).any() or not (~label_ZYX & valid).any():
        return None
    border = Border.of(label_ZYX, case.spacing, band_mm, valid)
    return border if border.band.any() else None


def borders_of(case: RatedCase, n_classes: int, band_mm: float) -> dict[int, Border]:
    """Return the border of every foreground class that has one in a case, by class index."""
    borders = {index: border_of(case, index, band_mm) for index in range(1, n_classes)}
    return {index: border for index, border in borders.items() if border is not None}


def _with_borders(
    cases: Sequence[str], read: ReadRated, n_classes: int, band_mm: float, found: Agreement, on_case: OnCase
) -> Iterator[tuple[RatedCase, dict[int, Border]]]:
    """Yield the cases that can be scored, with the border of every class that has one."""
    for case_id in cases:
        case = read(case_id)
        if borders := borders_of(case, n_classes, band_mm):
            yield case, borders
        else:
            found.skipped[case_id] = "no other rater" if not len(case.others) else "the label has no border"
        on_case(case_id, "")


def _note(found: Agreement, key: tuple[str, str], score: str, case: str, value: float) -> None:
    found.per_case.setdefault(key, {}).setdefault(score, {})[case] = value


def _rows(
    found: Agreement,
    methods: Mapping[str, Soften],
    class_names: Sequence[str],
    patients: Mapping[str, str],
    reference: str,
) -> Iterator[Row]:
    patients = dict(patients)
    for name in class_names[1:]:
        for score in SCORES:
            of_reference = over_patients(found.per_case.get((reference, name), {}).get(score, {}), patients)
            for method in methods:
                values = over_patients(found.per_case.get((method, name), {}).get(score, {}), patients)
                if not values:
                    continue
                both = [patient for patient in values if patient in of_reference]
                difference = [values[patient] - of_reference[patient] for patient in both]
                yield Row(
                    method=method,
                    class_name=name,
                    score=score,
                    patients=len(values),
                    value=interval([*values.values()]),
                    difference=interval(difference) if method != reference and difference else None,
                )
