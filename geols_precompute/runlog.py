"""The files beside the stores, private to the lab: plan, state, failures and run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geols_precompute.digests import canonical_json

STATE, FAILURES, RUN = "state", "failures", "run"
PLAN = "plan.json"

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


def log_path(out: Path, name: str, suffix: str = "") -> Path:
    """Return the file of a log; every part of a run has its own, for not all file systems append from many hosts."""
    return out / f"{name}{suffix}.jsonl"


def known_sources(out: Path) -> dict[str, tuple[SourceStamp, ...]]:
    """Return, per case, the source files that its committed data was read from, by whatever part of whatever run."""
    latest: dict[str, tuple[float, tuple[SourceStamp, ...]]] = {}
    for record in _records(out, STATE):
        with suppress(LookupError, TypeError, ValueError):
            case, at = record["case"], float(record["at"])
            stamps = tuple((path, size, mtime) for path, size, mtime in record["sources"])
            if case not in latest or at >= latest[case][0]:
                latest[case] = at, stamps
    return {case: stamps for case, (_, stamps) in latest.items()}


def known_failures(out: Path) -> dict[str, str]:
    """Return why cases failed when they were tried last."""
    return {str(record.get("case")): str(record.get("reason")) for record in _records(out, FAILURES)}


def forget_failures(out: Path, suffix: str = "") -> None:
    """Remove the failures that a run, or a part of one, supersedes: its own, and those of runs in other parts."""
    siblings = suffix.rpartition("-of-")[2] if suffix else None
    for path in out.glob(f"{FAILURES}*.jsonl"):
        own = path == log_path(out, FAILURES, suffix)
        if own or siblings is None or not path.stem.endswith(f"-of-{siblings}"):
            path.unlink(missing_ok=True)


def planned_cases(out: Path) -> list[str]:
    """Return the cases that the last run, all its parts together, set out to have in its stores."""
    with suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
        return [str(case) for case in json.loads((out / PLAN).read_bytes())["planned"]]
    return []


def _records(out: Path, name: str) -> Iterator[dict[str, Any]]:
    for path in sorted(out.glob(f"{name}*.jsonl")):
        yield from read(path)
