"""Which case is of which patient, and which patients calibrate or choose, and which test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from geols_precompute.data.layouts.table import csv_rows
from geols_precompute.errors import InputError

Half = Literal["fit", "test"]


def read_patients(path: Path | None, cases: Iterable[str]) -> dict[str, str]:
    """Return {case: patient} from a CSV file, or a JSON list of objects, with `case` and `patient`.

    Without a file every case is a patient of its own.

    Raises:
        InputError: it is no such file, or lacks a case.
    """
    cases = list(cases)
    if path is None:
        return {case: case for case in cases}
    rows = _json_rows(path) if path.suffix.lower() == ".json" else csv_rows(path)
    try:
        found = {str(row["case"]): str(row["patient"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: needs the columns case and patient") from error
    if missing := [case for case in cases if not found.get(case)]:
        raise InputError(f"{path}: names no patient of {len(missing)} cases, the first {missing[0]}; add them")
    return {case: found[case] for case in cases}


def halves(patients: Mapping[str, str], seed: int) -> dict[str, Half]:
    """Return the half of each case; all cases of a patient are in one.

    The patients in ascending order are permuted by NumPy's default_rng(seed); the first half of them, the odd one
    included, is "fit".
    """
    names = sorted(set(patients.values()))
    order = np.random.default_rng(seed).permutation(len(names))
    fit = {names[place] for place in order[: (len(names) + 1) // 2]}
    return {case: "fit" if patient in fit else "test" for case, patient in patients.items()}


def _json_rows(path: Path) -> list[Mapping[str, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: needs a list of objects with case and patient")
    return rows
