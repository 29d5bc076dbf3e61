"""The files beside the stores, private to the lab.

plan.json     the cases that the last run set out to have
state.jsonl   a line for each case that ended: how, from which files, in how many seconds; appended, never rewritten
failures.jsonl   the cases of the last run that failed, for people; written anew at its end
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geols_precompute.digests import canonical_json
from geols_precompute.errors import StoreError

STATE, FAILURES = "state", "failures"
PLAN = "plan.json"

#: A source file as it was read: path, bytes, modification time in nanoseconds.
SourceStamp = tuple[str, int, int]


def source_stamps(paths: Iterable[Path]) -> tuple[SourceStamp, ...]:
    """Return path, size and modification time of each file."""
    return tuple((str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths)


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Append a line per record in one write, after the end of a line that a crash cut short."""
    with path.open("a+b") as file:
        cut = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(b"\n" * cut + b"".join(canonical_json(record) + b"\n" for record in records))


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


def log_path(out: Path, name: str, suffix: str = "") -> Path:
    """Return the file of a log; every part of a run has its own, for not all file systems append from many hosts."""
    return out / f"{name}{suffix}.jsonl"


def failed_record(case: str, store: str, reason: str) -> dict[str, Any]:
    """Return what the state says of a case that failed before it was read."""
    return {"case": case, "store": store, "status": "failed", "failed": reason, "at": time.time()}


def known_sources(out: Path) -> dict[str, dict[tuple[SourceStamp, ...], set[str]]]:
    """Return, per case, what its files held when they had certain stamps: digests of fingerprints.

    That a file has the stamps of an earlier reading tells what it holds, not what the stores hold.
    """
    known: dict[str, dict[tuple[SourceStamp, ...], set[str]]] = {}
    for record in _states(out):
        with suppress(LookupError, TypeError, ValueError):
            stamps = tuple((path, size, mtime) for path, size, mtime in record["sources"])
            known.setdefault(record["case"], {}).setdefault(stamps, set()).add(record["source"])
    return known


def known_failures(out: Path, store: str | None = None) -> dict[str, str]:
    """Return why cases failed when they were tried last for a label store, or (None) for any of them."""
    latest: dict[tuple[str, str], tuple[float, str]] = {}
    for record in _states(out):
        with suppress(LookupError, TypeError, ValueError):
            key, at = (str(record["store"]), str(record["case"])), float(record["at"])
            if at >= latest.get(key, (0.0, ""))[0]:
                latest[key] = at, str(record.get("failed", ""))
    return {case: reason for (name, case), (_, reason) in latest.items() if reason and store in (None, name)}


def planned_cases(out: Path) -> list[str]:
    """Return the cases that the last run, all its parts together, set out to have in its stores.

    Raises:
        StoreError: the plan is damaged.
    """
    path = out / PLAN
    if not path.exists():
        return []
    try:
        planned = json.loads(path.read_bytes())["planned"]
        if not isinstance(planned, list):
            raise TypeError
        return [str(case) for case in planned]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise StoreError(f"{path}: is damaged; run geols-precompute again, or remove it") from error


def write_failures(out: Path, suffix: str, failures: Mapping[str, str]) -> None:
    """Write the failed cases of a run for people to read; a run of all cases replaces what its parts have written."""
    for path in [log_path(out, FAILURES, suffix)] if suffix else [*out.glob(f"{FAILURES}*.jsonl")]:
        if path.is_file():
            path.unlink(missing_ok=True)
    records = ({"case": case, "reason": reason} for case, reason in sorted(failures.items()))
    append(log_path(out, FAILURES, suffix), *records)


def _states(out: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(out.glob(f"{STATE}*.jsonl")):
        yield from read(path)
