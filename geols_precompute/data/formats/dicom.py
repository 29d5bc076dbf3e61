"""A folder that holds a DICOM series, a file per slice, as one volume."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.inflate import require_possible
from geols_precompute.data.geometry import Geometry, three_floats
from geols_precompute.errors import InputError

#: How far a slice may lie from where even steps would have it, of a step: scanners round positions.
_STEP_TOLERANCE = 0.02
_POSITION, _ORIENTATION, _BITS = "0020|0032", "0020|0037", "0028|0100"
#: Transfer syntaxes whose voxels are stored as they are, and how well the others pack at best.
_PLAIN = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2")
_MAX_RATIO = 2**13
#: What of SimpleITK reads a file, by its ending: else it asks every reader that it has, and HDF5's writes what it makes
#: of the file to the terminal.
_READERS = {
    **dict.fromkeys((".nii", ".hdr", ".img"), "NiftiImageIO"),
    **dict.fromkeys((".mha", ".mhd"), "MetaImageIO"),
    **dict.fromkeys((".nrrd", ".nhdr"), "NrrdImageIO"),
    **dict.fromkeys((".tif", ".tiff"), "TIFFImageIO"),
    ".gipl": "GiplImageIO",
    ".vtk": "VTKImageIO",
    ".dcm": "GDCMImageIO",
}


def is_series(folder: Path) -> bool:
    """Whether a folder looks like a DICOM series: at least two .dcm files, the first of them a single slice."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and path.is_file())
    if len(files) < 2:
        return False
    try:
        return read_information(files[0]).GetSize()[2:] in ((), (1,))
    except RuntimeError:
        return False


def series_files(folder: Path) -> tuple[Path, ...]:
    """Return the slices of the one DICOM series in a folder, in the order of their positions.

    Raises:
        InputError: there is none, or several; they are named.
    """
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"{folder}: is a folder without a DICOM series; name an image file, or convert it to .nii.gz")
    files = {uid: tuple(map(Path, reader.GetGDCMSeriesFileNames(str(folder), uid))) for uid in series}
    if len(files) > 1:
        listed = "; ".join(f"{uid} ({len(names)} files, {names[0].name})" for uid, names in files.items())
        raise InputError(f"{folder}: holds {len(files)} DICOM series: {listed}; keep one in a folder of its own")
    (slices,) = files.values()
    if unread := sorted(path for path in folder.iterdir() if _is_slice(path) and path not in slices):
        raise InputError(f"{unread[0]}: cannot be read as a slice of the DICOM series; copy it again, or remove it")
    return slices


def _is_slice(path: Path) -> bool:
    """Whether a file should be a slice, by its name or its first bytes; a cut one is not in the list of its series."""
    if not path.is_file() or path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"


def series_geometry(folder: Path) -> tuple[Geometry, int]:
    """Return (grid, channels) of the DICOM series in a folder, from the headers of its slices.

    Raises:
        InputError: there is not one series, a slice cannot be read, or the slices are no regular stack.
    """
    files = series_files(folder)
    headers = [_slice_header(path) for path in files]
    if len(headers) < 2:
        raise InputError(f"{folder}: its DICOM series has a single slice; 2-D images are not supported")
    first = headers[0]
    for path, header in zip(files, headers, strict=True):
        require_voxels(path, header)
        if _plane(header) != _plane(first):
            raise InputError(
                f"{path}: its size, spacing, orientation or voxel type is not that of {files[0].name}; remove it, or "
                "convert the series to .nii.gz"
            )
    step = _step([_numbers(header, _POSITION) for header in headers], _numbers(first, _ORIENTATION), folder)
    geometry = Geometry(
        size=(first.GetSize()[0], first.GetSize()[1], len(files)),
        spacing=(*first.GetSpacing()[:2], step),
        origin=three_floats(first.GetOrigin()),
        direction=first.GetDirection(),
    )
    return geometry, first.GetNumberOfComponents()


def _slice_header(path: Path) -> sitk.ImageFileReader:
    try:
        return read_information(path)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read as a slice of the DICOM series; copy the series again") from error


def _plane(header: sitk.ImageFileReader) -> tuple[object, ...]:
    """Return what all slices of a series have in common; SimpleITK takes it from the first of them, unseen."""
    return header.GetSize(), header.GetSpacing()[:2], _numbers(header, _ORIENTATION), header.GetPixelID()


def read_series(folder: Path) -> sitk.Image:
    """Return the DICOM series in a folder as one image.

    Raises:
        InputError: see `series_geometry`.
        RuntimeError: SimpleITK cannot read a slice.
    """
    geometry, _ = series_geometry(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in series_files(folder)])
    image = reader.Execute()
    image.SetSpacing(geometry.spacing)
    return image


def read_information(path: Path) -> sitk.ImageFileReader:
    """Return a reader that has read the header of a file, which SimpleITK must know, and no voxel."""
    reader = sitk.ImageFileReader()
    if known := _READERS.get(suffix(path)):
        reader.SetImageIO(known)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def require_voxels(path: Path, header: sitk.ImageFileReader) -> None:
    """Refuse a DICOM file that declares more voxels than it can hold: SimpleITK fills up what is missing.

    Other formats pass; see `check_payload` for them.

    Raises:
        InputError: naming both numbers.
    """
    if not header.HasMetaDataKey(_BITS):
        return
    with path.open("rb") as file:
        syntax = re.search(rb"\x02\x00\x10\x00UI..([0-9.]+)", file.read(2**11), re.DOTALL)
    needed = math.prod(header.GetSize()) * header.GetNumberOfComponents() * int(header.GetMetaData(_BITS)) // 8
    ratio = 1 if syntax is None or syntax[1] in _PLAIN else _MAX_RATIO
    require_possible(path, needed, path.stat().st_size, ratio)


def _numbers(header: sitk.ImageFileReader, tag: str) -> tuple[float, ...]:
    """Return the numbers of a DICOM tag; none if the file does not have it."""
    return tuple(float(n) for n in header.GetMetaData(tag).split("\\")) if header.HasMetaDataKey(tag) else ()


def _step(positions: Sequence[tuple[float, ...]], orientation: tuple[float, ...], folder: Path) -> float:
    """Return the distance of neighbouring slices in mm.

    Raises:
        InputError: a slice is missing or doubled, the stack is sheared (gantry tilt), or positions are not given.
    """
    if any(len(position) != 3 for position in positions) or len(orientation) != 6:
        raise InputError(f"{folder}: slices without position or orientation; convert the series to .nii.gz")
    steps = np.diff(np.array(positions), axis=0)
    normal = np.cross(orientation[:3], orientation[3:])
    along = steps @ normal
    step = float(np.median(along))
    if step <= 0 or np.abs(along - step).max() > _STEP_TOLERANCE * step:
        worst = int(np.abs(along - step).argmax())
        raise InputError(
            f"{folder}: slices {worst} and {worst + 1} of the DICOM series are {along[worst]:.4g} mm apart, others "
            f"{step:.4g} mm: a slice is missing or doubled; complete the series"
        )
    if np.abs(steps - np.outer(along, normal)).max() > _STEP_TOLERANCE * step:
        raise InputError(
            f"{folder}: the slices of the DICOM series are sheared (gantry tilt); convert it with a tool that corrects "
            "this, such as dcm2niix"
        )
    return step
