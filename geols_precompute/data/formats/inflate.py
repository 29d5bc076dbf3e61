"""How many bytes a file can hold at most, and how many a compressed stream holds.

The stream is decompressed piece by piece, which compares its checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from gzip import GzipFile
from pathlib import Path

from geols_precompute.errors import InputError

#: How much is held in memory at once.
PIECE = 2**20
#: Of one file, uncompressed; the stores take no larger array.
MAX_BYTES = 2**34
AGAIN = "copy it again from its source"


def require_possible(path: Path, declared: int, found: int, ratio: int) -> None:
    """Refuse a file that declares more bytes than are read, or than `found` bytes can hold, packed by `ratio` at best.

    Raises:
        InputError: naming both numbers.
    """
    if declared > MAX_BYTES:
        raise InputError(f"{path}: declares {declared} bytes of voxels; at most {MAX_BYTES} are read")
    if declared > found * ratio:
        raise InputError(f"{path}: {found} bytes where the header needs {declared}; {AGAIN}")


def inflated_bytes(pieces: Iterable[bytes]) -> int:
    """Return how many bytes a zlib or gzip stream holds.

    Raises:
        EOFError: it ends early.
        zlib.error: it is damaged.
    """
    decompressor, held = zlib.decompressobj(47), 0
    for piece in pieces:
        while piece and not decompressor.eof:
            held += len(decompressor.decompress(piece, PIECE))
            piece = decompressor.unconsumed_tail
    while not decompressor.eof and (rest := decompressor.decompress(b"", PIECE)):
        held += len(rest)
    if not decompressor.eof:
        raise EOFError
    return held


def read_bytes(file: GzipFile) -> int:
    """Return how many bytes are left in a file, read to its end."""
    held = 0
    while piece := file.read(PIECE):
        held += len(piece)
    return held
