"""Tables: CSV files as people write them, Excel's byte order mark included."""

from __future__ import annotations

import csv
from pathlib import Path

from geols_precompute.errors import InputError


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
