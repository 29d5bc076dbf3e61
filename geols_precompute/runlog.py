"""The JSON-lines files beside the stores: state (private), failures and run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geols_precompute.digests import canonical_json

STATE = "state.jsonl"
FAILURES = "failures.jsonl"
RUN = "run.jsonl"

#: A source file as it was read: path, bytes, modification time in nanoseconds.
SourceStamp = tuple[str, int, int]


def source_stamps(paths: Iterable[Path]) -> tuple[SourceStamp, ...]:
    """Return path, size and modification time of each file."""
    return tuple((str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths)


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Append a line per record in one write."""
    with path.open("ab") as file:
        file.write(b"".join(canonical_json(record) + b"\n" for record in records))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file that may be absent; lines that are no JSON object are passed over.

    A crash may cut the last line short.
    """
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, RecursionError):
            if isinstance(record := json.loads(line), dict):
                yield record


def known_sources(out: Path) -> dict[str, tuple[SourceStamp, ...]]:
    """Return, per case, the source files that its committed data was read from."""
    sources: dict[str, tuple[SourceStamp, ...]] = {}
    for record in read(out / STATE):
        with suppress(LookupError, TypeError, ValueError):
            sources[record["case"]] = tuple((path, size, mtime) for path, size, mtime in record["sources"])
    return sources


def planned_cases(out: Path) -> list[str]:
    """Return the cases that the last run set out to have in its stores."""
    plans = [record["planned"] for record in read(out / STATE) if isinstance(record.get("planned"), list)]
    return [str(case) for case in plans[-1]] if plans else []
