"""How many bytes a compressed stream holds: it is decompressed piece by piece, which compares its checksum."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from gzip import GzipFile

#: How much is held in memory at once.
PIECE = 2**20


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
