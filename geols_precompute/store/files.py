"""Files: opening what lies in a store that may come from anywhere: no links, bounded sizes, strict JSON."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from geols_precompute.digests import canonical_json
from geols_precompute.errors import StoreError

MAX_MANIFEST_BYTES = 64 * 2**20
MAX_METADATA_BYTES = 2**20


def open_regular(root: Path, relative: str) -> int:
    """Open a file below `root` for reading and return its descriptor; no link on the way is followed.

    Raises:
        StoreError: it is missing, a link, or not a regular file.
    """
    path = root
    try:
        for part in relative.split("/"):
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise StoreError(f"{path}: is a link; links are not followed inside a store")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror}); restore it or compute it again") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: is not a regular file")
    return descriptor


def read_limited(root: Path, relative: str, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes.

    Raises:
        StoreError: as `open_regular`, or the file is larger.
    """
    with os.fdopen(open_regular(root, relative), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise StoreError(f"{root / relative}: more than {limit} bytes, which no store of this version needs")
    return content


def file_sha256(root: Path, relative: str, size: int) -> str:
    """Return the SHA-256 of a file of `size` bytes, read piece by piece.

    Raises:
        StoreError: as `open_regular`, or the size differs.
    """
    with os.fdopen(open_regular(root, relative), "rb") as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise StoreError(f"{root / relative}: {found} bytes, {size} expected")
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(content: bytes, where: Path) -> dict[str, Any]:
    """Return a JSON object; repeated keys, NaN, infinities and deep nesting are refused.

    Raises:
        StoreError: it is not such an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(content, object_pairs_hook=unique, parse_constant=refuse)
        # what cannot be written again, a lone surrogate or a float beyond double, is not JSON either
        canonical_json(document)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not valid JSON ({error}); restore it or compute it again") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where}: not a JSON object")
    return document
