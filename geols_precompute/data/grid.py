"""Where an image file says that its voxels lie, in millimetres, and what it leaves unsaid."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from geols_precompute.data.formats import suffix
from geols_precompute.data.formats.detached import header_and_voxels
from geols_precompute.data.formats.payload import opened
from geols_precompute.data.formats.tiff import TIFF, sidecar, sidecars
from geols_precompute.data.formats.transforms import SAME_WITHIN, Transforms, axis_lengths, farthest, is_usable
from geols_precompute.data.geometry import RAS_TO_LPS, Geometry, largest_cosine, three_floats
from geols_precompute.errors import InputError

#: Files of one case lie on one grid if no number differs by more than this: mm, but at most a share of the voxel size;
#: cosines for the direction.
TOLERANCE, TOLERANCE_IN_VOXELS = 1e-3, 5e-3
#: Bytes at the beginning of a file that hold its header, of the formats whose header is read here.
HEAD_BYTES = 2**16
#: Millimetres per unit of length that NRRD and MetaImage headers name.
_UNITS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "\u03bcm": 1e-3, "nm": 1e-6, "?": 1.0, "???": 1.0}
_UNITS |= {"metre": 1e3, "meter": 1e3, "millimetre": 1.0, "millimeter": 1.0, "micrometre": 1e-3, "micrometer": 1e-3}
_UNITS |= {"micron": 1e-3, "microns": 1e-3, "nanometre": 1e-6, "nanometer": 1e-6}
#: The line of a text header that gives the voxel size, by the file's ending.
_SIZE_LINES = {
    ".nrrd": rb"^(space directions|spacings):(.*)$",
    ".mha": rb"^\s*(ElementSpacing|ElementSize)\s*=(.*)$",
    ".vtk": rb"^\s*(SPACING|ASPECT_RATIO)\s(.*)$",
}
_UNIT_LINES = {".nrrd": rb"^(?:space )?units:[ \t]*([^=\r\n]+)", ".mha": rb"^\s*DistanceUnits\s*=\s*(\S+)"}
_WITH_HEAD = (".nii", ".hdr", ".img", *_SIZE_LINES)
_TEXT_HEADERS = {".nhdr": ".nrrd", ".mhd": ".mha"}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a file says of its grid.

    Attributes:
        geometry: with 1 mm along an axis whose voxel size the file does not say.
        has_size: whether the file says its voxel size.
        notes: what a person should know.
    """

    geometry: Geometry
    has_size: bool = True
    notes: tuple[str, ...] = ()


def grid_of(image: sitk.Image | sitk.ImageFileReader, path: Path) -> Grid:
    """Return the grid of the first three axes of an image, or of a reader that has read a header.

    NIfTI files: `Transforms` says which of their transforms is used. NRRD and MetaImage: as SimpleITK reads them, in
    the unit of length that they name. TIFF has no voxel size: it stands in the file that nnU-Net has beside it.

    Args:
        image: what SimpleITK has read.
        path: of the file, or of the folder of a DICOM series.

    Raises:
        InputError: a number is not finite, the axes span no volume, or the file with the voxel size is malformed.
    """
    geometry = _as_read(image, path)
    ending = "" if path.is_dir() else _ending(path)
    in_two = ending in (".hdr", ".img")
    head = _read_head(header_and_voxels(path)[0] if in_two else path) if ending in _WITH_HEAD else b""
    transforms = Transforms.of_header(head) if ending in (".nii", ".hdr", ".img") else None
    if transforms is not None:
        notes = transforms.notes(geometry.size)
        geometry = _declared(geometry, transforms)
    elif ending in TIFF:
        return _of_tiff(geometry, path)
    else:
        geometry, notes = _in_millimetres(geometry, ending, head, path)
        if not _says_size(ending, head):
            return Grid(geometry=geometry, has_size=False, notes=tuple(notes))
    if not geometry.is_orthogonal:
        angle = math.degrees(math.asin(min(1.0, largest_cosine(np.reshape(geometry.direction, (3, 3))))))
        notes.append(
            f"axes in the header are not orthonormal (by up to {angle:.3g} degrees); voxels keep their place, and "
            "distances are computed as if the axes were at right angles"
        )
    return Grid(geometry=geometry, notes=tuple(notes))


def common_grid(paths: Sequence[Path], grids: Sequence[Grid]) -> tuple[Geometry, tuple[str, ...]]:
    """Return the grid on which all files of a case lie, and the notes of all, each with its file.

    It is that of the first file which says its voxel size. A file that does not say it takes that one's.

    Raises:
        InputError: sizes differ, or spacings, origins or directions by more than the tolerance.
    """
    first = next((number for number, grid in enumerate(grids) if grid.has_size), 0)
    chosen = grids[first].geometry
    files_of_note: dict[str, list[Path]] = {}
    for path, grid in zip(paths, grids, strict=True):
        require_same_grid(paths[first], chosen, path, grid.geometry, size_only=not grid.has_size)
        for note in grid.notes:
            files_of_note.setdefault(note, []).append(path)
        if not grid.has_size:
            taken = f"that of {paths[first]} is used" if grids[first].has_size else _guess(chosen, path)
            files_of_note.setdefault(f"says no voxel size; {taken}", []).append(path)
    return chosen, tuple(f"{_named(files)}: {note}" for note, files in files_of_note.items())


def require_same_grid(first: Path, a: Geometry, second: Path, b: Geometry, *, size_only: bool = False) -> None:
    """Refuse two files of one case that do not lie on the same grid.

    Raises:
        InputError: sizes differ, or spacings or origins by more than 1e-3 mm or, where that is less, 0.5 % of a
            voxel's smallest edge, or directions by more than 1e-3.
    """
    if a.size != b.size:
        raise InputError(f"{second}: size {b.size} (x,y,z) differs from {a.size} of {first}; resample one of them")
    if size_only:
        return
    in_space = min(TOLERANCE, TOLERANCE_IN_VOXELS * min(a.spacing))
    for name, tolerance in (("spacing", in_space), ("origin", in_space), ("direction", TOLERANCE)):
        one, other = getattr(a, name), getattr(b, name)
        if any(abs(p - q) > tolerance for p, q in zip(one, other, strict=True)):
            raise InputError(
                f"{second}: {name} {_short(other)} (x,y,z) differs from {_short(one)} of {first}; "
                "correct the header that is wrong, or resample one file onto the other"
            )


# --- formats -------------------------------------------------------------------------------------------------------


def _read_head(path: Path) -> bytes:
    """Return the beginning of a file, decompressed if it is gzipped.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with opened(path) as file:
            return file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again from its source") from error


def _as_read(image: sitk.Image | sitk.ImageFileReader, path: Path) -> Geometry:
    """Return the geometry as SimpleITK has it, with directions of length 1."""
    n = image.GetDimension()
    direction = image.GetDirection()
    geometry = Geometry(
        size=image.GetSize()[:3],
        spacing=three_floats(image.GetSpacing()),
        origin=three_floats(image.GetOrigin()),
        direction=tuple(direction[row * n + column] for row in range(3) for column in range(3)),
    )
    if not all(map(math.isfinite, (*geometry.spacing, *geometry.origin, *geometry.direction))):
        raise InputError(f"{path}: spacing, origin or direction in the header is not finite; mend the header")
    if not is_usable(affine := geometry.affine):
        raise InputError(f"{path}: the axes in the header span no volume; mend the header")
    lengths = axis_lengths(np.reshape(geometry.direction, (3, 3)))
    if np.abs(lengths - 1).max() > SAME_WITHIN or min(geometry.spacing) < 0:
        # a MetaImage's matrix may scale its axes, and its spacing reverse them
        return Geometry.of_affine(affine, geometry.size)
    return geometry


def _declared(read: Geometry, transforms: Transforms) -> Geometry:
    """Return the geometry that a NIfTI header declares; SimpleITK's numbers, where they are of the same grid."""
    affine = transforms.affine
    if affine is None:
        geometry, spacing = read, three_floats(transforms.voxel_size)
        if any(v < 0 for v in transforms.pixdim[1:]):
            geometry = replace(read, spacing=spacing, direction=tuple(np.eye(3).ravel().tolist()))
        elif not np.allclose(spacing, read.spacing, rtol=1e-6, atol=0):
            geometry = replace(read, spacing=spacing)
    else:
        lps = RAS_TO_LPS @ affine
        same = farthest(lps, read.affine, read.size) <= SAME_WITHIN * axis_lengths(lps).min()
        geometry = read if same else Geometry.of_affine(lps, read.size)
    return geometry if transforms.is_plain(read.size) else replace(geometry, transforms=transforms)


def _of_tiff(geometry: Geometry, path: Path) -> Grid:
    """Return the grid of a TIFF: the voxel size of nnU-Net's file beside it, in the order of the array's axes z,y,x."""
    found = sidecar(path)
    if found is None:
        return Grid(geometry=geometry, has_size=False)
    try:
        z, y, x = (float(v) for v in json.loads(found.read_bytes())["spacing"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f'{found}: is not {{"spacing": [Z, Y, X]}} with three numbers in mm ({error})') from error
    if not all(0 < v < math.inf for v in (x, y, z)):
        raise InputError(f"{found}: spacing {[z, y, x]} is not positive; write the voxel size z,y,x in mm")
    return Grid(geometry=replace(geometry, spacing=(x, y, z)))


def _in_millimetres(geometry: Geometry, ending: str, head: bytes, path: Path) -> tuple[Geometry, list[str]]:
    """Convert from the unit of length that a text header names; (geometry, notes).

    Raises:
        InputError: it names several.
    """
    pattern = _UNIT_LINES.get(ending)
    found = pattern and re.search(pattern, _text_header(ending, head), re.MULTILINE | re.IGNORECASE)
    # of each axis in NRRD, `none` of one that is not in space
    names = found.group(1).decode("utf-8", "replace").lower().replace('"', " ").split() if found else []
    names = [name for name in dict.fromkeys(names) if name not in ("none", "???")] or ["mm"]
    if len({_UNITS.get(name) for name in names}) > 1:
        raise InputError(f"{path}: the header has several units of length, {', '.join(names)}; give all axes one unit")
    name, factor = names[0], _UNITS.get(names[0])
    if factor is None:
        return geometry, [f"the header's unit of length is {name}; it is taken as mm"]
    if factor == 1:
        return geometry, []
    spacing, origin = (three_floats([v * factor for v in values]) for values in (geometry.spacing, geometry.origin))
    return replace(geometry, spacing=spacing, origin=origin), [f"the header's unit of length is {name}, not mm"]


def _says_size(ending: str, head: bytes) -> bool:
    """Whether a text header gives the voxel size of three axes; other formats always do."""
    if (pattern := _SIZE_LINES.get(ending)) is None:
        return True
    flags = re.MULTILINE | (0 if ending == ".mha" else re.IGNORECASE)
    found = re.search(pattern, _text_header(ending, head), flags)
    if not found:
        return False
    if found.group(1).lower() == b"space directions":
        return found.group(2).count(b"(") >= 3
    return len([word for word in found.group(2).split() if word.lower() != b"nan"]) >= 3


def _text_header(ending: str, head: bytes) -> bytes:
    """Return the lines of a header that is text, without the voxels that follow it."""
    end = {".nrrd": rb"\r?\n\r?\n", ".mha": rb"ElementDataFile", ".vtk": rb"(POINT|CELL)_DATA"}[ending]
    return re.split(end, head, maxsplit=1)[0]


def _ending(path: Path) -> str:
    """The ending of a file name, a .gz aside: `.nii` for `a.nii.gz`; `.nrrd` for .nhdr and `.mha` for .mhd."""
    return _TEXT_HEADERS.get(suffix(path), suffix(path))


def _guess(geometry: Geometry, path: Path) -> str:
    """Say what voxel size is taken for a file that has none, and how to give it one."""
    size = " × ".join(f"{v:.6g}" for v in geometry.spacing)
    remedy = "set it in the header if that is wrong"
    if _ending(path) in TIFF:
        remedy = f'write {{"spacing": [Z, Y, X]}} in mm to {sidecars(path)[0]}'
    return f"{size} mm (x,y,z) is taken; {remedy}"


def _named(files: Sequence[Path]) -> str:
    return f"{files[0]} and {len(files) - 1} more of the case" if len(files) > 1 else str(files[0])


def _short(values: Sequence[float]) -> str:
    # 0.0 is added so that no zero is negative
    return "(" + ", ".join(f"{round(v, 12) + 0.0:.6g}" for v in values) + ")"
