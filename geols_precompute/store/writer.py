"""Writer: commits whole cases, one rename each, and the manifest last. What is half written is never seen."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt

from geols_precompute.cases import is_case_id
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.geometry import Geometry
from geols_precompute.recipe import recipe_differences
from geols_precompute.store import files, guards
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

    A store without a committed case takes any recipe.

    Raises:
        StoreError: the store there has another format, recipe or class table; the message names what differs.
    """
    content = canonical_json(metadata)
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root)
    if (root / METADATA).exists():
        if committed_cases(root):
            _require_same_recipe(root, metadata["attributes"]["geols"])
        if (root / METADATA).read_bytes() == content:
            return
    _replace_file(root / METADATA, content)
    if (root / MANIFEST).exists():
        write_manifest(root)


def _require_same_recipe(root: Path, wanted: Mapping[str, Any]) -> None:
    found = read_attributes(root)
    guards.require_format(found, root / METADATA, wanted["format"])
    compared = ("recipe", "classes")
    differing = recipe_differences({k: wanted[k] for k in compared}, {k: found.get(k) for k in compared})
    if differing:
        remedy = "use another --out"
        if wanted["format"] == "geols-labels":
            remedy = "use --name NAME for a second label store over the same volumes, or another --out"
        raise StoreError(f"{root} was made with other parameters ({'; '.join(differing)}); {remedy}")


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return the geols attributes of a root's or a case's zarr.json.

    Raises:
        StoreError: it is not there, a link, too large, or no group of ours.
    """
    content = files.read_limited(folder, METADATA, files.MAX_METADATA_BYTES)
    return guards.group_attributes(files.parse_json(content, folder / METADATA), folder / METADATA)


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
        listed: dict[str, dict[str, Any]] = {}
        digests = {}
        for kind in ARRAYS[format_]:
            array = arrays[kind.name]
            for relative, content in (
                (kind.metadata_path, canonical_json(array_metadata(kind, array.shape))),
                (kind.shard_path, encode_shard(array, kind)),
            ):
                _write(folder / relative, content)
                listed[relative] = {"bytes": len(content), "sha256": sha256_hex(content)}
            digests[f"{kind.name}_sha256"] = array_sha256(array)
        attributes = {**geols, **digests, "geometry": geometry.as_json(), "files": listed}
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


def committed_cases(root: Path, digests: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return {case: its geols attributes} of every whole case; no manifest is needed.

    With `digests`, those of a manifest, a case whose zarr.json has another digest than it says is not whole.
    """
    names = sorted(folder.name for folder in root.iterdir()) if root.is_dir() else []
    found = {name: committed_case(root, name, digests) for name in names if is_case_id(name)}
    return {case: geols for case, geols in found.items() if geols is not None}


def committed_case(root: Path, case: str, digests: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Return a case's geols attributes, or None if a file has not the size that it should have.

    `digests` are those of `committed_cases`.
    """
    with suppress(StoreError, OSError, LookupError, TypeError, ValueError, AttributeError):
        content = files.read_limited(root, f"{case}/{METADATA}", files.MAX_METADATA_BYTES)
        where = root / case / METADATA
        geols = guards.group_attributes(files.parse_json(content, where), where)
        if digests and digests.get(case, sha256_hex(content)) != sha256_hex(content):
            return None
        if all((root / case / name).lstat().st_size == entry["bytes"] for name, entry in geols["files"].items()):
            return geols
    return None


def manifest_digests(root: Path) -> Mapping[str, str]:
    """Return {case: SHA-256 of its zarr.json} of a store's manifest; nothing if there is none, or a damaged one."""
    with suppress(StoreError, OSError):
        content = files.read_limited(root, MANIFEST, files.MAX_MANIFEST_BYTES)
        return guards.checked_manifest(content, root / MANIFEST, _format_of(root)).cases
    return {}


def write_manifest(root: Path, leave_out: Collection[str] = ()) -> str:
    """Write the manifest over the committed cases and return its SHA-256, the store digest.

    Raises:
        StoreError: the root is damaged, or two cases have one id, letter case aside.
    """
    content = files.read_limited(root, METADATA, files.MAX_METADATA_BYTES)
    where = root / METADATA
    checked = guards.checked_root(files.parse_json(content, where), where, _format_of(root))
    cases = {
        case: sha256_hex(files.read_limited(root, f"{case}/{METADATA}", files.MAX_METADATA_BYTES))
        for case in committed_cases(root)
        if case not in leave_out
    }
    document = canonical_json(manifest(checked.format, checked.recipe_id, sha256_hex(content), cases))
    guards.checked_manifest(document, root / MANIFEST, checked.format)
    _replace_file(root / MANIFEST, document)
    return sha256_hex(document)


def remove_abandoned(root: Path) -> None:
    """Remove what writers that are gone left behind; a living writer holds a lock on its temporary folder or file."""
    for path in root.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if not path.is_symlink() and _abandoned(path):
                _remove(path)


def _format_of(root: Path) -> Format:
    format_ = read_attributes(root).get("format")
    if format_ not in ARRAYS:
        raise StoreError(f"{root / METADATA}: format {format_!r} is not one of {', '.join(ARRAYS)}")
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
