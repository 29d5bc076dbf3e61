"""The files that a volume consists of: its header's own, and those that hold its voxels apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.tiff import sidecar

#: No header of text is longer.
MAX_HEADER_BYTES = 2**20


def source_files(case: Case) -> tuple[Path, ...]:
    """Return every file that a case is read from: what one of them holds decides what is computed."""
    return tuple(file for path in case.files for file in volume_files(path))


def volume_files(path: Path) -> tuple[Path, ...]:
    """Return every file of a volume: `path`, those with its voxels (.img, .raw, .zraw, ...), and with its voxel size.

    Of a folder, a DICOM series, these are the files in it. What cannot be read names none: reading it will say why.
    """
    try:
        if path.is_dir():
            return tuple(sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")))
        beside = sidecar(path)
        return (path, *data_files(path), *([beside] if beside else []))
    except (OSError, ValueError):
        return (path,)


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the voxels of a header in a file of its own; none if they follow the header.

    Of an .img it is the header.

    Raises:
        OSError: the header cannot be read.
        ValueError: it names its files in a way that cannot be understood.
    """
    name = path.name.lower()
    if name.endswith((".hdr", ".img", ".img.gz")):
        return tuple(file for file in header_and_voxels(path) if file != path)
    if name.endswith((".mha", ".mhd")):
        fields, after = metaimage_fields(path)
        return _named(path, fields.get("ElementDataFile", "LOCAL"), after, local="LOCAL")
    if name.endswith((".nrrd", ".nhdr")):
        fields, after = nrrd_fields(path)
        return _named(path, fields.get("datafile", ""), after, local="")
    return ()


def header_and_voxels(path: Path) -> tuple[Path, Path]:
    """Return the .hdr and the .img of a NIfTI or Analyze pair, of which `path` is either."""
    base = path.with_name(re.sub(r"\.(hdr|img|img\.gz)\Z", "", path.name, flags=re.IGNORECASE))
    halves = []
    for endings in ((".hdr", ".HDR"), (".img", ".IMG", ".img.gz")):
        named = [base.with_name(base.name + ending) for ending in endings]
        halves.append(next((file for file in named if file.is_file()), named[0]))
    return halves[0], halves[1]


def _header_lines(file: BinaryIO) -> Iterator[str]:
    while file.tell() < MAX_HEADER_BYTES and (line := file.readline(MAX_HEADER_BYTES)):
        yield line.decode("latin-1")


def metaimage_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a MetaImage header, and the byte at which it ends: its last field is ElementDataFile.

    Raises:
        OSError: it cannot be read.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in _header_lines(file):
            key, _, value = line.partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
        return fields, file.tell()


def nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of an NRRD header, names in lower case without blanks, and the byte at which it ends.

    Raises:
        OSError: it cannot be read.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in _header_lines(file):
            text = line.strip()
            if not text:
                break
            key, colon, value = text.partition(":")
            if colon and not text.startswith("#") and not value.startswith("="):
                fields[key.lower().replace(" ", "")] = value.strip()
                if key.lower().replace(" ", "") == "datafile" and value.strip().upper().startswith("LIST"):
                    break
        return fields, file.tell()


def _named(path: Path, value: str, after: int, *, local: str) -> tuple[Path, ...]:
    """Return the files of a header's entry: one name, a list in the lines after it, or `%03d first last step`."""
    if value.upper() == local:
        return ()
    if value.upper().split()[0] == "LIST":
        lines = path.read_bytes()[after : after + MAX_HEADER_BYTES].decode("utf-8", "surrogateescape").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    elif match := re.fullmatch(r"(\S*%\d*d\S*)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(\s+\d+)?", value):
        first, last, step = (int(match[group]) for group in (2, 3, 4))
        if not step or abs(last - first) > MAX_HEADER_BYTES:
            raise ValueError(f"{value!r} numbers its files without end")
        numbers = range(first, last + (1 if step > 0 else -1), step)
        names = [match[1] % number for number in numbers]
    else:
        names = [value]
    return tuple(path.parent / name for name in names)
