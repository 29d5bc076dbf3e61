"""Results: what the trainings of a study measured, case by case, as arrays."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from matrix import Training
from numpy.typing import NDArray
from significance import by_patient

from geols_precompute.errors import InputError
from geols_train.folder import CASES, SUMMARY


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of test_cases.csv: what it is called, in which unit, and whether more is better.

    One that is `of_case` has no value for each structure: it is the same in the rows of all.
    """

    column: str
    name: str
    unit: str
    factor: float
    digits: int
    more_is_better: bool
    of_case: bool = False


DSC = Metric(column="dice", name="DSC", unit="%", factor=100, digits=2, more_is_better=True)
SD = Metric(column="surface_dice", name="SD", unit="%", factor=100, digits=2, more_is_better=True)
HD95 = Metric(column="hd95_mm", name="HD95", unit="mm", factor=1, digits=2, more_is_better=False)
ECE = Metric(column="ece", name="ECE", unit="%", factor=100, digits=2, more_is_better=False, of_case=True)
_PLACES = {"": "", "_foreground": ", foreground", "_border": ", border"}
#: Every column of test_cases.csv that a study can report.
METRICS = {
    metric.column: metric
    for metric in (
        DSC,
        SD,
        HD95,
        *(replace(ECE, column=f"ece{place}", name=f"ECE{where}") for place, where in _PLACES.items()),
        *(
            Metric(
                column=f"{name.lower()}{place}", name=f"{name}{where}", unit=unit, factor=1, digits=4,
                more_is_better=False, of_case=True,
            )
            for name, unit in (("Brier", "0 to 2"), ("NLL", "nat"))
            for place, where in _PLACES.items()
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The test cases of all repeats of one kind of training.

    Attributes:
        kind: of training.
        repeats: their numbers, which may be fewer than the study asks for.
        cases: ids.
        structures: names of classes or regions.
        values: by column, [repeat,case,structure] in the metric's unit; NaN where a distance is not defined.
        patients: of the cases whose patient has several.
    """

    kind: str
    repeats: tuple[int, ...]
    cases: tuple[str, ...]
    structures: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    patients: Mapping[str, str] = field(default_factory=dict)

    def only(self, repeats: Collection[int]) -> Measured:
        """Return what some of the repeats measured."""
        chosen = [number in repeats for number in self.repeats]
        values = {column: array[chosen] for column, array in self.values.items()}
        return replace(self, repeats=tuple(r for r in self.repeats if r in repeats), values=values)

    def of(self, metric: Metric, structure: str | None = None) -> NDArray[np.float64]:
        """Return [repeat,case] of one structure, or of the mean of all.

        The mean is not defined where a structure's is not: without it, missing a hard structure would pay.
        """
        values = self.values[metric.column]
        if structure is not None:
            return values[:, :, self.structures.index(structure)]
        return np.asarray(values.mean(axis=2))

    def units(self, metric: Metric, structure: str | None = None) -> NDArray[np.float64]:
        """Return `of` by what is drawn anew: [repeat,case], or [repeat,patient] where patients have several cases."""
        return by_patient(self.of(metric, structure), self.cases, self.patients)


def read_measured(
    runs: Path,
    trainings: Sequence[Training],
    structures: Sequence[str],
    patients: Mapping[str, str],
    metrics: Sequence[Metric],
) -> Measured | None:
    """Return what the finished ones of the repeats of one kind measured; None if none is finished.

    `patients` are those of the split; see `Split.patients`.

    Raises:
        InputError: a table has other cases than the first, or lacks a structure.
    """
    finished = [t for t in trainings if (runs / t.folder / SUMMARY).is_file()]
    if not finished:
        return None
    tables = [_read_table(runs / training.folder / CASES) for training in finished]
    cases = tuple(dict.fromkeys(case for case, _ in tables[0]))
    wanted = [(case, structure) for case in cases for structure in structures]
    for training, table in zip(finished, tables, strict=True):
        if lacking := [key for key in wanted if key not in table] or [key for key in table if key[0] not in cases]:
            raise InputError(
                f"{runs / training.folder / CASES}: its cases and structures are not those of the first repeat and of "
                f"the study, see {lacking[0]}"
            )
    shape = (len(tables), len(cases), len(structures))

    def column(metric: Metric) -> NDArray[np.float64]:
        numbers = [float(table[key][metric.column] or "nan") for table in tables for key in wanted]
        return metric.factor * np.array(numbers).reshape(shape)

    return Measured(
        kind=finished[0].kind,
        repeats=tuple(t.repeat for t in finished),
        cases=cases,
        structures=tuple(structures),
        values={metric.column: column(metric) for metric in metrics},
        patients=patients,
    )


def _read_table(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["case"], row["structure"]): row for row in csv.DictReader(file)}
