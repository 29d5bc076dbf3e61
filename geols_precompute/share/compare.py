"""A store's cases against a lab's own copy of the data, by fingerprints: names may differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.data.cases import Case
from geols_precompute.data.layouts import discover
from geols_precompute.data.prepare import PreparedCase, prepare_source, read_source
from geols_precompute.errors import InputError, StoreError
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import Preprocessing
from geols_precompute.store.reader import Store
from geols_precompute.store.verify import CasesBySource, Status, compare_source


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the cases of a store and of a data folder compare.

    Attributes:
        statuses: of every case of either, sorted by id.
        reasons: why cases are unreadable.
        renamed: cases that are the same under another name.
    """

    statuses: Mapping[str, Status]
    reasons: Mapping[str, str]
    renamed: int

    @property
    def counts(self) -> Counter[Status]:
        """How many cases have each status."""
        return Counter(self.statuses.values())


def cases_of_data(store: Store, data: Path, preprocessing: Preprocessing) -> Callable[[str], PreparedCase]:
    """Return what prepares a case of a data folder, from which the case of a store was made.

    Args:
        store: that has the cases.
        data: the folder.
        preprocessing: that of the store; it may keep raters of which the store says nothing.

    Raises:
        InputError: the folder has no known layout, or not the modalities of the store. When it is called: the folder
            lacks the case, or it cannot be read.
        StoreError: when it is called: the case of the store was made from other data.
    """
    cases = {case.id: case for case in discover(data, modalities=preprocessing.modalities).cases}

    def read(name: str) -> PreparedCase:
        if name not in cases:
            raise InputError(f"{data}: has no case {name!r}")
        volume, source = read_source(cases[name], preprocessing, store.classes)
        stored = store.metadata(name).geols["source"]
        compared = {key: value for key, value in source.items() if key != "raters" or key in stored}
        # before it is prepared: other data may have other classes too
        if (status := compare_source(stored, compared)) != "same":
            raise StoreError(f"{store.path}/{name}: its maps were made from other data than that in {data} ({status})")
        return prepare_source(cases[name], volume, source, preprocessing, store.classes)

    return read


def compare_with_data(store: Store, data: Path, on_case: OnCase) -> Comparison:
    """Read every case of a data folder and look for it in a store.

    Raises:
        InputError: the folder has no known layout, or not the modalities of the store.
    """
    dataset = discover(data, modalities=store.preprocessing.modalities)
    known = CasesBySource(store)
    statuses: dict[str, Status] = {}
    reasons = {problem.case_id: problem.reason for problem in dataset.problems}
    found_here: set[str] = set()
    renamed = 0
    for case in dataset.cases:
        try:
            statuses[case.id], names = _compare_case(case, store, known)
            found_here.update(names)
            renamed += bool(names) and case.id not in names
        except (InputError, StoreError) as error:
            statuses[case.id], reasons[case.id] = "unreadable", str(error)
        except Exception as error:
            # one file that no one foresaw must not end the comparison of the others
            statuses[case.id], reasons[case.id] = "unreadable", f"unexpected {type(error).__name__}: {error}"
        on_case(case.id, "" if statuses[case.id] == "same" else statuses[case.id])
    for name in set(store.cases) - found_here:
        statuses.setdefault(name, "unreadable" if name in reasons else "missing")
    return Comparison(statuses=dict(sorted(statuses.items())), reasons=reasons, renamed=renamed)


def _compare_case(case: Case, store: Store, known: CasesBySource[Store]) -> tuple[Status, list[str]]:
    """Return the status of a case of the data, and the cases of the store that were made from it."""
    _, source = read_source(case, store.preprocessing, store.classes)
    if names := known.find_all(source):
        return "same", names
    if case.id in store:
        return compare_source(store.metadata(case.id).geols["source"], source), []
    return "extra", []
