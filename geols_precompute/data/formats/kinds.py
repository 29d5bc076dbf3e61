"""What a file is that does not hold what its name says, in words for a person."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.detached import header_and_voxels
from geols_precompute.data.formats.inflate import AGAIN
from geols_precompute.errors import InputError

#: Formats by the ending of a name.
_FORMATS = {
    **dict.fromkeys((".nii", ".hdr", ".img"), "NIfTI"),
    **dict.fromkeys((".mha", ".mhd"), "MetaImage"),
    **dict.fromkeys((".nrrd", ".nhdr"), "NRRD"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".gipl": "GIPL",
    ".vtk": "VTK",
    ".dcm": "DICOM",
}
_CONVERT = f"convert it to .nii.gz, or {AGAIN}"
#: First bytes of files that are often met under the name of an image: what they are, and what to do. None of them can
#: begin a file of those formats.
_KINDS = (
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"CDF\x01", "a NetCDF or MINC file", _CONVERT),
    (b"CDF\x02", "a NetCDF or MINC file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"\x89PNG", "a PNG picture", AGAIN),
    (b"\xff\xd8\xff", "a JPEG picture", AGAIN),
    (b"%PDF", "a PDF document", AGAIN),
    (b"PK\x03\x04", "a ZIP archive", "unpack it with unzip"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself"),
    (b"<!doctype", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)
_HEAD_BYTES = 64


def format_name(path: Path) -> str:
    """Return the format that an image file, or the folder of a DICOM series, should have by its name."""
    return "DICOM" if path.is_dir() else _FORMATS.get(suffix(path), "an image")


def refuse_other_kinds(path: Path) -> None:
    """Refuse a file that is empty, or is known to be something else than an image; one that cannot be opened passes.

    Raises:
        InputError: naming what it is, and what to do.
    """
    head = _head(header_and_voxels(path)[0] if suffix(path) in (".hdr", ".img") else path)
    if head == b"":
        raise InputError(f"{path}: is empty; {AGAIN}")
    for first, kind, remedy in _KINDS:
        # 128 bytes of a DICOM file may be anything
        if head is not None and head.startswith(first) and suffix(path) != ".dcm":
            raise InputError(f"{path}: is {kind}, not {format_name(path)}; {remedy}")


def _head(path: Path) -> bytes | None:
    """Return the first bytes of a file, decompressed if it is gzipped; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as packed:
                return packed.read(_HEAD_BYTES)
        return head
    except (OSError, EOFError, zlib.error):
        return None
