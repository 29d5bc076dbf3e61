"""Verify: recompute every digest of a store, and compare its cases with a lab's own copy of the data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geols_precompute.errors import StoreError
from geols_precompute.store import files
from geols_precompute.store.layout import ARRAYS, MANIFEST, METADATA
from geols_precompute.store.reader import LabelStore, Store, VolumeStore
from geols_precompute.store.writer import array_sha256

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
    document = {}
    if (path / MANIFEST).exists():
        content = files.read_limited(path, MANIFEST, files.MAX_MANIFEST_BYTES)
        document = files.parse_json(content, path / MANIFEST)
    return VolumeStore(path) if document.get("format") == VolumeStore.format else LabelStore(path)


def verify_case(store: Store, case: str) -> Finding | None:
    """Read every byte of a case: files and their digests, metadata, decoded arrays. None if all is well."""
    try:
        metadata = store.metadata(case)
        for relative, (size, sha256) in metadata.files.items():
            if files.file_sha256(store.path, f"{case}/{relative}", size) != sha256:
                raise StoreError(
                    f"{store.path / case / relative}: differs from its digest; remove {store.path / case} and run "
                    "geols-precompute again, or restore it"
                )
        for kind in ARRAYS[store.format]:
            if array_sha256(store.read(case, kind)) != metadata.geols.get(f"{kind.name}_sha256"):
                raise StoreError(f"{store.path / case / kind.name}: the decoded array differs from its digest")
        expected = {METADATA, *metadata.files}
        if strange := [name for name in _files_below(store.path / case) if name not in expected]:
            raise StoreError(f"{store.path / case / strange[0]}: is not part of the case; remove it")
    except StoreError as error:
        return Finding(case=case, problem=str(error))
    return None


def strange_entries(store: Store) -> list[Finding]:
    """Return what lies in a store's folder without being named in its manifest (temporary folders aside)."""
    known = {MANIFEST, METADATA, *store.cases}
    return [
        Finding(case="", problem=f"{path}: is not in the manifest; run geols-store finalize, or remove it")
        for path in sorted(store.path.iterdir())
        if path.name not in known and not path.name.startswith(".")
    ]


def compare_source(stored: Mapping[str, Any], found: Mapping[str, Any]) -> Status:
    """Compare two fingerprints: what a store was made from, and what a data folder holds."""
    if stored.get("geometry_sha256") != found["geometry_sha256"]:
        return "geometry differs"
    if stored.get("image_sha256") != found["image_sha256"]:
        return "image differs"
    return "same" if stored.get("label_sha256") == found["label_sha256"] else "label differs"


def _files_below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*names, *links):
            yield Path(parent, name).relative_to(folder).as_posix()
