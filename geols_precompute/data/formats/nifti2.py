"""NIfTI-2 files as NIfTI-1 files, which SimpleITK reads: the same fields in other places, in fewer bytes each."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import BinaryIO

from geols_precompute.errors import InputError

SIZE, SIZE_OF_1 = 540, 348
#: Of each field that SimpleITK looks at: where it stands and as what, in NIfTI-2 and in NIfTI-1.
_FIELDS = (
    (("8q", 16), ("8h", 40)),  # dim
    (("3d", 80), ("3f", 56)),  # intent_p1 to intent_p3
    (("i", 504), ("h", 68)),  # intent_code
    (("h", 12), ("h", 70)),  # datatype
    (("h", 14), ("h", 72)),  # bitpix
    (("8d", 104), ("8f", 76)),  # pixdim
    (("2d", 176), ("2f", 112)),  # scl_slope, scl_inter
    (("i", 500), ("b", 123)),  # xyzt_units
    (("2i", 344), ("2h", 252)),  # qform_code, sform_code
    (("6d", 352), ("6f", 256)),  # quaternion and its offset
    (("12d", 400), ("12f", 280)),  # srow_x to srow_z
)


def byte_order(head: bytes) -> str:
    """Return `<` or `>` if these are the first bytes of a NIfTI-2 header, else an empty text."""
    size = head[:4]
    return next((order for order in "<>" if size == struct.pack(order + "i", SIZE)), "")


def write_nifti_1(path: Path, head: bytes, source: BinaryIO, target: Path) -> None:
    """Write a NIfTI-1 file with the header `head` of a NIfTI-2 file and its voxels.

    Args:
        path: of the NIfTI-2 file, for the error.
        head: its first 540 bytes.
        source: the plain file with the voxels, at their first byte.
        target: .nii.

    Raises:
        InputError: an axis is longer than NIfTI-1 has it, or a number is beyond its range.
    """
    order = byte_order(head)
    header = bytearray(SIZE_OF_1 + 4)
    struct.pack_into(order + "i", header, 0, SIZE_OF_1)
    try:
        for (kind, place), (kind_1, place_1) in _FIELDS:
            struct.pack_into(order + kind_1, header, place_1, *struct.unpack_from(order + kind, head, place))
    except (struct.error, OverflowError) as error:
        raise InputError(
            f"{path}: its NIfTI-2 header has a number that NIfTI-1 has no room for ({error}); crop or convert it"
        ) from error
    struct.pack_into(order + "f", header, 108, SIZE_OF_1 + 4)  # vox_offset
    header[344:348] = b"n+1\0"
    with target.open("wb") as file:
        file.write(header)
        shutil.copyfileobj(source, file, 2**20)


def voxels_start(head: bytes, *, detached: bool) -> int:
    """Return the byte at which the voxels of a NIfTI-2 file begin."""
    (start,) = struct.unpack_from(byte_order(head) + "q", head, 168)
    return max(int(start), 0 if detached else SIZE)
