"""Files that SimpleITK would not read as they are: gzip or not against their name, by which it goes, and NIfTI-2."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.detached import header_and_voxels
from geols_precompute.data.formats.nifti2 import SIZE, byte_order, voxels_start, write_nifti_1
from geols_precompute.data.formats.payload import is_gzip, opened
from geols_precompute.errors import InputError


def wrong_name(path: Path) -> str:
    """Return in what the name of an image file is wrong; empty if it is right.

    Raises:
        InputError: it cannot be opened, or is a gzip file of a format that is not read from one.
    """
    if path.is_dir() or suffix(path) == ".hdr":
        return ""
    try:
        named, packed = path.name.lower().endswith(".gz"), is_gzip(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if packed and suffix(path) not in (".nii", ".gipl", ".img"):
        raise InputError(f"{path}: is a gzip file, and this format is not read from one; decompress it with gunzip")
    if named == packed:
        return ""
    return f"is {'a gzip file' if packed else 'not gzipped'}, which its name does not say; read as what it is"


@contextmanager
def readable_file(path: Path, *, voxels: bool = True) -> Iterator[Path]:
    """Give a path to a file that SimpleITK reads: `path` itself, or it under a name of its own, or as NIfTI-1.

    Args:
        path: an image file.
        voxels: whether they will be read; if not, a file of another version has its header only.
    """
    head = _nifti_2_head(path)
    if not head and not wrong_name(path) and not _is_shadowed(path):
        yield path
        return
    with TemporaryDirectory() as folder:
        if head:
            link = Path(folder) / "image.nii"
            data = header_and_voxels(path)[1] if suffix(path) in (".hdr", ".img") else path
            with opened(data) as source:
                source.seek(voxels_start(head, detached=suffix(path) != ".nii") if voxels else 0)
                write_nifti_1(path, head, source if voxels else io.BytesIO(), link)
        else:
            link = Path(folder) / f"image{suffix(path)}{'.gz' if is_gzip(path) else ''}"
            link.symlink_to(path.resolve())
        yield link


def _is_shadowed(path: Path) -> bool:
    """Whether SimpleITK would read the voxels of another file: for a.nii.gz it takes those of an a.nii beside it."""
    return path.name.lower().endswith(".nii.gz") and path.with_suffix("").exists()


def _nifti_2_head(path: Path) -> bytes:
    """Return the header of a NIfTI-2 file; nothing of others."""
    if path.is_dir() or suffix(path) not in (".nii", ".hdr", ".img"):
        return b""
    header = header_and_voxels(path)[0] if suffix(path) in (".hdr", ".img") else path
    try:
        with opened(header) as file:
            head = file.read(SIZE)
    except (OSError, EOFError, zlib.error):
        return b""  # reading it will say why
    return head if len(head) == SIZE and byte_order(head) else b""
