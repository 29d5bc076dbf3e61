"""CSV: cases listed in a manifest, classes named in a table beside it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset
from geols_precompute.errors import InputError

MANIFEST = "cases.csv"


def read_manifest(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the data set of a manifest, or of the cases.csv in a folder; None if the folder has none.

    The columns are case, label, and one per modality; paths are relative to the manifest.

    Raises:
        InputError: it is not such a table, or lacks a modality that is wanted.
    """
    manifest = root if root.is_file() else root / MANIFEST
    if not manifest.is_file():
        return None
    rows = csv_rows(manifest)
    columns = [name for name in rows[0] if name not in ("case", "label")] if rows else []
    if not rows or not columns or "case" not in rows[0] or "label" not in rows[0]:
        raise InputError(
            f"{manifest}: needs a header with the columns case, label and one per modality, separated by commas"
        )
    modalities = wanted or tuple(columns)
    if unknown := [name for name in modalities if name not in columns]:
        raise InputError(f"{manifest} has the modalities {', '.join(columns)}; not {', '.join(unknown)}")
    cases, problems = listed_cases(manifest, rows, modalities, labelled=True).checked()
    return Dataset(
        layout="CSV",
        root=manifest.parent,
        modalities=modalities,
        cases=cases,
        problems=problems,
        classes=_class_names(manifest.parent / "classes.csv"),
    )


def listed_cases(
    manifest: Path, rows: Sequence[dict[str, str]], modalities: Sequence[str], *, labelled: bool
) -> CaseList:
    """Return the cases of a manifest's rows, with or without the files of the column label."""
    found = CaseList()
    for row in rows:
        columns = ("case", "label", *modalities) if labelled else ("case", *modalities)
        if empty := [name for name in columns if not row[name]]:
            found.refuse(row["case"] or "?", f"{manifest}: case {row['case']!r} has nothing in column {empty[0]}")
        else:
            images = [manifest.parent / row[name] for name in modalities]
            found.add(row["case"], images, manifest.parent / row["label"] if labelled else None)
    return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, blanks stripped.

    Raises:
        InputError: it cannot be read, or a row has more fields than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            rows = list(csv.DictReader(file, restkey="", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    if bad := next((number for number, row in enumerate(rows, start=2) if "" in row), None):
        raise InputError(f"{path}: line {bad} has more fields than the header (or the header has an empty name)")
    return [{key.strip(): value.strip() for key, value in row.items()} for row in rows]


def _class_names(path: Path) -> dict[int, str] | None:
    """Return {value: name} of a classes.csv (columns value, name), if there is one."""
    if not path.is_file():
        return None
    try:
        return {int(row["value"]): row["name"] for row in csv_rows(path)}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns value (a whole number) and name") from error
