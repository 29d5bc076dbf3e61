"""Whether a file holds all that its header declares, undamaged, before SimpleITK reads it.

SimpleITK fills up what is missing with zeros or leaves slices out, takes the memory that a header declares before it
looks for the voxels, and does not compare checksums.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal import igzip
from isal.isal_zlib import error as IsalError  # noqa: N812 - there are three errors here
from numpy.typing import NDArray

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.detached import data_files, header_and_voxels, metaimage_fields, nrrd_fields
from geols_precompute.data.formats.inflate import AGAIN, MAX_BYTES, PIECE, inflated_bytes, read_bytes, require_possible
from geols_precompute.data.formats.kinds import format_name, refuse_other_kinds
from geols_precompute.data.formats.tiff import check_tiff
from geols_precompute.errors import InputError

GZIP = b"\x1f\x8b"
#: How well a compression packs at best; a file that declares more cannot hold it.
MAX_RATIO = {"": 1, "deflate": 1032}
_CONVERT = "convert the volume to .nii.gz"
#: Bits of a NIfTI voxel by the header's code of its type.
_NIFTI_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32}
_NIFTI_BITS |= {1024: 64, 1280: 64, 1536: 128, 1792: 128, 2048: 256, 2304: 32}
#: NumPy's names of the types that are real numbers.
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
#: Formats that are refused, by their endings: SimpleITK does not compare their checksums, or there are none; and what
#: converts them.
_UNCHECKED = dict.fromkeys((".mgh", ".mgz"), ("MGH", "mri_convert a.mgz a.nii.gz"))
_UNCHECKED[".mnc"] = ("MINC", "mnc2nii a.mnc a.nii")
_GIPL_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}
_META_REQUIRED = ("NDims", "DimSize", "ElementType", "ElementDataFile")
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_VTK_BYTES = {"char": 1, "short": 2, "int": 4, "long": 8, "float": 4, "double": 8, "vtktypeint64": 8}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a header of one piece declares.

    Attributes:
        start: the byte at which the voxels begin.
        size: bytes of the voxels.
        dtype: of the voxels of a NIfTI file that are real numbers; None of others.
        shape: of the voxels [channel,z,y,x], where `dtype` is given.
        numbers: how many there are, of voxels that are text.
    """

    start: int
    size: int
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()
    numbers: int = 0


def check_payload(path: Path) -> NDArray[Any] | None:
    """Refuse a file that is cut short, damaged, or declares more than it can hold; nothing large is allocated before.

    Returns:
        The voxels [channel,z,y,x] of a NIfTI file as they are stored, before any scale, so that nobody has to
        decompress it again; None of other files, and of voxels that are no real numbers.

    Raises:
        InputError: naming the file, what was found and what was expected.
    """
    try:
        return _check(path)
    except InputError:
        raise
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(f"{path}: its gzip data are damaged ({error}); {AGAIN}") from error
        raise InputError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
    except EOFError as error:
        raise InputError(f"{path}: the compressed data end early; {AGAIN}") from error
    except (zlib.error, IsalError) as error:  # type: ignore[misc]  # its stub calls the class an object
        raise InputError(f"{path}: its compressed data are damaged ({error}); {AGAIN}") from error
    except struct.error as error:
        raise InputError(f"{path}: cannot be read as {format_name(path)}, its header is cut short; {AGAIN}") from error
    except (ValueError, LookupError) as error:
        raise InputError(f"{path}: its header cannot be understood ({error}); {AGAIN}") from error


def is_gzip(path: Path) -> bool:
    """Whether a file is gzip by what it holds, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def scaling_of(path: Path) -> tuple[float, float]:
    """Return (scl_slope, scl_inter) of a NIfTI header, as they stand there; (1, 0) of other files."""
    if suffix(path) not in (".nii", ".hdr", ".img"):
        return 1.0, 0.0
    with opened(path if suffix(path) == ".nii" else header_and_voxels(path)[0]) as file:
        head = file.read(540)
    for order in "<>":
        size = struct.unpack_from(order + "i", head)[0]
        if size == 348 and head[344:347] in (b"n+1", b"ni1"):
            return struct.unpack_from(order + "2f", head, 112)
        if size == 540:
            return struct.unpack_from(order + "2d", head, 176)
    return 1.0, 0.0


def _check(path: Path) -> NDArray[Any] | None:
    ending = suffix(path)
    refuse_unchecked(path)
    if ending == ".nii":
        return _check_plain(path, path, _nifti)
    if ending in (".hdr", ".img"):
        return _check_plain(*header_and_voxels(path), _nifti)
    if ending == ".gipl":
        _check_plain(path, path, _gipl)
    elif ending == ".vtk":
        _check_plain(path, path, _vtk)
    elif ending in (".mha", ".mhd"):
        _check_metaimage(path)
    elif ending in (".nrrd", ".nhdr"):
        _check_nrrd(path)
    elif ending in (".tif", ".tiff"):
        check_tiff(path, MAX_BYTES)
    elif ending != ".dcm" and not _is_dicom(path):
        raise InputError(f"{path}: not a format whose files can be told whole from cut short; {_CONVERT}")
    return None


def refuse_unchecked(path: Path) -> None:
    """Refuse a file of a format in which damage cannot be told, one that is empty or no image, and some MetaImages.

    The reader of a MetaImage without what it asks for would write to the terminal what it misses.

    Raises:
        InputError: naming the format, and what converts it; what the file is; or what is missing.
    """
    if (ending := suffix(path)) in _UNCHECKED:
        name, command = _UNCHECKED[ending]
        raise InputError(
            f"{path}: {name} volumes are not read, as damage to one cannot be told; {_CONVERT}, for example: {command}"
        )
    refuse_other_kinds(path)
    if ending in (".mha", ".mhd") and path.is_file() and not is_gzip(path):
        fields, _ = metaimage_fields(path)
        if missing := [name for name in _META_REQUIRED if name not in fields]:
            raise InputError(f"{path}: the header does not say {', '.join(missing)}; is the file damaged?")


# --- formats that are a header and voxels, as they are or in gzip ----------------------------------------------------


def _check_plain(header: Path, data: Path, parse: Callable[[bytes, bool], Declared | None]) -> NDArray[Any] | None:
    """Check a file whose voxels follow at an offset, and return those of NIfTI; see `check_payload`."""
    with opened(header) as file:
        head = file.read(PIECE)
    try:
        declared = parse(head, data != header)
    except InputError as error:
        raise InputError(f"{header}: {error}; {AGAIN}, or mend the header") from error
    if declared is None:
        return None
    needed = declared.start + declared.size
    packed = is_gzip(data)
    require_possible(data, needed, data.stat().st_size, MAX_RATIO["deflate" if packed else ""])
    content = _decompressed(data, needed) if packed else np.memmap(data, np.uint8, "r").data
    if len(content) < needed:
        raise InputError(f"{data}: {len(content)} bytes where the header needs {needed}; {AGAIN}")
    if declared.numbers:
        _require_numbers(data, content[declared.start :], declared.numbers)
    if declared.dtype is None:
        return None
    count = declared.size // declared.dtype.itemsize
    voxels = np.frombuffer(content, declared.dtype, count, declared.start).reshape(declared.shape)
    return voxels.astype(declared.dtype.newbyteorder("="), copy=False)


def opened(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed if it is gzip by what it holds."""
    return gzip.open(path) if is_gzip(path) else path.open("rb")  # type: ignore[return-value]


def _decompressed(path: Path, needed: int) -> memoryview:
    """Return the first `needed` bytes of a gzip file, all of which is read: its end has the length and checksum."""
    content = np.empty(needed, np.uint8)
    filled = 0
    with igzip.open(path) as file:  # several times as fast as zlib
        while filled < needed and (n := file.readinto(content.data[filled : filled + PIECE])):
            filled += n
        while file.read(PIECE):
            pass
    return content.data[:filled]


def _nifti(head: bytes, detached: bool) -> Declared | None:
    """A NIfTI or Analyze header.

    Raises:
        InputError: it is none, or says what SimpleITK would read as something else.
    """
    for order in "<>" if len(head) >= 348 else "":
        size = struct.unpack_from(order + "i", head)[0]
        if size == 348:
            sizes = struct.unpack_from(order + "8h", head, 40)
            code, start = struct.unpack_from(order + "h", head, 70)[0], struct.unpack_from(order + "f", head, 108)[0]
        elif size == 540:
            sizes = struct.unpack_from(order + "8q", head, 16)
            code, start = struct.unpack_from(order + "h", head, 12)[0], struct.unpack_from(order + "q", head, 168)[0]
        else:
            continue
        if not 1 <= sizes[0] <= 7 or code not in _NIFTI_BITS:
            return None
        axes = [max(1, n) for n in sizes[1 : sizes[0] + 1]] + [1, 1]
        if any(n < 1 for n in sizes[1 : min(sizes[0], 3) + 1]):
            raise InputError(f"its size is {tuple(sizes[1 : sizes[0] + 1])} (x,y,z)")
        if not (math.isfinite(start) and (detached or start >= size)):
            raise InputError(f"its voxels begin at byte {start:g} (vox_offset), within its header of {size} bytes")
        dtype = np.dtype(order + _NIFTI_TYPES[code]) if code in _NIFTI_TYPES else None
        voxels = math.prod(axes)
        return Declared(
            start=max(int(start), 0 if detached else size),
            size=voxels * _NIFTI_BITS[code] // 8,
            dtype=dtype,
            shape=(voxels // math.prod(axes[:3]), *axes[2::-1]),
        )
    raise InputError("cannot be read as NIfTI: it does not begin with a header of that format")


def _gipl(head: bytes, detached: bool) -> Declared | None:
    sizes = struct.unpack_from(">4H", head)
    itemsize = _GIPL_BYTES.get(struct.unpack_from(">H", head, 8)[0])
    return None if itemsize is None else Declared(start=256, size=itemsize * math.prod(max(1, n) for n in sizes))


def _vtk(head: bytes, detached: bool) -> Declared | None:
    """A legacy VTK file: lines of text, then the voxels."""
    start, voxels, binary = 0, 0, False
    while b"\n" in head[start:]:
        line = head[start : head.index(b"\n", start)]
        words = line.decode("latin-1").split()
        start += len(line) + 1
        key = words[0].upper() if words else ""
        if key in ("BINARY", "ASCII"):
            binary = key == "BINARY"
        elif key == "DIMENSIONS":
            voxels = math.prod(int(n) for n in words[1:4])
        elif key in ("SCALARS", "COLOR_SCALARS", "VECTORS", "TENSORS"):
            if key == "COLOR_SCALARS":
                itemsize, components = 1, int(words[2])
            else:
                itemsize = _VTK_BYTES[words[2].lower().removeprefix("unsigned_")]
                components = {"VECTORS": 3, "TENSORS": 9}.get(key) or int((*words, "1")[3])
            if head[start:].startswith(b"LOOKUP_TABLE"):
                start = head.index(b"\n", start) + 1
            numbers = voxels * components
            if binary:
                return Declared(start=start, size=numbers * itemsize)
            return Declared(start=start, size=_least_text(numbers), numbers=numbers)
    return None


# --- formats whose header is text, with the voxels behind it or in files of their own --------------------------------


def _check_metaimage(path: Path) -> None:
    fields, after = metaimage_fields(path)
    if "ElementDataFile" not in fields:
        return
    kind = fields.get("ElementType", "").removeprefix("MET_").replace("UNSIGNED_", "")
    itemsize = _META_BYTES.get(kind) or _META_BYTES[kind.removeprefix("U")]
    voxels = math.prod(int(n) for n in fields["DimSize"].split())
    declared = voxels * int(fields.get("ElementNumberOfChannels", 1)) * itemsize
    files = data_files(path)
    files, start = (files, max(0, int(fields.get("HeaderSize", 0)))) if files else ((path,), after)
    packed = fields.get("CompressedData", "False").lower() == "true"
    if fields.get("BinaryData", "True").lower() == "false":
        numbers, declared = declared // itemsize, _least_text(declared // itemsize)
        if len(files) == 1 and not packed:
            _require_numbers(path, files[0].read_bytes()[start:], numbers)
    _check_files(path, files, start, declared, "zlib" if packed else "")


def _check_nrrd(path: Path) -> None:
    fields, after = nrrd_fields(path)
    itemsize = _nrrd_bytes(fields["type"])
    declared = itemsize * math.prod(int(n) for n in fields["sizes"].split())
    files = data_files(path)
    files, start = (files, 0) if files else ((path,), after)
    encoding = fields["encoding"].lower()
    if encoding in ("txt", "text", "ascii", "hex"):
        numbers, declared = declared // itemsize, 2 * declared
        if encoding != "hex":
            declared = _least_text(numbers)
            if len(files) == 1 and not {"byteskip", "lineskip"} & fields.keys():
                _require_numbers(path, files[0].read_bytes()[start:], numbers)
    declared += max(0, int(fields.get("byteskip", 0))) * len(files)
    if encoding in ("bz2", "bzip2"):
        raise InputError(f"{path}: is packed with bzip2, which SimpleITK does not read; write it with gzip")
    packed = encoding if encoding in ("gz", "gzip") else ""
    _check_files(path, files, start, declared, packed, lines=int(fields.get("lineskip", 0)))


def _check_files(
    path: Path, files: Sequence[Path], start: int, declared: int, encoding: str, *, lines: int = 0
) -> None:
    """Compare what a header declares with its files, from the byte `start` of each, all of them decompressed."""
    ratio = MAX_RATIO["deflate" if encoding else ""]
    require_possible(path, declared, sum(file.stat().st_size - start for file in files), ratio)
    if encoding and (held := sum(_compressed_bytes(file, start, encoding, lines) for file in files)) < declared:
        raise InputError(f"{path}: its compressed data hold {held} bytes where the header needs {declared}; {AGAIN}")


def _require_numbers(path: Path, text: bytes | memoryview, needed: int) -> None:
    """Refuse voxels as text that are fewer than the header needs, or no numbers.

    Raises:
        InputError: naming how many there are, or what is no number.
    """
    found = 0
    for word in itertools.islice(re.finditer(rb"[^\s,]+", text), needed):
        try:
            float(word[0])
        except ValueError:
            raise InputError(f"{path}: {bytes(word[0])[:20]!r} is no number; {AGAIN}") from None
        found += 1
    if found < needed:
        raise InputError(f"{path}: {found} numbers where the header needs {needed}; {AGAIN}")


def _least_text(numbers: int) -> int:
    """Return the fewest bytes that so many numbers take as text: a digit each, and blanks between them."""
    return max(0, 2 * numbers - 1)


def _nrrd_bytes(kind: str) -> int:
    name = kind.lower().removeprefix("unsigned ").removeprefix("signed ").removesuffix("_t").removesuffix(" int")
    sizes = {1: "char uchar int8 uint8", 2: "short ushort int16 uint16", 4: "int uint int32 uint32 float"}
    sizes[8] = "longlong ulonglong int64 uint64 double"
    found = [size for size, names in sizes.items() if name.replace("long long", "longlong") in names.split()]
    if not found:
        raise ValueError(f"voxels of type {kind!r}")
    return found[0]


def _compressed_bytes(path: Path, start: int, encoding: str, lines: int) -> int:
    """Return how many bytes the compressed voxels of a file hold."""
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline(PIECE)
        if encoding == "zlib":
            return inflated_bytes(iter(lambda: file.read(PIECE), b""))
        return read_bytes(gzip.GzipFile(fileobj=file))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
