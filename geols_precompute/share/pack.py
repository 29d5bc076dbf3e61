"""Packs a label store into one file, which is the same for the same store; cases may get names that tell nothing."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from geols_precompute import atomic
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.progress import OnCase
from geols_precompute.share.copy import renamed
from geols_precompute.share.export import file_of
from geols_precompute.store import files
from geols_precompute.store.archive import write_archive
from geols_precompute.store.layout import MANIFEST, METADATA, OME_VERSION, manifest
from geols_precompute.store.reader import LabelStore

#: Beside the store whose cases get other names.
SALT, NAMES = "names.salt", "names.csv"
_HEADER = "case,name"
#: What a zip program shows, and a reader of OME-Zarr looks for (RFC-9): the images in it, and the order of the members.
_COMMENT = canonical_json({"ome": {"version": OME_VERSION, "zipFile": {"centralDirectory": {"jsonFirst": True}}}})

#: Name, size and content in pieces.
Member = tuple[str, int, Iterable[bytes]]


def pack(store: LabelStore, path: Path, names: Mapping[str, str], on_case: OnCase) -> str:
    """Write a store to one file, every byte checked on the way, and return its digest.

    The file appears when it is whole. Its digest is the store's own, unless cases get other names.

    Args:
        store: to pack.
        path: of the archive; a packed store that is there is replaced.
        names: of cases that get another one.
        on_case: called after each case; none fails, for a damaged one ends it all.

    Raises:
        StoreError: the store is damaged.
        OutputError: something else has its name.
        OSError: the archive cannot be written.
    """
    atomic.refuse_foreign(path, _is_packed)
    content = _manifest(store, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_abandoned(path.parent)
    sources = (original for case in store.cases if (original := file_of(store, case)).exists())
    readers = atomic.readers_of(sources, path.parent)
    with atomic.new_file(path, readers) as temporary, temporary.open("wb") as file:
        write_archive(file, _members(store, names, content, on_case), _COMMENT)
    return sha256_hex(content)


def _is_packed(path: Path) -> bool:
    try:
        LabelStore.open(path)
    except StoreError:
        return False
    return True


def hashed_names(cases: Iterable[str], salt: bytes) -> dict[str, str]:
    """Return a name for each case that does not tell its own: 16 hexadecimal digits of its HMAC-SHA-256."""
    return {case: hmac.digest(salt, case.encode(), "sha256").hex()[:16] for case in cases}


def private_names(folder: Path, cases: Iterable[str]) -> dict[str, str]:
    """Return the names of cases by the secret in a folder, and add them to the table there; both are private.

    Both are made on first use, so that a later release has the same names.

    Raises:
        StoreError: one of the two files is gone, or holds something else.
        OSError: they cannot be written.
    """
    table, secret = folder / NAMES, folder / SALT
    with atomic.locked(folder / f"{atomic.TEMPORARY_PREFIX}{NAMES}"):
        rows = _rows(table)
        if not secret.exists():
            if rows:
                raise StoreError(
                    f"{table}: is there without {SALT}, and another secret gives other names; restore it, or move the "
                    "table away if names may differ from those of earlier releases"
                )
            _write_private(secret, secrets.token_hex(32) + "\n")
        names = hashed_names(cases, _salt(secret))
        rows |= {f"{case},{name}" for case, name in names.items()}
        _write_private(table, "\n".join([_HEADER, *sorted(rows), ""]))
    return names


def _salt(secret: Path) -> bytes:
    text = secret.read_text(encoding="ascii", errors="replace").strip()
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise StoreError(f"{secret}: does not hold the 64 hexadecimal digits of a salt; restore it, or move it away")
    return bytes.fromhex(text)


def _rows(table: Path) -> set[str]:
    if not table.exists():
        return set()
    header, *rows = table.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if header != _HEADER:
        raise StoreError(f"{table}: does not begin with {_HEADER!r}; move it away, names of cases are written there")
    return set(rows)


def _write_private(path: Path, text: str) -> None:
    with atomic.new_file(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(text)


def _manifest(store: LabelStore, names: Mapping[str, str]) -> bytes:
    """Return the manifest of the packed store."""
    if not names:
        return store.manifest_content
    cases = {names.get(case, case): sha256_hex(_metadata(store, case, names)) for case in store.cases}
    if len(cases) < len(store.cases):
        raise StoreError("two cases would get one name; use another salt")
    return canonical_json(
        manifest(store.format, store.manifest.recipe_id, store.manifest.root_sha256, cases, store.manifest.version)
    )


def _metadata(store: LabelStore, case: str, names: Mapping[str, str]) -> bytes:
    content, metadata = store.read_metadata(case)
    return renamed(metadata, names[case]) if case in names else content


def _members(store: LabelStore, names: Mapping[str, str], manifest_content: bytes, on_case: OnCase) -> Iterator[Member]:
    """Yield the members of the archive: every zarr.json, those of higher folders first, then all else.

    By names each. So whoever reads the directory of the archive knows after its first part what is in it (RFC-9).
    """
    cases = sorted((names.get(case, case), case) for case in store.cases)
    yield METADATA, len(store.root_content), [store.root_content]
    for name, case in cases:
        content = _metadata(store, case, names)
        yield f"{name}/{METADATA}", len(content), [content]
    for name, case in cases:
        yield from _files(store, name, case, of_metadata=True)
    yield MANIFEST, len(manifest_content), [manifest_content]
    for name, case in cases:
        yield from _files(store, name, case, of_metadata=False)
        on_case(case, "")


def _files(store: LabelStore, name: str, case: str, *, of_metadata: bool) -> Iterator[Member]:
    """Yield the zarr.json of a case's arrays, or the other files."""
    for relative, (size, sha256) in sorted(store.read_metadata(case)[1].files.items()):
        if relative.endswith(f"/{METADATA}") == of_metadata:
            pieces = files.checked_pieces(store.files, f"{case}/{relative}", size, sha256)
            yield f"{name}/{relative}", size, pieces
