"""The files beside the stores, private to the lab.

plan.json     the cases that the last run set out to have
state.jsonl   a line for each case that is to be made anew, and for each that ended: how, from which files, in how many
              seconds; appended, never rewritten
failures.jsonl   the cases of the last run that failed, for people; written anew at its end

What became of a case last is told by the order of lines in a file and, between the files that parts of a run write, by
the number of the run: one more than any that it found at its start. Clocks of hosts tell nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from geols_precompute.atomic import EVERYONE, refuse_link
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import OutputError, StoreError

STATE, FAILURES = "state", "failures"
PLAN = "plan.json"

#: Why a case is not done whose line says that it is to be made anew.
PENDING = "it was to be computed again, and the run that set out to do so did not get there"

#: A source file as it was read: path, bytes, modification time in nanoseconds, inode, change time in nanoseconds.
SourceStamp = tuple[str, int, int, int, int]


def source_digest(source: Mapping[str, Any]) -> str:
    """Return the digest of a case's fingerprints."""
    return sha256_hex(canonical_json(source))


def source_stamps(paths: Iterable[Path]) -> tuple[SourceStamp, ...]:
    """Return path, size, modification time, inode and change time of each file.

    A copy that keeps size and modification time (cp -p, rsync -t) differs in inode or change time.
    """
    return tuple(
        (str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns) for path in paths
    )


def append(path: Path, *records: Mapping[str, Any], readers: int = EVERYONE, durable: bool = False) -> None:
    """Append a line per record in one write, after the end of a line that a crash cut short.

    Args:
        path: of the log.
        records: to append.
        readers: permission bits that the file may have if it is made now.
        durable: wait until the lines are on the disk.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666 & readers)

    with open(path, "a+b", opener=opener) as file:
        cut = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(b"\n" * cut + b"".join(canonical_json(record) + b"\n" for record in records))
        if durable:
            file.flush()
            os.fsync(file.fileno())


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


def failed_record(case: str, store: str, reason: str, run: int = 0) -> dict[str, Any]:
    """Return what the state says of a case that failed before it was read."""
    return {"case": case, "store": store, "status": "failed", "failed": reason, "run": run, "at": time.time()}


def pending_record(case: str, store: str, run: int = 0) -> dict[str, Any]:
    """Return what the state says of a case that is there and is to be made anew, until a later line says more."""
    return failed_record(case, store, PENDING, run) | {"status": "pending"}


def done_record(case: str, store: str, run: int = 0) -> dict[str, Any]:
    """Return what the state says of a case that needs nothing to be done, as the lines before it say otherwise."""
    return {"case": case, "store": store, "status": "unchanged", "run": run, "at": time.time()}


def next_run(out: Path) -> int:
    """Return the number of a run that begins now: one more than any that has left a line."""
    numbers = (record.get("run") for path in _logs(out, STATE) for record in read(path))
    return 1 + max((number for number in numbers if isinstance(number, int)), default=0)


def require_own(out: Path) -> None:
    """Refuse an output folder in which files of others have the names of these, or links do.

    Raises:
        OutputError: naming the file.
    """
    for path in (out / PLAN, *_logs(out, STATE), *_logs(out, FAILURES)):
        refuse_link(path)
        if not _is_own(path):
            raise OutputError(f"{path}: was not written by geols; move it away, or name another --out")


def _is_own(path: Path) -> bool:
    """Whether a file, if it is there, is one that this module writes."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    if path.name == PLAN:
        with suppress(ValueError, RecursionError):
            document = json.loads(path.read_bytes())
            return isinstance(document, dict) and [*document] == ["planned"] and isinstance(document["planned"], list)
        return False
    keys = {"case", "reason"} if path.name.startswith(FAILURES) else {"case", "store", "status"}
    # one line is enough: a crash may have cut others
    return path.stat().st_size == 0 or any(keys <= record.keys() for record in read(path))


def known_sources(out: Path) -> dict[str, dict[tuple[SourceStamp, ...], set[str]]]:
    """Return, per case, what its files held when they had certain stamps: digests of fingerprints.

    That a file has the stamps of an earlier reading tells what it holds, not what the stores hold.
    """
    known: dict[str, dict[tuple[SourceStamp, ...], set[str]]] = {}
    for record in _states(out):
        with suppress(LookupError, TypeError, ValueError):
            # lines of earlier versions have no inode and no change time: what such a file holds is not known
            stamps = tuple((path, size, mtime, inode, ctime) for path, size, mtime, inode, ctime in record["sources"])
            known.setdefault(record["case"], {}).setdefault(stamps, set()).add(record["source"])
    return known


def known_failures(out: Path, store: str | None = None) -> dict[str, str]:
    """Return why cases are not done in a label store, or (None) in any of them: the last word on each is a failure.

    Where two files have a line of one run, which then went on side by side, a failure is the last word.
    """
    latest: dict[tuple[str, str], tuple[int, str]] = {}
    for path in _logs(out, STATE):
        here: dict[tuple[str, str], tuple[int, str]] = {}
        for record in read(path):
            with suppress(LookupError, TypeError, ValueError, OverflowError):
                key, run = (str(record["store"]), str(record["case"])), int(record.get("run", 0))
                here[key] = max(run, here.get(key, (0, ""))[0]), str(record.get("failed", ""))
        for key, found in here.items():
            latest[key] = max(found, latest.get(key, (0, "")))
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
        raise StoreError(f"{path}: is damaged; move it away, and run geols-precompute again") from error


def write_failures(out: Path, suffix: str, failures: Mapping[str, str], readers: int = EVERYONE) -> None:
    """Write the failed cases of a run for people to read; a run of all cases replaces what its parts have written."""
    for path in [log_path(out, FAILURES, suffix)] if suffix else _logs(out, FAILURES):
        if path.is_file():
            path.unlink(missing_ok=True)
    records = ({"case": case, "reason": reason} for case, reason in sorted(failures.items()))
    append(log_path(out, FAILURES, suffix), *records, readers=readers)


def _states(out: Path) -> Iterator[dict[str, Any]]:
    for path in _logs(out, STATE):
        yield from read(path)


def _logs(out: Path, name: str) -> list[Path]:
    """Return the files of a log that are there, those of parts among them."""
    names = re.compile(rf"{name}(-\d{{1,6}}-of-\d{{1,6}})?\.jsonl")
    return sorted(path for path in out.glob(f"{name}*.jsonl") if names.fullmatch(path.name))
