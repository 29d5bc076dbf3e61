"""A store in one file: a zip archive with uncompressed members, which have one order and no times."""

from __future__ import annotations

import bisect
import io
import reprlib
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from geols_precompute.errors import StoreError
from geols_precompute.store.files import Files, FileState, Readable, read_range

MAX_DIRECTORY_BYTES = 64 * 2**20
#: A case has three; what zipfile makes of one takes several times its bytes.
MAX_MEMBERS = 2**19
#: Longer than the name of any file of a store.
MAX_NAME = 500
_MEMBER_OF_DIRECTORY = b"PK\1\2"
#: Local header of a member: signature, 22 bytes that the directory repeats, lengths of name and extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
#: End of an archive: signature, 16 bytes about the directory, length of the comment, which is all that follows.
_END = struct.Struct("<4s16xH")
#: What zipfile looks through for the end.
_LONGEST_END = _END.size + 2**16
#: Encrypted, patched, strongly encrypted, or with a masked directory.
_UNREADABLE_FLAGS = 0x1 | 0x20 | 0x40 | 0x2000
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE = 0o100644


class Archive:
    """The files of a packed store; only the archive's directory is held in memory.

    Args:
        outside: where the archive lies.
        name: of the archive there.
        location: what messages call it, if not by where it lies.

    Raises:
        StoreError: it is no zip, or has a member that is compressed, encrypted, oddly named or named twice, or two that
            overlap.
    """

    def __init__(self, outside: Files, name: str, location: str = "") -> None:
        self.outside, self.name = outside, name
        self.location = location or f"{outside.location}/{name}"
        members: dict[str, _Place] = {}
        with self._opened() as archive:
            # the next member begins where one ends at the latest, after the last one the directory
            stop = archive.start_dir
            for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
                self._require_plain(info)
                if info.filename in members:
                    raise StoreError(f"{self.location}: {info.filename!r} is in it twice")
                place = _Place(header=info.header_offset, size=info.file_size, stop=stop)
                if place.header + _LOCAL_HEADER.size + len(info.filename) + place.size > stop:
                    raise StoreError(f"{self.location}: {info.filename!r} overlaps another file; get it again")
                members[info.filename], stop = place, place.header
        members = {name: place for name, place in members.items() if not name.endswith("/")}
        self._members, self._sorted = members, sorted(members)

    @contextmanager
    def open(self, relative: str) -> Iterator[Readable]:
        """Open a member; see `Files`."""
        if relative not in self._members:
            raise StoreError(f"{self.location}/{relative}: is missing; get the archive again from its source")
        place = self._members[relative]
        with self.outside.open(self.name) as file:
            header = read_range(file, place.header, place.header + _LOCAL_HEADER.size)
            signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header.ljust(_LOCAL_HEADER.size, b"\0"))
            first = place.header + _LOCAL_HEADER.size + name_bytes + extra_bytes
            if signature != b"PK\3\4" or first + place.size > place.stop:
                raise StoreError(f"{self.location}/{relative}: is damaged; get the archive again from its source")
            yield _Member(file=file, first=first, length=place.size)

    def entries(self) -> list[str]:
        """Return the first parts of the members' names, without those that begin with a dot, as `.tmp-…` does."""
        parts = {name.split("/")[0] for name in self._members}
        return sorted(part for part in parts if not part.startswith(".") or part == "..")

    def names(self, folder: str) -> Iterator[str]:
        """Yield the members below a folder, relative to it."""
        prefix = f"{folder}/"
        index = bisect.bisect_left(self._sorted, prefix)
        while index < len(self._sorted) and self._sorted[index].startswith(prefix):
            yield self._sorted[index].removeprefix(prefix)
            index += 1

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        """Open the archive for reading its directory."""
        try:
            with (
                self.outside.open(self.name) as file,
                _Seekable(file, self.location) as seekable,
                zipfile.ZipFile(seekable) as archive,
            ):
                # zipfile takes a comment that is cut short, and bytes after it
                seekable.seek(-_END.size - len(archive.comment), io.SEEK_END)
                signature, comment_bytes = _END.unpack(seekable.read(_END.size))
                if signature != b"PK\5\6" or comment_bytes != len(archive.comment):
                    raise zipfile.BadZipFile("it does not end where it should")
                yield archive
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
            raise StoreError(f"{self.location}: is not a whole zip archive ({error}); get it again") from error

    def _require_plain(self, info: zipfile.ZipInfo) -> None:
        """Refuse a member that no packed store has: compressed, encrypted, or with an odd name."""
        name = info.filename
        if not name or len(name) > MAX_NAME or not name.isprintable() or name.startswith("/") or "\\" in name:
            raise StoreError(f"{self.location}: has a file named {reprlib.repr(name)}, which no store has")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & _UNREADABLE_FLAGS
        ):
            raise StoreError(
                f"{self.location}: {name!r} is compressed or encrypted; a packed store holds its files as they are; "
                "unzip it to a folder, or pack it with geols-store pack"
            )
        if info.header_offset < 0:
            raise StoreError(f"{self.location}: the beginning of the archive is missing; get it again")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member's header begins, how many bytes it has, and where it must have ended."""

    header: int
    size: int
    stop: int


@dataclass(frozen=True)
class _Member:
    """A member of an archive: `length` bytes of its file from `first` on."""

    file: Readable
    first: int
    length: int

    def size(self) -> int:
        return self.length

    def state(self) -> FileState | None:
        return self.file.state()

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        if start < (stop := min(stop, self.length)):
            yield from self.file.stream(self.first + start, self.first + stop)


class _Seekable(io.RawIOBase):
    """An opened file as zipfile wants it, for reading the directory of an archive and no more."""

    def __init__(self, file: Readable, where: str) -> None:
        self._file, self._where, self._size, self._at = file, where, file.size(), 0
        # zipfile asks for it in three or four parts; of a file on a server each would be a request
        self._tail_at = max(0, self._size - _LONGEST_END)
        self._tail = read_range(file, self._tail_at, self._size)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise OSError("before the first byte")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._at + size)
        if stop - self._at > MAX_DIRECTORY_BYTES:
            raise StoreError(f"{self._where}: its directory has more than {MAX_DIRECTORY_BYTES} bytes")
        if self._at >= self._tail_at:
            content = self._tail[self._at - self._tail_at : max(0, stop - self._tail_at)]
        else:
            content = read_range(self._file, self._at, stop)
        if content.count(_MEMBER_OF_DIRECTORY) > MAX_MEMBERS:
            raise StoreError(f"{self._where}: more than {MAX_MEMBERS} files; pack it in several archives")
        self._at += len(content)
        return content


def write_archive(file: BinaryIO, members: Iterable[tuple[str, int, Iterable[bytes]]], comment: bytes) -> None:
    """Write members (name, size, pieces) in the order given, all in Zip64; equal members give equal bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, size, pieces in members:
            info = zipfile.ZipInfo(name, date_time=_EARLIEST)
            info.create_system = 3
            info.external_attr = _REGULAR_FILE << 16
            info.file_size = size
            with archive.open(info, "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
