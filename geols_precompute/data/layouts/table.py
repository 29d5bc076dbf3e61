"""CSV: cases listed in a manifest, classes named in a table beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset
from geols_precompute.data.layouts.modalities import index_of
from geols_precompute.data.rows import csv_rows
from geols_precompute.errors import InputError

MANIFEST = "cases.csv"
_RATER = re.compile(r"rater[_ -]?(?P<name>[A-Za-z0-9]+)", re.IGNORECASE)


def read_manifest(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the data set of a manifest, or of the cases.csv in a folder; None if the folder has none.

    The columns are case, label, and one per modality; paths are relative to the manifest. In place of label there may
    be one column per rater, rater_1 and so on, empty where that rater has not labelled the case.

    Raises:
        InputError: it is not such a table, or lacks a modality that is wanted.
    """
    manifest = root if root.is_file() else root / MANIFEST
    if not manifest.is_file():
        return None
    rows = csv_rows(manifest)
    raters = {match["name"]: column for column in (rows[0] if rows else ()) if (match := _RATER.fullmatch(column))}
    columns = [name for name in rows[0] if name not in ("case", "label", *raters.values())] if rows else []
    if not rows or not columns or "case" not in rows[0] or ("label" in rows[0]) == bool(raters):
        raise InputError(
            f"{manifest}: needs a header with the columns case, label (or rater_1, rater_2, ..., one per rater) and "
            "one per modality, separated by commas"
        )
    modalities = wanted or tuple(columns)
    images = columns_of(modalities, columns, manifest)
    cases, problems = listed_cases(manifest, rows, images, labelled=not raters, raters=raters).checked()
    return Dataset(
        layout="CSV",
        root=manifest.parent,
        modalities=modalities,
        cases=cases,
        problems=problems,
        classes=_class_names(manifest.parent / "classes.csv"),
    )


def columns_of(modalities: Sequence[str], columns: Sequence[str], manifest: Path) -> list[str]:
    """Return the column of each modality, by its name or another name of the same modality.

    Raises:
        InputError: there is none, or one for two modalities.
    """
    found = [index for name in modalities if (index := index_of(name, columns)) is not None]
    if len(set(found)) < len(modalities):
        raise InputError(f"{manifest} has the modalities {', '.join(columns)}; not {', '.join(modalities)}")
    return [columns[index] for index in found]


def listed_cases(
    manifest: Path,
    rows: Sequence[dict[str, str]],
    images: Sequence[str],
    *,
    labelled: bool,
    raters: Mapping[str, str] | None = None,
) -> CaseList:
    """Return the cases of a manifest's rows, their images in the columns `images`, with or without the label files.

    `raters` are the columns of label maps by rater, where there are several.
    """
    found = CaseList()
    for row in rows:
        columns = ("case", "label", *images) if labelled else ("case", *images)
        if empty := [name for name in columns if not row[name]]:
            found.refuse(row["case"] or "?", f"{manifest}: case {row['case']!r} has nothing in column {empty[0]}")
        else:
            files = [manifest.parent / row[name] for name in images]
            labels = {name: manifest.parent / row[column] for name, column in (raters or {}).items() if row[column]}
            if raters and not labels:
                found.refuse(row["case"], f"{manifest}: case {row['case']!r} has nothing in any rater's column")
            else:
                found.add(row["case"], files, manifest.parent / row["label"] if labelled else None, raters=labels)
    return found


def _class_names(path: Path) -> dict[int, str] | None:
    """Return {value: name} of a classes.csv (columns value, name), if there is one."""
    if not path.is_file():
        return None
    try:
        return {int(row["value"]): row["name"] for row in csv_rows(path)}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns value (a whole number) and name") from error
