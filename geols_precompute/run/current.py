"""Whether a label store still is that of the files that its maps were made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.layouts import discover
from geols_precompute.data.prepare import read_source
from geols_precompute.errors import StoreError
from geols_precompute.run import state
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.verify import compare_source


def require_current(store: LabelStore, data: Path, cases: Iterable[str], *, remedy: str) -> None:
    """Refuse a label store that does not have `cases`, or has one from other voxels than its files hold now.

    Files that are as they were when the maps were made are not read again; others, such as copies, are.

    Args:
        store: the label store, beside the files of its run.
        data: the data folder.
        cases: ids.
        remedy: the command that makes the maps anew.

    Raises:
        StoreError: naming the case.
        InputError: the data folder, or a case of it, cannot be read.
    """
    here = {case.id: case for case in discover(data, modalities=store.preprocessing.modalities).cases}
    wanted = sorted(cases)
    if missing := [case for case in wanted if case not in store]:
        raise StoreError(f"{store.path} has no maps of {len(missing)} cases, the first {missing[0]}; run {remedy}")
    known = state.known_sources(store.path.parent)
    for name in wanted:
        if name not in here:
            raise StoreError(f"{data} has no case {name} that can be used; run {remedy}")
        known_here = known.get(name, {}).get(state.source_stamps(source_files(here[name])), set())
        if state.source_digest(store.metadata(name).geols["source"]) not in known_here:
            _require_same(store, here[name], remedy)


def _require_same(store: LabelStore, case: Case, remedy: str) -> None:
    _, source = read_source(case, store.preprocessing, store.classes)
    if (found := compare_source(store.metadata(case.id).geols["source"], source)) != "same":
        raise StoreError(f"{store.path}: the maps of {case.id} are of other data ({found}); run {remedy}")
