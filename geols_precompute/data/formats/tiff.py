"""Whether a TIFF file holds every strip of every page; of one that is cut short, SimpleITK reads the pages left.

And where its voxel size stands.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from geols_precompute.data.cases import stem
from geols_precompute.data.formats.inflate import inflated_bytes
from geols_precompute.errors import InputError

#: Endings of the names of TIFF files.
TIFF = (".tif", ".tiff")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION, _SAMPLES = 256, 257, 258, 259, 270, 277
#: Of strips and of tiles: where each lies, and how many bytes it has.
_OFFSETS, _COUNTS = (273, 324), (279, 325)
_PLAIN, _DEFLATE = 1, (8, 32946)
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
#: LZW, the format's best compression but deflate, packs no better.
_MAX_RATIO = 2560

Tags = dict[int, tuple[int, ...]]


def check_tiff(path: Path, max_bytes: int) -> None:
    """Refuse a TIFF file that is cut short, damaged where that shows (deflate), or declares more than it can hold.

    Raises:
        InputError: naming the page.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 8:
            raise InputError(f"{path}: {path.stat().st_size} bytes are no TIFF file; copy it again from its source")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            pages = declared = 0
            listed = 0
            for pages, tags in enumerate(_pages(path, content), start=1):
                declared += _check_page(path, content, tags, pages)
                listed = max(listed, _listed_images(content, tags))
                if declared > max_bytes:
                    raise InputError(f"{path}: declares more than {max_bytes} bytes of voxels, which is not read")
            if listed > pages > 1:
                raise InputError(
                    f"{path}: holds {pages} of the {listed} slices that it lists; copy it again from its source"
                )


def sidecars(path: Path) -> tuple[Path, ...]:
    """Return where nnU-Net keeps the voxel size of a TIFF: CASE.json beside CASE_0000.tif or CASE.tif."""
    name = stem(path)
    case = re.sub(r"_\d{4}\Z", "", name)
    return tuple(path.with_name(f"{each}.json") for each in dict.fromkeys((case, name)))


def sidecar(path: Path) -> Path | None:
    """Return the file that holds the voxel size of an image; None if the image has none, or needs none."""
    if path.suffix.lower() not in TIFF:
        return None
    return next((found for found in sidecars(path) if found.is_file()), None)


def _pages(path: Path, content: mmap.mmap) -> Iterator[Tags]:
    """Yield the tags of each page, by number."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2], "")
    version = struct.unpack_from(order + "H", content, 2)[0] if order else 0
    if version not in (42, 43):
        raise InputError(f"{path}: is no TIFF file; copy it again from its source")
    big = version == 43
    # offsets and counts are of 8 bytes in BigTIFF
    count, entry, pointer = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (place,) = struct.unpack_from(order + pointer, content, 8 if big else 4)
    seen: set[int] = set()
    while place:
        if place in seen:
            raise InputError(f"{path}: page {len(seen)} leads back to an earlier one; copy the file again")
        seen.add(place)
        try:
            (n,) = struct.unpack_from(order + count, content, place)
            first = place + struct.calcsize(order + count)
            size = struct.calcsize(order + entry)
            tags: Tags = {}
            for number in range(n):
                tag, kind, values, inline = struct.unpack_from(order + entry, content, first + number * size)
                if tag in (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _DESCRIPTION, _SAMPLES, *_OFFSETS, *_COUNTS):
                    tags[tag] = _values(content, order, pointer, kind, values, inline)
            yield tags
            (place,) = struct.unpack_from(order + pointer, content, first + n * size)
        except struct.error as error:
            raise InputError(
                f"{path}: cut short: page {len(seen)} lies beyond its {len(content)} bytes; copy it again"
            ) from error


def _values(content: mmap.mmap, order: str, pointer: str, kind: int, count: int, inline: bytes) -> tuple[int, ...]:
    """Return the numbers of a tag, which stand in the entry itself if they fit there; of a text, where it lies."""
    code = _TYPES.get(kind)
    if code is None:
        return ()
    size = count * struct.calcsize(code)
    (place,) = struct.unpack(order + pointer, inline)
    if code == "c":
        return (place, count) if size > len(inline) else ()
    if size <= len(inline):
        return struct.unpack_from(f"{order}{count}{code}", inline)
    if place + size > len(content):
        raise struct.error("beyond the end")
    return struct.unpack_from(f"{order}{count}{code}", content, place)


def _check_page(path: Path, content: mmap.mmap, tags: Tags, number: int) -> int:
    """Check the strips or tiles of a page; return the bytes of its pixels."""

    def tag(*names: int) -> tuple[int, ...]:
        return next((tags[name] for name in names if tags.get(name)), ())

    width, height = (*tag(_WIDTH), 0)[0], (*tag(_HEIGHT), 0)[0]
    bits, samples = (*tag(_BITS), 1)[0], (*tag(_SAMPLES), 1)[0]
    compression = (*tag(_COMPRESSION), _PLAIN)[0]
    offsets, counts = tag(*_OFFSETS), tag(*_COUNTS)
    declared = math.ceil(width * bits / 8) * height * samples
    for offset, count in zip(offsets, counts, strict=False):
        if offset + count > len(content):
            raise InputError(
                f"{path}: cut short: {len(content)} bytes, and page {number} needs {offset + count}; copy it again"
            )
    held = sum(counts)
    if compression in _DEFLATE:
        held = sum(_inflated(path, content[o : o + n], number) for o, n in zip(offsets, counts, strict=False))
    # bits that do not fill a byte are packed over the samples of a row
    least = declared if bits % 8 == 0 else width * bits * samples // 8 * height
    if counts and held < least / (1 if compression in (_PLAIN, *_DEFLATE) else _MAX_RATIO):
        raise InputError(
            f"{path}: page {number} holds {held} bytes where its size needs {least}; copy it again from its source"
        )
    return declared


def _inflated(path: Path, strip: bytes, number: int) -> int:
    """Return how many bytes a strip compressed by deflate holds."""
    try:
        return inflated_bytes([strip])
    except (EOFError, zlib.error) as error:
        reason = str(error) or "its data end early"
        raise InputError(f"{path}: page {number} is damaged ({reason}); copy it again from its source") from error


def _listed_images(content: mmap.mmap, tags: Tags) -> int:
    """Return how many slices the description says that there are, as ImageJ writes it; 0 if it does not."""
    place, count = (*tags.get(_DESCRIPTION, ()), 0, 0)[:2]
    text = content[place : place + min(count, 2**16)]
    match = re.search(rb"^images=(\d+)", text, re.MULTILINE) if text.startswith(b"ImageJ") else None
    return int(match[1]) if match else 0
