"""Image files by SimpleITK, after a look at whether they are whole and what they really are."""

from __future__ import annotations

import locale
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.dicom import read_information, read_series, require_voxels
from geols_precompute.data.formats.kinds import format_name
from geols_precompute.data.formats.names import readable_file
from geols_precompute.data.formats.payload import check_payload, refuse_unchecked
from geols_precompute.errors import InputError

#: Formats whose readers write to the terminal what they miss in a damaged header.
_LOUD = (".mha", ".mhd", ".tif", ".tiff")


@contextmanager
def _same_locale() -> Iterator[None]:
    """Undo what reading a VTK file does to the process: it sets the locale to C, in which text files are ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


@_same_locale()
def open_image(path: Path) -> sitk.Image:
    """Return the image in a file, or the DICOM series in a folder.

    Raises:
        InputError: SimpleITK cannot read it, or the file is too small for what its header declares.
    """
    try:
        if path.is_dir():
            return read_series(path)
        with readable_file(path) as file:
            reader = read_information(file)
            require_voxels(path, reader)
            return reader.Execute()
    except (RuntimeError, TypeError) as error:
        raise _unreadable(path, error) from error


@_same_locale()
def open_header(path: Path) -> sitk.ImageFileReader:
    """Return a reader that has read the header of a file, and no voxel.

    Raises:
        InputError: SimpleITK cannot read it, or the format is none that is read.
    """
    refuse_unchecked(path)
    if suffix(path) in _LOUD:
        check_payload(path)
    try:
        with readable_file(path, voxels=False) as file:
            return read_information(file)
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    """Return what to say of a file that SimpleITK does not read.

    What it says itself means nothing to a person, but for what is wrong with the axes.
    """
    words = [word for word in ("orthonormal", "determinant is 0") if word in str(error).lower()]
    reason = f": its axes span no volume ({words[0]})" if words else ""
    return InputError(f"{path}: cannot be read as {format_name(path)}{reason}; is the file damaged?")
