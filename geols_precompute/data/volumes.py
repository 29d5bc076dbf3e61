"""Image files to volumes by SimpleITK, with the checks that SimpleITK lacks, and fingerprints of what they hold."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from geols_precompute.arrays import Float32Array, Int32Array
from geols_precompute.data.geometry import Geometry, three_floats
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import InputError

# A NIfTI header whose axes are not quite orthonormal is read with the nearest rotation, and `read` says so.
os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
sitk.ProcessObject.SetGlobalWarningDisplay(False)

GEOMETRY_TOLERANCE = 1e-3
#: Formats that SimpleITK fills up with zeros when the file ends early, and the bytes of their fixed headers.
_UNCHECKED_FORMATS = {".nii": 0, ".img": 0, ".gipl": 256, ".vtk": 0}
#: The NIfTI header's codes of floating-point types.
_NIFTI_FLOATS = {"16": "f4", "64": "f8"}


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A case in memory: image [modality,z,y,x] float32, label [z,y,x] int32 (file values) or None, geometry.

    `notes` says what had to be mended to read it.
    """

    image: Float32Array
    label: Int32Array | None
    geometry: Geometry
    notes: tuple[str, ...] = ()


def read_volume(images: Sequence[Path], label: Path | None, *, modalities: int) -> Volume:
    """Read a case: a file per modality, or one file that holds all `modalities`.

    Raises:
        InputError: a file cannot be read, is incomplete or not 3-D; sizes, spacings, origins or directions differ
            between files by more than 1e-3; an image holds NaN or infinite voxels; a label is not whole numbers.
    """
    read = [read_image(path) for path in images]
    channels = [channel for array, _, _ in read for channel in array]
    require_modalities(images[0], len(channels), modalities)
    geometry = read[0][1]
    for path, (_, other, _) in zip(images[1:], read[1:], strict=True):
        require_same_grid(images[0], geometry, path, other)
    for index, channel in enumerate(channels):
        _require_finite(channel, images[min(index, len(images) - 1)])
    notes = [note for _, _, note in read if note]
    label_ZYX = None
    if label is not None:
        array, other, note = read_image(label)
        require_one_channel(label, len(array))
        require_same_grid(images[0], geometry, label, other)
        label_ZYX = _whole_numbers(array[0], label)
        notes += [note] if note else []
    image = np.stack([np.ascontiguousarray(channel, np.float32) for channel in channels])
    return Volume(image=image, label=label_ZYX, geometry=geometry, notes=tuple(notes))


def read_image(path: Path) -> tuple[NDArray[Any], Geometry, str]:
    """Return (array [channel,z,y,x], geometry, note); the note says what was mended, or is empty.

    Raises:
        InputError: the file cannot be read, is incomplete, or is not a 3-D volume.
    """
    content = _checked_bytes(path)
    try:
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: cannot be read as an image ({reason}); is the file damaged?") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels of type {image.GetPixelIDTypeAsString()}; real numbers are supported")
    _require_whole_payload(path, content, image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() == 3:
        array = array[np.newaxis]
    if array.ndim != 4 or min(array.shape) < 1:
        raise InputError(f"{path}: {image.GetDimension()}-D with size {image.GetSize()}; 3-D volumes are supported")
    if array.shape[1] == 1 and image.GetDimension() == 3 and image.GetSize()[2] == 1:
        raise InputError(f"{path}: a single slice of size {image.GetSize()}; 2-D images are not supported")
    geometry = geometry_of(image, path)
    mended = image.HasMetaDataKey("ITK_sform_corrected") and image.GetMetaData("ITK_sform_corrected") == "YES"
    return array, geometry, f"{path}: axes in the header are not orthonormal; nearest rotation used" if mended else ""


def geometry_of(image: sitk.Image | sitk.ImageFileReader, path: Path) -> Geometry:
    """Return the geometry of the first three axes of an image, or of a reader that has read a header.

    Raises:
        InputError: a number in the header is not finite.
    """
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
    return geometry


def fingerprint(volume: Volume) -> dict[str, Any]:
    """Return the digests by which a case is recognised whatever its file names and format.

    They are over the source voxels, image as little-endian float32, label as int32, C order z,y,x, and over the
    geometry: {image_sha256: [per modality], label_sha256, geometry_sha256}, as a store's metadata keeps them.
    """
    assert volume.label is not None
    return {
        "image_sha256": [hashlib.sha256(np.ascontiguousarray(m, "<f4").data).hexdigest() for m in volume.image],
        "label_sha256": hashlib.sha256(np.ascontiguousarray(volume.label, "<i4").data).hexdigest(),
        "geometry_sha256": sha256_hex(canonical_json(volume.geometry.as_json())),
    }


def require_modalities(first: Path, found: int, expected: int) -> None:
    """Refuse a case, named by its first image, of which not as many modalities were found as are expected.

    Raises:
        InputError: naming both numbers.
    """
    if found != expected:
        raise InputError(f"{first}: {found} modalities found where {expected} are expected")


def require_one_channel(label: Path, found: int) -> None:
    """Refuse a label map of several channels.

    Raises:
        InputError: naming the number.
    """
    if found != 1:
        raise InputError(f"{label}: a label map must have one channel, found {found}")


def require_same_grid(first: Path, a: Geometry, second: Path, b: Geometry) -> None:
    """Refuse two files of one case that do not lie on the same grid.

    Raises:
        InputError: sizes differ, or spacings, origins or directions by more than 1e-3.
    """
    if a.size != b.size:
        raise InputError(f"{second}: size {b.size} (x,y,z) differs from {a.size} of {first}; resample one of them")
    for name in ("spacing", "origin", "direction"):
        one, other = getattr(a, name), getattr(b, name)
        if any(abs(p - q) > GEOMETRY_TOLERANCE for p, q in zip(one, other, strict=True)):
            raise InputError(
                f"{second}: {name} {_short(other)} (x,y,z) differs from {_short(one)} of {first}; "
                "correct the header that is wrong, or resample one file onto the other"
            )


# --- checks --------------------------------------------------------------------------------------------------------


def _checked_bytes(path: Path) -> memoryview:
    """Return the bytes of a file, decompressed if it is a .gz; zlib compares its length and checksum.

    SimpleITK reads a truncated .gz as zeros.
    """
    try:
        if not path.name.lower().endswith(".gz"):
            return np.memmap(path, np.uint8, "r").data if path.stat().st_size else memoryview(b"")
        with gzip.open(path) as file:
            return memoryview(file.read())
    except EOFError as error:
        raise InputError(f"{path}: the gzip file ends early; copy it again from its source") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); copy it again from its source") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _require_whole_payload(path: Path, content: memoryview, image: sitk.Image) -> None:
    """Compare a file's size with its header, for the formats that SimpleITK fills up with zeros."""
    # a NIfTI header begins with its size, 348 or 540, in its own byte order
    little_endian = bytes(content[:1]) in (b"\x5c", b"\x1c")
    if _suffix(path) == ".hdr":
        path = path.with_name(path.name.replace(".hdr", ".img"))
        content = _checked_bytes(path)
    offset = _UNCHECKED_FORMATS.get(_suffix(path))
    if offset is None:
        return
    bits = 8 * image.GetSizeOfPixelComponent()
    if nifti := image.HasMetaDataKey("bitpix"):
        bits = int(image.GetMetaData("bitpix"))
        offset = 0 if _suffix(path) == ".img" else int(float(image.GetMetaData("vox_offset")))
    voxels = math.prod(image.GetSize()) * image.GetNumberOfComponentsPerPixel()
    if len(content) < (expected := offset + voxels * bits // 8):
        raise InputError(
            f"{path}: {len(content)} bytes where the header needs {expected}; copy it again from its source"
        )
    if nifti and (dtype := _NIFTI_FLOATS.get(image.GetMetaData("datatype"))):
        # the NIfTI library replaces NaN and infinities by zero, so they are looked for in the file itself
        stored = np.frombuffer(content, np.dtype(dtype).newbyteorder("<" if little_endian else ">"), voxels, offset)
        _require_finite(stored.reshape(-1, *image.GetSize()[2::-1]), path)


def _suffix(path: Path) -> str:
    """The ending of a file name, a .gz aside: `.nii` for `a.nii.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _require_finite(channel: NDArray[Any], path: Path) -> None:
    if channel.dtype.kind in "iu":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(channel.astype(np.float32))
    if not finite.all():
        z, y, x = np.argwhere(~finite)[0][-3:]
        raise InputError(
            f"{path}: {np.count_nonzero(~finite)} voxels are NaN, infinite or beyond float32, the first at "
            f"z={z}, y={y}, x={x}; replace them"
        )


def _whole_numbers(array: NDArray[Any], path: Path) -> Int32Array:
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= -(2**31) and high < 2**31):
        raise InputError(f"{path}: label values from {low} to {high}; they must be whole numbers that fit 32 bits")
    label = array.astype(np.int32)
    if array.dtype.kind == "f" and not np.array_equal(label, array):
        raise InputError(f"{path}: label value {array[label != array][0]} is not a whole number; is this a label map?")
    return label


def _short(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"
