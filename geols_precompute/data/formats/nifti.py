"""Volumes written for other programs, as NIfTI files that are whole or not there."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from numpy.typing import NDArray

from geols_precompute.atomic import EVERYONE, new_folder, restrict, sync
from geols_precompute.data.formats.transforms import Transforms
from geols_precompute.data.geometry import RAS_TO_LPS, Geometry
from geols_precompute.errors import InputError, OutputError

_HEADER_BYTES = 348
#: What the description in the header of every file written here begins with.
_MARK, _DESCRIPTION, _DESCRIPTION_BYTES = b"GeoLS", 148, 80


def write_image(array: NDArray[Any], geometry: Geometry, path: Path, *, readers: int = EVERYONE) -> None:
    """Write a volume [z,y,x], or channels [c,z,y,x] as a 4-D image, to a NIfTI file (.nii.gz or .nii).

    The file appears under its name when it is whole, and takes the place of one that is there; `refuse_foreign` with
    `is_written_here` looks before. Its header declares the transforms of the NIfTI file that the
    grid comes from, each with its code. Of another grid it declares the one transform that there is: as sform, and as
    qform too if the axes are at right angles.

    Args:
        array: to write.
        geometry: of it.
        path: of the file.
        readers: permission bits that the file may have; see `atomic.readers_of`.

    Raises:
        InputError: `path` has another ending.
        OutputError: it cannot be written.
    """
    if not path.name.endswith((".nii.gz", ".nii")):
        raise InputError(f"{path}: the name of a volume ends in .nii.gz or .nii")
    volumes = [as_image(channel, geometry) for channel in (array if array.ndim == 4 else [array])]
    image = sitk.JoinSeries(volumes) if array.ndim == 4 else volumes[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(path.parent, readers) as folder:
            plain = folder / "image.nii"
            sitk.WriteImage(image, str(plain))
            # ITK says nothing of a disk that is full
            if plain.stat().st_size < array.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _declare(geometry, plain)
            whole = _compressed(plain) if path.suffix == ".gz" else plain
            restrict(whole, readers)
            sync(whole)
            whole.replace(path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise OutputError(
            f"{path}: cannot be written ({reason}); name another folder with -o, or free space"
        ) from error


def _declare(geometry: Geometry, plain: Path) -> None:
    """Write into the header of a NIfTI file who wrote it, and other transforms than the two that SimpleITK has."""
    with plain.open("r+b") as file:
        header = bytearray(file.read(_HEADER_BYTES))
        header[_DESCRIPTION : _DESCRIPTION + _DESCRIPTION_BYTES] = _MARK.ljust(_DESCRIPTION_BYTES, b"\0")
        if (transforms := _transforms(geometry)) is not None:
            transforms.write_to(header)
        file.seek(0)
        file.write(header)


def is_written_here(path: Path) -> bool:
    """Whether `write_image` wrote a file."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return header[_DESCRIPTION:].startswith(_MARK)


def _transforms(geometry: Geometry) -> Transforms | None:
    """Return what the header of a grid declares; None if that is what SimpleITK writes."""
    if geometry.transforms is not None:
        return geometry.transforms
    return None if geometry.is_orthogonal else Transforms.of_affine(RAS_TO_LPS @ geometry.affine)


def _compressed(plain: Path) -> Path:
    """Write a .gz beside a file that holds neither its name nor a time."""
    whole = plain.with_name(f"{plain.name}.gz")
    with (
        plain.open("rb") as source,
        whole.open("wb") as target,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=target, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 2**20)
    return whole


def as_image(array_ZYX: NDArray[Any], geometry: Geometry) -> sitk.Image:
    """Return a volume [z,y,x] as a SimpleITK image with `geometry`, without it if SimpleITK cannot write it."""
    image = sitk.GetImageFromArray(array_ZYX)
    if _transforms(geometry) is not None:
        return image
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image
