"""Pack: a whole label store into one file that is the same for the same store, and may tell no case names."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.store import atomic, files
from geols_precompute.store.archive import write_archive
from geols_precompute.store.layout import MANIFEST, METADATA, manifest
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.share import renamed

Member = tuple[str, int, Iterable[bytes]]


def pack(store: LabelStore, path: Path, names: Mapping[str, str], on_case: Callable[[], None]) -> str:
    """Write a store to one file, every byte checked on the way, and return its digest.

    The file appears when it is whole. Its digest is the store's own, unless cases get other names.

    Args:
        store: to pack.
        path: of the archive; one that is there is replaced.
        names: of cases that get another one.
        on_case: called after each case.

    Raises:
        StoreError: the store is damaged.
        OSError: the archive cannot be written.
    """
    content = _manifest(store, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_abandoned(path.parent)
    with atomic.new_file(path) as temporary, temporary.open("wb") as file:
        write_archive(file, _members(store, names, content, on_case))
    return sha256_hex(content)


def hashed_names(cases: Iterable[str], salt: bytes) -> dict[str, str]:
    """Return a name for each case that does not tell its own: 16 hexadecimal digits of its HMAC-SHA-256."""
    return {case: hmac.digest(salt, case.encode(), "sha256").hex()[:16] for case in cases}


def kept_salt(path: Path) -> bytes:
    """Return the secret at `path`, made on first use, so that a later release has the same names.

    Raises:
        StoreError: the file holds something else.
    """
    if not path.exists():
        with atomic.new_file(path) as temporary:
            temporary.chmod(0o600)
            temporary.write_text(secrets.token_hex(32) + "\n")
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise StoreError(f"{path}: does not hold the 64 hexadecimal digits of a salt; restore it, or move it away")
    return bytes.fromhex(text)


def write_names(path: Path, names: Mapping[str, str]) -> None:
    """Write a private CSV file of the cases and their names in the archive."""
    rows = "".join(f"{case},{name}\n" for case, name in sorted(names.items()))
    with atomic.new_file(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(f"case,name\n{rows}")


def _manifest(store: LabelStore, names: Mapping[str, str]) -> bytes:
    """Return the manifest of the packed store."""
    if not names:
        return store.manifest_content
    cases = {names.get(case, case): sha256_hex(_metadata(store, case, names)) for case in store.cases}
    if len(cases) < len(store.cases):
        raise StoreError("two cases would get one name; use another salt")
    return canonical_json(manifest(store.format, store.manifest.recipe_id, store.manifest.root_sha256, cases))


def _metadata(store: LabelStore, case: str, names: Mapping[str, str]) -> bytes:
    content, metadata = store.read_metadata(case)
    return renamed(metadata, names[case]) if case in names else content


def _members(
    store: LabelStore, names: Mapping[str, str], manifest_content: bytes, on_case: Callable[[], None]
) -> Iterator[Member]:
    """Yield the members of the archive, sorted by name."""
    original = {f"{names.get(case, case)}/": case for case in store.cases}
    for name in sorted([*original, MANIFEST, METADATA]):
        if name == MANIFEST:
            yield name, len(manifest_content), [manifest_content]
        elif name == METADATA:
            yield name, len(store.root_content), [store.root_content]
        else:
            case = original[name]
            content, metadata = store.read_metadata(case)
            for relative, (size, sha256) in sorted(metadata.files.items()):
                yield name + relative, size, files.checked_pieces(store.files, f"{case}/{relative}", size, sha256)
            yield name + METADATA, len(c := renamed(metadata, names[case]) if case in names else content), [c]
            on_case()
