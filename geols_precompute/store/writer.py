"""Writer: commits whole cases, one rename each, and the manifest last. What is half written is never seen."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt

from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.geometry import Geometry
from geols_precompute.recipe import recipe_differences
from geols_precompute.store import guards
from geols_precompute.store.layout import (
    ARRAYS,
    MANIFEST,
    METADATA,
    TEMPORARY_PREFIX,
    Format,
    array_metadata,
    group_metadata,
    manifest,
    ome_metadata,
)
from geols_precompute.store.shard import encode_shard

#: Where a file system has no locks, a temporary folder this old has lost its writer.
_ABANDONED_AFTER_SECONDS = 24 * 3600


def create_store(root: Path, metadata: Mapping[str, Any]) -> None:
    """Create a store's folder and root zarr.json, or check that an existing one was made with the same recipe.

    Raises:
        StoreError: the store there has another format, recipe or class table; the message names what differs.
    """
    path = root / METADATA
    content = canonical_json(metadata)
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root)
    if path.exists():
        found = guards.group_attributes(guards.parse_json(path.read_bytes(), path), path)
        wanted = metadata["attributes"]["geols"]
        guards.require_format(found, path, wanted["format"])
        compared = ("recipe", "classes")
        differing = recipe_differences({k: wanted[k] for k in compared}, {k: found.get(k) for k in compared})
        if differing:
            raise StoreError(
                f"{root} was made with other parameters ({'; '.join(differing)}); use --name NAME for a second label "
                "store over the same volumes, or another --out"
            )
    if not path.exists() or path.read_bytes() != content:
        _replace_file(path, content)


def commit_case(
    root: Path, case: str, arrays: Mapping[str, npt.NDArray[Any]], geometry: Geometry, geols: Mapping[str, Any]
) -> str:
    """Write a case and return the SHA-256 of its zarr.json; the rename at the end is the commit.

    Args:
        root: of the store, created before.
        case: id.
        arrays: by name, for each array that the store's format has.
        geometry: of the arrays.
        geols: attributes of the case beyond geometry, digests and files.

    Raises:
        StoreError: the case is there already and is not equal to this one.
    """
    format_ = _format_of(root)
    # the rounded geometry only, so that headers equal to 1e-6 give equal bytes
    geometry = Geometry.from_json(geometry.as_json())
    with _temporary(root, Path.mkdir) as folder:
        files: dict[str, dict[str, Any]] = {}
        digests = {}
        for kind in ARRAYS[format_]:
            array = arrays[kind.name]
            for relative, content in (
                (kind.metadata_path, canonical_json(array_metadata(kind, array.shape))),
                (kind.shard_path, encode_shard(array, kind)),
            ):
                _write(folder / relative, content)
                files[relative] = {"bytes": len(content), "sha256": sha256_hex(content)}
            digests[f"{kind.name}_sha256"] = array_sha256(array)
        attributes = {**geols, **digests, "geometry": geometry.as_json(), "files": files}
        ome = ome_metadata(case, ARRAYS[format_][0], geometry)
        content = canonical_json(group_metadata({"ome": ome, "geols": attributes}))
        _write(folder / METADATA, content)
        # all is written before anything is synced: the file system then commits its journal once, not once a file
        for parent, _, names in os.walk(folder, topdown=False):
            for path in (*(Path(parent, name) for name in names), Path(parent)):
                _sync(path)
        _rename_or_compare(folder, root / case, content)
        _sync(root)
    return sha256_hex(content)


def array_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 over an array's elements, little-endian, C order."""
    ordered = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return hashlib.sha256(ordered.data if ordered.flags.c_contiguous else ordered.tobytes()).hexdigest()


def remove_case(root: Path, case: str) -> None:
    """Take a case out of a store, in one step for whoever looks."""
    if (root / case).exists():
        doomed = root / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        (root / case).rename(doomed)
        shutil.rmtree(doomed)


def committed_cases(root: Path) -> dict[str, dict[str, Any]]:
    """Return {case: its geols attributes} of every whole case; no manifest is needed."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    found = {folder.name: committed_case(root, folder.name) for folder in folders if not folder.name.startswith(".")}
    return {case: geols for case, geols in found.items() if geols is not None}


def committed_case(root: Path, case: str) -> dict[str, Any] | None:
    """Return a case's geols attributes, or None if it is not there or a file has not the size that it should have."""
    path = root / case / METADATA
    with suppress(StoreError, OSError, KeyError, TypeError, AttributeError):
        geols = guards.group_attributes(guards.parse_json(path.read_bytes(), path), path)
        if all((root / case / name).stat().st_size == entry["bytes"] for name, entry in geols["files"].items()):
            return geols
    return None


def write_manifest(root: Path) -> str:
    """Write the manifest over the committed cases and return its SHA-256, the store digest."""
    path = root / METADATA
    content = path.read_bytes()
    geols = guards.group_attributes(guards.parse_json(content, path), path)
    cases = {case: sha256_hex((root / case / METADATA).read_bytes()) for case in committed_cases(root)}
    document = canonical_json(manifest(geols["format"], geols["recipe_id"], sha256_hex(content), cases))
    _replace_file(root / MANIFEST, document)
    return sha256_hex(document)


def remove_abandoned(root: Path) -> None:
    """Remove what writers that are gone left behind; a living writer holds a lock on its temporary folder or file."""
    for path in root.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if not path.is_symlink() and _abandoned(path):
                _remove(path)


def _format_of(root: Path) -> Format:
    path = root / METADATA
    format_: Format = guards.group_attributes(guards.parse_json(path.read_bytes(), path), path)["format"]
    return format_


@contextmanager
def _temporary(root: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a locked file or folder beside the cases, and remove it if it was not renamed."""
    descriptor = None
    while descriptor is None:
        path = root / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        make(path)
        descriptor = _lock(path)
    try:
        yield path
    finally:
        os.close(descriptor)
        _remove(path)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds a lock on `path`, or None if another run cleaned it away before."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if path.exists():
        return descriptor
    os.close(descriptor)
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - path.stat().st_mtime > _ABANDONED_AFTER_SECONDS
    finally:
        os.close(descriptor)
    return True


def _rename_or_compare(folder: Path, target: Path, content: bytes) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        try:
            committed = (target / METADATA).read_bytes()
        except OSError:
            raise error from None
        if committed != content:
            raise StoreError(
                f"{target} is committed with other content (zarr.json {sha256_hex(committed)[:12]}, now "
                f"{sha256_hex(content)[:12]}); two runs with different inputs write to one store"
            ) from None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _replace_file(path: Path, content: bytes) -> None:
    with _temporary(path.parent, Path.touch) as temporary:
        _write(temporary, content)
        _sync(temporary)
        temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
