"""Recomputes every digest of a store, and finds its cases by the fingerprints of the data they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from geols_precompute.digests import array_sha256
from geols_precompute.errors import StoreError
from geols_precompute.store import files, guards
from geols_precompute.store.layout import MANIFEST, METADATA
from geols_precompute.store.reader import LabelStore, Store, VolumeStore, local_files

Status = Literal["same", "label differs", "image differs", "geometry differs", "missing", "extra", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with one case, or with the store itself (case "")."""

    case: str
    problem: str


def open_store(path: Path) -> Store:
    """Open a store of either format.

    Raises:
        StoreError: it cannot be opened as either.
    """
    where = local_files(path)
    content = files.read_limited(where, MANIFEST, files.MAX_MANIFEST_BYTES)
    guards.require_plain_manifest(content, f"{path}/{MANIFEST}")
    document = files.parse_json(content, f"{path}/{MANIFEST}")
    return VolumeStore(where) if document.get("format") == VolumeStore.format else LabelStore(where)


def verify_case(store: Store, case: str) -> Finding | None:
    """Read every byte of a case: files and their digests, metadata, decoded arrays. None if all is well."""
    where = f"{store.files.location}/{case}"
    try:
        metadata = store.metadata(case)
        for relative, (size, sha256) in metadata.files.items():
            for _ in files.checked_pieces(store.files, f"{case}/{relative}", size, sha256):
                pass
        for name in store.root.arrays:
            if array_sha256(store.read(case, name)) != metadata.geols.get(f"{name}_sha256"):
                raise StoreError(f"{where}/{name}: the decoded array differs from its digest")
        expected = {METADATA, *metadata.files}
        if strange := [name for name in store.files.names(case) if name not in expected]:
            raise StoreError(f"{where}/{strange[0]}: is not part of the case; remove it")
    except StoreError as error:
        return Finding(case=case, problem=str(error))
    return None


def require_same_data(labels: LabelStore, volumes: VolumeStore, case: str) -> None:
    """Refuse a case whose maps do not belong to its volume; this also reads and checks the metadata of both.

    Raises:
        InputError: one of the stores has no such case.
        StoreError: they were made from other source files or lie on another grid, or the case is damaged.
    """
    maps, volume = labels.metadata(case), volumes.metadata(case)
    status = compare_source(maps.geols["source"], volume.geols["source"])
    if status == "same" and maps.geometry != volume.geometry:
        status = "geometry differs"
    if status != "same":
        raise StoreError(
            f"{labels.files.location}/{case}: its maps were made from other data than {volumes.path / case} "
            f"({status}); compute them again with geols-precompute, or take the store that belongs to this data"
        )


def strange_entries(store: Store) -> list[Finding]:
    """Return what lies in a store without being named in its manifest (temporary folders aside)."""
    known = {MANIFEST, METADATA, *store.cases}
    return [
        Finding(
            case="",
            problem=f"{store.files.location}/{name}: is not in the manifest; run geols-store finalize, or remove it",
        )
        for name in store.files.entries()
        if name not in known
    ]


def compare_source(stored: Mapping[str, Any], found: Mapping[str, Any]) -> Status:
    """Compare two fingerprints: what a store was made from, and what a data folder holds."""
    if stored.get("geometry_sha256") != found["geometry_sha256"]:
        return "geometry differs"
    if stored.get("image_sha256") != found["image_sha256"]:
        return "image differs"
    labels = ("label_sha256", "raters")
    return "same" if all(stored.get(key) == found.get(key) for key in labels) else "label differs"


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
    raters = [text for rater in source.get("raters", ()) for text in (rater["name"], rater["sha256"])]
    return (source["geometry_sha256"], source["label_sha256"], *source["image_sha256"], *raters)
