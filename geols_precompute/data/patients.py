"""Which case is of which patient: a file that says so, or a pattern of ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from geols_precompute.data.rows import csv_rows
from geols_precompute.errors import InputError
from geols_precompute.formatting import plural

_FILES = (".csv", ".json")


def patients_of(group: str, cases: Iterable[str]) -> dict[str, str]:
    """Return {case: patient} as `group` says: a file of `read_patients`, or a pattern of `patients_in_ids`.

    Raises:
        InputError: it is neither, or says nothing of a case.
    """
    if Path(group).suffix.lower() in _FILES:
        return read_patients(Path(group), cases)
    return patients_in_ids(group, cases)


def patients_in_ids(pattern: str, cases: Iterable[str]) -> dict[str, str]:
    """Return {case: patient} where a regular expression finds the patient, in its parentheses, in every id.

    Raises:
        InputError: it is no such expression, or does not find a patient in an id.

    Example:
        >>> patients_in_ids("(.*)_week[0-9]+", ["p1_week0", "p1_week4", "p2_week0"])
        {'p1_week0': 'p1', 'p1_week4': 'p1', 'p2_week0': 'p2'}
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"--group {pattern}: neither a .csv or .json file nor a pattern: {error}") from error
    if compiled.groups != 1:
        raise InputError(
            f"--group {pattern}: neither a .csv or .json file nor a pattern with one pair of parentheses, around the "
            "patient in an id, such as '(.*)_week[0-9]+'"
        )
    cases = list(cases)
    found = {case: match[1] for case in cases if (match := compiled.search(case)) and match[1]}
    if missing := [case for case in cases if case not in found]:
        raise InputError(f"--group {pattern}: finds no patient in {len(missing)} ids, the first {missing[0]}")
    return found


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
        raise InputError(
            f"{path}: names no patient of {plural(len(missing), 'case')}, the first {missing[0]}; add them"
        )
    return {case: found[case] for case in cases}


def _json_rows(path: Path) -> list[Mapping[str, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: needs a list of objects with case and patient")
    return rows
