"""Commits whole cases, one rename each, and the manifest last. What is half written is never seen."""

from __future__ import annotations

import errno
import os
import reprlib
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from geols_precompute import atomic
from geols_precompute.data.cases import is_case_id
from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import canonical_json, file_sha256, sha256_hex
from geols_precompute.errors import OutputError, StoreError
from geols_precompute.recipe.parameters import recipe_differences
from geols_precompute.store import files, guards
from geols_precompute.store.layout import (
    ARRAYS,
    MANIFEST,
    METADATA,
    RATERS,
    VERSION,
    ArrayKind,
    Format,
    array_metadata,
    arrays_of,
    group_metadata,
    manifest,
    ome_metadata,
)

if TYPE_CHECKING:
    from geols_precompute.store.shard import Channels

#: What a rename says where its new name is taken.
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_ATTEMPTS = 100
_REMEDIES = {
    "geols-labels": "use --name NAME for a second label store over the same volumes, or another --out",
    "geols-volumes": "use another --out",
}
#: Every path that a case of either format has, folders included.
_CASE_PATHS = {Path(METADATA)} | {
    path
    for kinds in (*ARRAYS.values(), (RATERS,))
    for kind in kinds
    for file in (Path(kind.metadata_path), Path(kind.shard_path))
    for path in (file, *file.parents[:-1])
}


def create_store(root: Path, metadata: Mapping[str, Any]) -> None:
    """Create a store's folder and root zarr.json, or check that an existing one was made with the same recipe.

    A store without a committed case, which no run is filling, takes any recipe.

    Raises:
        StoreError: the store there has another format, recipe or class table, and the message names what differs; or
            what is there was not written by this package.
        OutputError: it is a link.
    """
    content = canonical_json(metadata)
    require_own(root)
    root.mkdir(parents=True, exist_ok=True)
    atomic.remove_abandoned(root)
    # of several runs that begin together one is the first; the others find its recipe
    with store_lock(root):
        require_same_recipe(root, metadata)
        if not (root / METADATA).exists() or (root / METADATA).read_bytes() != content:
            atomic.replace_file(root / METADATA, content)
            _amend_manifest(root)


def require_own(root: Path) -> None:
    """Refuse to fill a folder in which lies what this package has not written, or one that a link leads to.

    Raises:
        StoreError: naming what was found.
        OutputError: it is a link.
    """
    atomic.refuse_link(root)
    where = root / METADATA
    if os.path.lexists(where):
        try:
            read_attributes(root)
        except StoreError as error:
            raise StoreError(
                f"{root}: is not a store of geols, or a damaged one ({error}); move it away, or name another --out"
            ) from error
    elif root.is_dir():
        for path in sorted(root.iterdir()):
            ours = path.name == MANIFEST or path.name.startswith(atomic.TEMPORARY_PREFIX)
            if not ours and strange_entry(path) is not None:
                raise StoreError(
                    f"{root}: is not a store of geols, and holds {path.name}; move it away, or name another --out"
                )
    elif root.exists():
        raise StoreError(f"{root}: is no folder; move it away, or name another --out")


def require_same_recipe(root: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse to fill a store that has cases of another recipe, or will have: another run is filling it.

    Args:
        root: of the store, which may not be there yet.
        metadata: zarr.json of the root as it would be written.

    Raises:
        StoreError: the store has another format, version, recipe or class table; the message names what differs.
    """
    if not (root / METADATA).exists():
        return
    found, wanted = read_attributes(root), metadata["attributes"]["geols"]
    guards.require_format(found, root / METADATA, wanted["format"])
    _require_written_version(root, found)
    compared = ("recipe", "classes")
    differing = recipe_differences({k: wanted[k] for k in compared}, {k: found.get(k) for k in compared})
    if not differing:
        return
    remedy = _REMEDIES[wanted["format"]]
    if any(whole_cases(root)):
        raise StoreError(f"{root} was made with other parameters ({'; '.join(differing)}); {remedy}")
    if atomic.is_in_use(root):
        raise StoreError(f"{root} is being filled by a run with other parameters ({'; '.join(differing)}); {remedy}")


def _require_written_version(root: Path, geols: Mapping[str, Any]) -> None:
    if geols["version"] != VERSION:
        raise StoreError(
            f"{root}: is of version {geols['version']} of the format, which is read but not written any more; name "
            f"another --out, where --reuse {root} takes maps that are there"
        )


def require_recipe(root: Path, expected: Mapping[str, Any]) -> None:
    """Refuse to go on filling a store whose root has been given another recipe since `create_store`.

    Args:
        root: of the store.
        expected: its recipe and its class table, by these names, as they were then.

    Raises:
        OutputError: the message names what differs.
        StoreError: the root is damaged.
    """
    found = read_attributes(root)
    if differing := recipe_differences(expected, {key: found.get(key) for key in expected}):
        raise OutputError(
            f"{root}: a run with other parameters ({'; '.join(differing)}) has taken this store meanwhile; "
            f"{_REMEDIES.get(found.get('format', ''), 'use another --out')}"
        )


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return the geols attributes of a root's or a case's zarr.json.

    Raises:
        StoreError: it is not there, a link, too large, or no group of ours.
    """
    content = files.read_limited(files.Folder(folder), METADATA, files.MAX_METADATA_BYTES)
    return guards.group_attributes(files.parse_json(content, folder / METADATA), folder / METADATA)


def commit_case(
    root: Path,
    case: str,
    arrays: Mapping[str, NDArray[Any] | Channels],
    geometry: Geometry,
    geols: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    *,
    check: Callable[[], None] = lambda: None,
    readers: int = atomic.EVERYONE,
) -> str:
    """Write a case and return the SHA-256 of its zarr.json; the rename at the end is the commit.

    It takes the place of one that is damaged, or made from other sources.

    Args:
        root: of the store, created before.
        case: id.
        arrays: by name, for each array that the store's format has; whole, or some channels at a time.
        geometry: of the arrays.
        geols: attributes of the case beyond geometry, digests and files; called once the arrays are written, if they
            are known only then.
        check: called just before the rename, while no other run commits to the store; what it raises prevents that.
        readers: permission bits that the case may have; see `atomic.readers_of`.

    Raises:
        StoreError: the case is there already, made from the same sources, and is not equal to this one.
    """
    from geols_precompute.store.shard import write_shard  # numcodecs takes long to import

    kinds = _arrays_of(root)
    # the rounded geometry only, so that headers equal to 1e-6 give equal bytes
    geometry = Geometry.from_json(geometry.as_json())
    with new_case(root, case, check=check, readers=readers, replace_stale=True) as folder:
        listed: dict[str, dict[str, Any]] = {}
        digests = {}
        for kind in kinds:
            array = arrays[kind.name]
            write_file(folder / kind.metadata_path, [canonical_json(array_metadata(kind, array.shape))])
            shard = folder / kind.shard_path
            shard.parent.mkdir(parents=True)
            with shard.open("wb") as file:
                digests[f"{kind.name}_sha256"] = write_shard(file, array, kind)
            for relative in (kind.metadata_path, kind.shard_path):
                listed[relative] = {
                    "bytes": (folder / relative).stat().st_size,
                    "sha256": file_sha256(folder / relative),
                }
        described = geols() if callable(geols) else geols
        attributes = {**described, **digests, "geometry": geometry.as_json(), "files": listed}
        ome = ome_metadata(case, kinds[0], geometry)
        content = canonical_json(group_metadata({"ome": ome, "geols": attributes}))
        write_file(folder / METADATA, [content])
    return sha256_hex(content)


@contextmanager
def new_case(
    root: Path,
    case: str,
    *,
    check: Callable[[], None] = lambda: None,
    readers: int = atomic.EVERYONE,
    replace_stale: bool = False,
) -> Iterator[Path]:
    """Provide a folder for the files of a case, its zarr.json among them; the rename at the end is the commit.

    Args:
        root: of the store.
        case: id.
        check: called just before the rename, while no other run commits to the store; what it raises prevents that.
        readers: permission bits that the case may have; see `atomic.readers_of`.
        replace_stale: a whole case made from other sources makes room.

    Raises:
        StoreError: the case is there already, whole, and is not equal to this one.
    """
    with atomic.new_folder(root, readers) as folder:
        yield folder
        atomic.restrict(folder, readers)
        atomic.sync_tree(folder)
        with store_lock(root):
            check()
            _commit(folder, root, case, replace_stale=replace_stale)
        atomic.sync(root)


def write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of a new case, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(pieces)


def remove_case(root: Path, case: str) -> None:
    """Take a case, or what is left of one, out of a store, in one step for whoever looks.

    Raises:
        StoreError: something else has its name, or lies in its folder; nothing is removed then.
    """
    path = root / case
    if (odd := strange_entry(path)) == path:
        raise StoreError(f"{path}: is no folder of a case; move it away")
    if odd is not None:
        raise StoreError(f"{odd}: was not written by geols, and {path} has to be replaced; move it away")
    doomed = root / f"{atomic.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    # another process may be faster, here and below
    with suppress(FileNotFoundError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def strange_entry(folder: Path) -> Path | None:
    """Return what in the folder of a case, whole or damaged, this package has not written.

    None is nothing, or a folder that is not there; the folder itself is the answer if it is none of a case.
    """
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir():
        return folder
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in sorted([*folders, *names])):
            if path.is_symlink() or path.relative_to(folder) not in _CASE_PATHS:
                return path
    metadata = folder / METADATA
    with suppress(StoreError):
        # a document that can be read, and is none of ours; one that is damaged may have been
        document = files.parse_json(files.read_limited(files.Folder(folder), METADATA, files.MAX_METADATA_BYTES), "")
        with suppress(LookupError, TypeError):
            return None if isinstance(document["attributes"]["geols"], dict) else metadata
        return metadata
    return None


def committed_cases(root: Path, digests: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return {case: its geols attributes} of every whole case; no manifest is needed.

    With `digests`, those of a manifest, a case whose zarr.json has another digest than it says is not whole.
    """
    return dict(whole_cases(root, digests))


def whole_cases(root: Path, digests: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what `committed_cases` returns, one case after another."""
    names = sorted(folder.name for folder in root.iterdir()) if root.is_dir() else []
    for name in filter(is_case_id, names):
        if (geols := committed_case(root, name, digests)) is not None:
            yield name, geols


def committed_case(root: Path, case: str, digests: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Return a case's geols attributes, or None if a file has not the size that it should have.

    `digests` are those of `committed_cases`.
    """
    with suppress(StoreError, OSError, LookupError, TypeError, ValueError, AttributeError):
        content = files.read_limited(files.Folder(root), f"{case}/{METADATA}", files.MAX_METADATA_BYTES)
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
        content = files.read_limited(files.Folder(root), MANIFEST, files.MAX_MANIFEST_BYTES)
        return guards.checked_manifest(content, root / MANIFEST, _format_of(root)).cases
    return {}


def amend_manifest(root: Path, without: Collection[str] = ()) -> None:
    """Take cases out of a manifest, if there is one, and follow a root that was rewritten; nothing is added.

    Raises:
        StoreError: the root is damaged.
    """
    with store_lock(root):
        _amend_manifest(root, without)


def _amend_manifest(root: Path, without: Collection[str] = ()) -> None:
    # a damaged one stays what it is, and is refused, until a run or finalize writes it anew
    if known := manifest_digests(root):
        _write_manifest(root, {case: digest for case, digest in known.items() if case not in without})


def write_manifest(root: Path, leave_out: Collection[str] = ()) -> str:
    """Write the manifest over the committed cases and return its SHA-256, the store digest.

    Raises:
        StoreError: the root is damaged, or two cases have one id, letter case aside.
    """
    with store_lock(root):
        return _write_manifest(
            root,
            {
                case: sha256_hex(files.read_limited(files.Folder(root), f"{case}/{METADATA}", files.MAX_METADATA_BYTES))
                for case, _ in whole_cases(root)
                if case not in leave_out
            },
        )


def enter_check(root: Path, sha256: str) -> None:
    """Enter into a root what the maps of the check case are here, unless it says that already.

    Raises:
        StoreError: the root is damaged.
        OSError: it cannot be written.
    """
    with store_lock(root):
        geols = read_attributes(root)
        if guards.CHECK not in geols:
            content = canonical_json(group_metadata({"geols": {**geols, guards.CHECK: sha256}}))
            atomic.replace_file(root / METADATA, content)
            _amend_manifest(root)


def store_lock(root: Path) -> AbstractContextManager[None]:
    """Return the lock to hold while a root or a manifest is changed, or a case gets its name: runs may go together."""
    return atomic.locked(root / f"{atomic.TEMPORARY_PREFIX}{MANIFEST}")


def _write_manifest(root: Path, cases: Mapping[str, str]) -> str:
    content = files.read_limited(files.Folder(root), METADATA, files.MAX_METADATA_BYTES)
    where = root / METADATA
    checked = guards.checked_root(files.parse_json(content, where), where, _format_of(root))
    document = canonical_json(manifest(checked.format, checked.recipe_id, sha256_hex(content), cases, checked.version))
    guards.checked_manifest(document, root / MANIFEST, checked.format)
    atomic.replace_file(root / MANIFEST, document)
    return sha256_hex(document)


def refuse_store(folder: Path) -> None:
    """Refuse to write other things into a store, or into a folder that lies in one.

    Raises:
        OutputError: naming the store.
    """
    # through links and ..
    resolved = folder.resolve()
    if inside := next((place for place in (resolved, *resolved.parents) if (place / METADATA).exists()), None):
        raise OutputError(f"{folder} lies in the store {inside}; name a folder outside of it")


def _format_of(root: Path) -> Format:
    format_ = read_attributes(root).get("format")
    if not isinstance(format_, str) or format_ not in ARRAYS:
        raise StoreError(
            f"{root / METADATA}: format {reprlib.repr(format_)} is not one of {', '.join(ARRAYS)}; compute it again"
        )
    return format_


def _arrays_of(root: Path) -> tuple[ArrayKind, ...]:
    """Return the arrays that every case of a store has which is being written."""
    format_, attributes = _format_of(root), read_attributes(root)
    _require_written_version(root, attributes)
    return tuple(arrays_of(format_, VERSION, keep_raters=attributes["recipe"].get("keep_raters") is True).values())


def _commit(folder: Path, root: Path, case: str, *, replace_stale: bool) -> None:
    """Give a finished folder the name of its case.

    If the name is taken by an equal case, that one stays. One that is damaged, or made from other files if
    `replace_stale`, is removed now that a whole one can take its place. Anything else under the name means that two
    runs disagree.

    Raises:
        StoreError: they disagree, or other runs put cases there again and again.
    """
    target = root / case
    # where a file system has no locks, another run may put the case there, or take it away, between any two steps
    for _ in range(_ATTEMPTS):
        if _rename_if_free(folder, target):
            return
        there = committed_case(root, case)
        if there is None or (replace_stale and there["source"] != read_attributes(folder)["source"]):
            remove_case(root, case)
        elif _is_equal(folder, target):
            return
    raise StoreError(f"{target}: other runs write this case again and again; let them end, and run again")


def _rename_if_free(folder: Path, target: Path) -> bool:
    """Rename a folder unless something has the new name already; return whether it was renamed."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in _TAKEN or os.path.lexists(target):
            return False
        raise
    return True


def _is_equal(folder: Path, target: Path) -> bool:
    """Whether a committed case has the metadata, and so every digest, of a finished folder; false if it is gone.

    Raises:
        StoreError: it is there and differs.
    """
    with suppress(FileNotFoundError):
        content, committed = ((place / METADATA).read_bytes() for place in (folder, target))
        if committed != content:
            raise StoreError(
                f"{target} is committed with other content (zarr.json {sha256_hex(committed)[:12]}, now "
                f"{sha256_hex(content)[:12]}); two runs with different inputs write to one store"
            )
        return True
    return False
