"""The JSON-lines files beside the stores: state (private), failures and run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
    """Yield the records of a file that may be absent; a line that a crash cut short is passed over."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "case" in record:
            yield record


def known_sources(out: Path) -> dict[str, tuple[SourceStamp, ...]]:
    """Return, per planned case, the source files that its committed data was read from; () if none yet."""
    sources: dict[str, tuple[SourceStamp, ...]] = {}
    for record in read(out / STATE):
        stamps = tuple((path, size, mtime) for path, size, mtime in record.get("sources", ()))
        if stamps or record["case"] not in sources:
            sources[record["case"]] = stamps
    return sources
