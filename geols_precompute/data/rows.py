"""Rows of a CSV file, as people and spreadsheets write it."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from pathlib import Path

from geols_precompute.errors import InputError


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, blanks stripped; rows and columns that hold nothing are left out.

    Raises:
        InputError: it cannot be read, two columns have one name, or a row has more fields than the header.
    """
    try:
        with path.open(newline="", encoding=_encoding(path)) as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [field.strip() for field in row]) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    # spreadsheets write the rows and columns that were once filled
    (_, header), *rows = [(number, row) for number, row in lines if any(row)] or [(0, [])]
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise InputError(f"{path}: two columns have the name {twice[0]!r}; rename one of them")
    named = [(place, name) for place, name in enumerate(header) if name]
    for number, row in rows:
        if any(field for place, field in enumerate(row) if place >= len(header) or not header[place]):
            raise InputError(f"{path}: line {number} has more fields than the header (or the header has an empty name)")
    return [{name: row[place] if place < len(row) else "" for place, name in named} for _, row in rows]


def _encoding(path: Path) -> str:
    """Return UTF-8, or UTF-16 of a file that begins with its byte order mark: spreadsheets write both."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
