"""Finalize: the manifests of stores that several runs, or parts of one, have filled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geols_precompute import runlog
from geols_precompute.errors import StoreError
from geols_precompute.store.atomic import remove_abandoned
from geols_precompute.store.layout import METADATA
from geols_precompute.store.writer import whole_cases, write_manifest


def stores_in(path: Path) -> list[Path]:
    """Return `path` if it is a store, or the stores in the output folder `path`.

    Raises:
        StoreError: it is neither.
    """
    if (path / METADATA).exists():
        return [path]
    if stores := sorted(folder for folder in path.glob("*.zarr") if (folder / METADATA).exists()):
        return stores
    raise StoreError(f"{path}: no store, and none in it; name the output folder of geols-precompute, or a store")


def finalize(root: Path, *, partial: bool) -> tuple[int, str]:
    """Write the manifest over the committed cases of a store; (their number, its digest).

    Cases that failed when they were tried last are left out, as what is there of them may not fit their files any more.

    Raises:
        StoreError: the store is damaged, or planned cases are missing and `partial` is false.
        OSError: it cannot be written.
    """
    failures = runlog.known_failures(root.parent)
    committed = {case for case, _ in whole_cases(root)} - set(failures)
    missing = sorted(set(runlog.planned_cases(root.parent)) - committed)
    if missing and not partial:
        raise StoreError(f"{root}: {_told(missing, failures)}")
    remove_abandoned(root)
    return len(committed), write_manifest(root, leave_out=failures)


def _told(missing: Sequence[str], failures: dict[str, str]) -> str:
    reason = f" ({failures[missing[0]]})" if missing[0] in failures else ""
    return (
        f"{len(missing)} planned cases are missing, the first is {missing[0]}{reason}; run geols-precompute again, or "
        "the part that did not end, to compute them, or give --partial to leave them out"
    )
