"""The bytes of one array as Zarr v3's `sharding_indexed` codec lays them out.

A shard is an index, then the inner chunks in C order:

    index    offset, length (uint64, little-endian) of every inner chunk, from the shard's first byte; then crc32c
    chunk    blosc (LZ4) of the inner chunk's elements, padded with zeros at the array's far edges; then crc32c
"""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from geols_precompute.arrays import Window
from geols_precompute.errors import StoreError
from geols_precompute.store.layout import ArrayKind, ChunkGrid

CRC_BYTES = 4
_CRC32C_OF_CHECKED = 0x48674BC7
BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_FORMATS = {"lz4": 1, "lz4hc": 1, "zstd": 4}
_SHUFFLES = {"noshuffle": blosc.NOSHUFFLE, "shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
_NEVER_WRITTEN = 2**64 - 1
#: numcodecs keeps one for the whole process.
_BLOSC_SETTING = threading.Lock()

Pread = Callable[[int, int], bytes]


class Channels(Protocol):
    """An array that comes some channels at a time: those of `channel_parts`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield [some channels,z,y,x]."""


def index_bytes(grid: ChunkGrid) -> int:
    """Size of the index at the start of a shard, its checksum included."""
    return 16 * grid.count + CRC_BYTES


def encode_shard(array: NDArray[Any], kind: ArrayKind) -> bytes:
    """Return the shard of a whole array; equal arrays give equal bytes."""
    file = io.BytesIO()
    write_shard(file, array, kind)
    return file.getvalue()


def write_shard(file: BinaryIO, array: NDArray[Any] | Channels, kind: ArrayKind) -> str:
    """Write the shard of an array to an empty file, and return the SHA-256 of the array's elements, C order.

    Of an array that comes some channels at a time only those are in memory.
    """
    grid = kind.grid(array.shape)
    head = index_bytes(grid)
    file.write(bytes(head))
    digest, lengths = hashlib.sha256(), []
    for part in [array] if isinstance(array, np.ndarray) else array:
        elements = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
        digest.update(elements.data)
        for chunk in _chunks(elements, kind, grid):
            lengths.append(len(chunk))
            file.write(chunk)
    if len(lengths) != grid.count:
        raise ValueError(f"{kind.name}: {len(lengths)} chunks of {array.shape}, {grid.count} expected")
    sizes = np.array(lengths, "<u8")
    offsets = head + np.cumsum(sizes) - sizes
    index = np.stack([offsets, sizes], axis=1).astype("<u8").tobytes()
    file.seek(0)
    file.write(index + _crc32c(index))
    return digest.hexdigest()


def _chunks(part: NDArray[Any], kind: ArrayKind, grid: ChunkGrid) -> Iterator[bytes]:
    """Yield the chunks of some channels of an array, or all: with whole parts of the axis of channels."""
    packing = kind.packing
    compressor, shuffle = packing.compressor.encode(), _SHUFFLES[packing.shuffle]
    inner = np.zeros(grid.inner, part.dtype)
    starts = [range(0, n, length) for n, length in zip(part.shape[:-3], grid.inner[:-3], strict=True)]
    starts += [range(0, length * parts, length) for length, parts in zip(grid.inner[-3:], grid.parts[-3:], strict=True)]
    for origin in itertools.product(*starts):
        voxels = part[tuple(slice(o, o + n) for o, n in zip(origin, grid.inner, strict=True))]
        if voxels.shape != inner.shape:
            inner[...] = 0
        inner[tuple(slice(0, n) for n in voxels.shape)] = voxels
        with _one_blosc_thread():
            content = inner.reshape(-1).view(np.uint8)
            packed = blosc.compress(content, compressor, packing.level, shuffle, 0, kind.itemsize)
        yield packed + _crc32c(packed)


@contextmanager
def _one_blosc_thread() -> Iterator[None]:
    """Compress in this thread alone: several would put a chunk's blocks in the order in which they are ready."""
    with _BLOSC_SETTING:
        before, blosc.use_threads = blosc.use_threads, False
        try:
            yield
        finally:
            blosc.use_threads = before


def read_index(pread: Pread, size: int, grid: ChunkGrid, where: str) -> NDArray[np.uint64]:
    """Return the index [chunk, (offset, length)] of a shard of `size` bytes, after checking it.

    Raises:
        StoreError: checksum wrong, or a chunk missing, outside the shard, over another one, or implausibly short.
    """
    head = index_bytes(grid)
    if size < head:
        raise StoreError(f"{where}: {size} bytes are too few for an index of {grid.count} chunks")
    index = np.frombuffer(_checked(pread(0, head), where), "<u8").reshape(grid.count, 2)
    offsets, lengths = index[:, 0], index[:, 1]
    if (index == _NEVER_WRITTEN).any():
        raise StoreError(f"{where}: a chunk was never written")
    # compared so that no sum can overflow
    total = np.uint64(size)
    if (offsets < head).any() or (offsets > total).any() or (lengths > total - np.minimum(offsets, total)).any():
        raise StoreError(f"{where}: the index points outside the file")
    order = np.argsort(offsets, kind="stable")
    if (offsets[order][1:] < (offsets + lengths)[order][:-1]).any():
        raise StoreError(f"{where}: chunks overlap in the index")
    if (lengths < BLOSC_HEADER.size + CRC_BYTES).any():
        raise StoreError(f"{where}: a chunk is shorter than its header")
    return index


def decode_window(
    pread: Pread, size: int, kind: ArrayKind, shape: Sequence[int], window: Window, where: str
) -> NDArray[Any]:
    """Return a spatial window of the array in a shard, all channels, C-contiguous.

    Only the inner chunks that the window touches are read, checked and decompressed.

    Args:
        pread: reads (offset, length) of the shard.
        size: of the shard in bytes.
        kind: which array it is.
        shape: of the whole array.
        window: z, y and x slices with start and stop inside the volume.
        where: names the shard in errors.

    Raises:
        StoreError: a checksum or a size does not fit.
    """
    grid = kind.grid(shape)
    index = read_index(pread, size, grid, where).tolist()
    result = np.empty((*shape[:-3], *(s.stop - s.start for s in window)), np.dtype(kind.dtype).newbyteorder("<"))
    inner = np.empty(grid.inner, result.dtype)
    # channels are a span like another, which is whole
    spans = (*(slice(0, n) for n in shape[:-3]), *window)
    axes = (_cuts(span, length) for span, length in zip(spans, grid.inner, strict=True))
    for cuts in itertools.product(*axes):
        numbers, sources, targets = zip(*cuts, strict=True)
        number = 0
        for place, parts in zip(numbers, grid.parts, strict=True):
            number = number * parts + place
        _decode_chunk(pread(*index[number]), kind, inner, f"{where}, chunk {number}")
        result[targets] = inner[sources]
    return result


def _cuts(span: slice, length: int) -> list[tuple[int, slice, slice]]:
    """Return which parts of an axis a span of it touches: (number, place in the part, place in the span)."""
    cuts = []
    for number in range(span.start // length, -(-span.stop // length)):
        first = number * length
        start, stop = max(span.start, first), min(span.stop, first + length)
        cuts.append((number, slice(start - first, stop - first), slice(start - span.start, stop - span.start)))
    return cuts


def _decode_chunk(chunk: bytes, kind: ArrayKind, inner: NDArray[Any], where: str) -> None:
    """Check one chunk and decompress it into `inner`, whose size its Blosc header must declare."""
    packed = _checked(chunk, where)
    _, _, flags, typesize, n_bytes, block_bytes, packed_bytes = BLOSC_HEADER.unpack(packed[: BLOSC_HEADER.size])
    if (
        n_bytes != inner.nbytes
        or packed_bytes != len(packed)
        or typesize != kind.itemsize
        or not 0 < block_bytes <= n_bytes
        or flags >> 5 != _BLOSC_FORMATS[kind.packing.compressor]
    ):
        raise StoreError(
            f"{where}: the Blosc header declares {n_bytes} bytes in {packed_bytes}, expected {inner.nbytes} "
            f"in {len(packed)} ({kind.packing.compressor})"
        )
    try:
        blosc.decompress(packed, inner)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{where}: cannot be decompressed: {error}") from error


def _crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CRC_BYTES, "little")


def _checked(content: bytes, where: str) -> memoryview:
    """Return `content` without the checksum at its end, which must be right."""
    # of bytes and their checksum together the checksum is a constant, so that nothing is copied
    if len(content) < CRC_BYTES or google_crc32c.value(content) != _CRC32C_OF_CHECKED:
        raise StoreError(f"{where}: the checksum is wrong, the bytes are damaged; restore the file or compute it again")
    return memoryview(content)[:-CRC_BYTES]
