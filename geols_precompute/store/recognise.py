"""Recognise: the cases of a store by the fingerprints of the data they were made from, whatever their names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Generic, TypeVar

from geols_precompute.errors import StoreError
from geols_precompute.store.reader import Store
from geols_precompute.store.verify import compare_source

S = TypeVar("S", bound=Store)


class CasesBySource(Generic[S]):
    """Finds the case of a store that was made from given data."""

    def __init__(self, store: S) -> None:
        self.store = store

    def find(self, case: str, source: Mapping[str, Any]) -> str | None:
        """Return the id of the case with these fingerprints: `case` itself if it has them, else the first that has.

        Raises:
            StoreError: the metadata of `case` is damaged.
        """
        if case in self.store.manifest.cases:
            _, metadata = self.store.read_metadata(case)
            if compare_source(metadata.geols["source"], source) == "same":
                return case
        return next(iter(self.find_all(source)), None)

    def find_all(self, source: Mapping[str, Any]) -> list[str]:
        """Return the ids of all cases with these fingerprints."""
        return self._by_source.get(_key(source), [])

    @cached_property
    def _by_source(self) -> dict[tuple[str, ...], list[str]]:
        """Every case by its fingerprints; one with damaged metadata is not found by them."""
        found: dict[tuple[str, ...], list[str]] = {}
        for case in self.store.cases:
            with suppress(StoreError):
                found.setdefault(_key(self.store.read_metadata(case)[1].geols["source"]), []).append(case)
        return found


def _key(source: Mapping[str, Any]) -> tuple[str, ...]:
    return (source["geometry_sha256"], source["label_sha256"], *source["image_sha256"])
