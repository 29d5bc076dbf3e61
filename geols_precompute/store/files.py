"""Reads the files of a store that may come from anywhere: no links, bounded sizes, checked digests, strict JSON."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geols_precompute.digests import canonical_json
from geols_precompute.errors import StoreError

MAX_MANIFEST_BYTES = 64 * 2**20
MAX_METADATA_BYTES = 2**20
#: Objects and arrays inside each other in a document; a store has 11.
MAX_DEPTH = 32
PIECE_BYTES = 2**20


#: Device, inode, size, and times of the last changes.
FileState = tuple[int, ...]


class Readable(Protocol):
    """One opened file: bytes by their place in it."""

    def size(self) -> int:
        """Return its size in bytes."""

    def state(self) -> FileState | None:
        """Return what is another whenever the bytes are others, or None where that cannot be told."""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`, or to the end if that comes first, in pieces.

        Raises:
            StoreError: they cannot be read.
        """


class Files(Protocol):
    """Where the files of a store lie; a file is named by its path in the store, for instance `case_01/zarr.json`.

    It keeps nothing open, so a store on it may be used after a fork and may be pickled.
    """

    @property
    def location(self) -> str:
        """What stands before a file's name in a message."""

    def open(self, relative: str) -> AbstractContextManager[Readable]:
        """Open a file for reading.

        Raises:
            StoreError: it is missing, or not a regular file.
        """

    def entries(self) -> Iterable[str]:
        """Return the names in the store's root, temporary files aside; nothing where that cannot be asked."""

    def names(self, folder: str) -> Iterable[str]:
        """Return all that lies below a folder, relative to it; nothing where that cannot be asked."""


@dataclass(frozen=True)
class LocalFile:
    """An open file of `length` bytes, which messages call `where`."""

    descriptor: int
    where: str
    length: int

    def size(self) -> int:
        """Return the number of bytes."""
        return self.length

    def state(self) -> FileState:
        """Return what is another whenever the bytes are others: nobody can set the time of the last change of state."""
        stat = os.fstat(self.descriptor)
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` or the end, in pieces."""
        stop = min(stop, self.length)
        while start < stop:
            try:
                piece = os.pread(self.descriptor, min(PIECE_BYTES, stop - start), start)
            except OSError as error:
                raise StoreError(f"{self.where}: cannot be read ({error.strerror})") from error
            if not piece:
                return
            yield piece
            start += len(piece)


@dataclass(frozen=True)
class Folder:
    """The files below a folder; no link on the way to one is followed."""

    root: Path

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    @contextmanager
    def open(self, relative: str) -> Iterator[LocalFile]:
        """Open a file; see `Files`."""
        descriptor = _open_regular(self.root, relative)
        try:
            where = f"{self.root}/{relative}"
            yield LocalFile(descriptor=descriptor, where=where, length=os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def entries(self) -> list[str]:
        """Return the names in the folder that do not begin with a dot."""
        return sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))

    def names(self, folder: str) -> Iterator[str]:
        """Yield the files and links below a folder, relative to it."""
        top = self.root / folder
        for parent, folders, names in os.walk(top):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            for name in (*names, *links):
                yield Path(parent, name).relative_to(top).as_posix()


def read_range(file: Readable, start: int, stop: int) -> bytes:
    """Return the bytes from `start` to `stop`, fewer where the file ends before."""
    return b"".join(file.stream(start, stop))


def read_limited(files: Files, relative: str, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes.

    Raises:
        StoreError: it cannot be read, or is larger.
    """
    with files.open(relative) as file:
        content = read_range(file, 0, limit + 1)
    if len(content) > limit:
        raise StoreError(f"{files.location}/{relative}: more than {limit} bytes, which no store of this version needs")
    return content


def checked_pieces(files: Files, relative: str, size: int, sha256: str) -> Iterator[bytes]:
    """Yield a file piece by piece; after the last one the file is known to have this size and digest.

    Raises:
        StoreError: it cannot be read, or its size or digest is another.
    """
    with files.open(relative) as file:
        yield from checked_stream(file, f"{files.location}/{relative}", size, sha256)


def checked_stream(file: Readable, where: str, size: int, sha256: str) -> Iterator[bytes]:
    """Yield an opened file as `checked_pieces` does; `where` names it in messages."""
    digest, found = hashlib.sha256(), 0
    for piece in file.stream(0, size + 1):
        found += len(piece)
        if found <= size:
            digest.update(piece)
            yield piece
    if found != size:
        amount = "more" if found > size else found
        raise StoreError(f"{where}: {amount} bytes, {size} expected")
    if digest.hexdigest() != sha256:
        raise StoreError(
            f"{where}: differs from its digest; get the case again from its source, or remove it and run "
            "geols-precompute again"
        )


def parse_json(content: bytes, where: str | Path) -> dict[str, Any]:
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
        if _is_deeper(document, MAX_DEPTH):
            raise ValueError(f"more than {MAX_DEPTH} levels")
        # what cannot be written again, a lone surrogate or a float beyond double, is not JSON either
        canonical_json(document)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not valid JSON ({error}); restore it or compute it again") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where}: not a JSON object")
    return document


def _is_deeper(document: Any, levels: int) -> bool:
    """Whether objects and arrays lie in each other beyond so many levels; without recursion, which has its own end."""
    level = [document]
    for _ in range(levels):
        level = [
            value
            for container in level
            if isinstance(container, dict | list)
            for value in (container.values() if isinstance(container, dict) else container)
        ]
    return any(isinstance(value, dict | list) for value in level)


def _open_regular(root: Path, relative: str) -> int:
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
