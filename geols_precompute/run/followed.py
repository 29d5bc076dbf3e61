"""Whether stores have followed their data, told by what a run has left beside them; no file of the data is read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geols_precompute.errors import StoreError
from geols_precompute.run import state


@dataclass(frozen=True, kw_only=True)
class Followed:
    """The cases in which stores and data differ, sorted.

    Attributes:
        failed: not in the stores: they failed when they were tried last, or were not got to.
        changed: in the stores, made from files that have changed since.
        gone: in the stores, and not in the data any more.
    """

    failed: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


def followed(out: Path, store: str | None, sources: Mapping[str, Mapping[str, Any]]) -> Followed:
    """Return how the stores in an output folder differ from their data.

    Where no file of any case is found, the data are on another machine, and nothing is said of changes.

    Args:
        out: the output folder of geols-precompute.
        store: the name of the label store; None for any.
        sources: the digests of each case of the stores, as its metadata keeps them.
    """
    planned: list[str] = []
    with suppress(StoreError):  # a damaged one is of no use here
        planned = state.planned_cases(out)
    failures = state.known_failures(out, store)
    known = state.known_sources(out)
    seen, changed, lost = 0, [], []
    for case, source in sources.items():
        digest = state.source_digest(source)
        stamps = [files for files, digests in known.get(case, {}).items() if digest in digests]
        if not stamps:
            continue
        there = [files for files in stamps if all(Path(path).exists() for path, *_ in files)]
        seen += bool(there)
        if not there:
            lost.append(case)
        elif not any(_are_unchanged(files) for files in there):
            changed.append(case)
    gone = {case for case in sources if planned and case not in planned} | set(lost if seen else [])
    return Followed(
        failed=tuple(sorted(c for c in failures if c not in sources and (not planned or c in planned))),
        changed=tuple(sorted(set(changed) - gone)),
        gone=tuple(sorted(gone)),
    )


def _are_unchanged(files: tuple[state.SourceStamp, ...]) -> bool:
    try:
        return state.source_stamps(Path(path) for path, *_ in files) == files
    except OSError:
        return False
