"""Image files to volumes by SimpleITK, with the checks that SimpleITK lacks, and fingerprints of what they hold."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from geols_precompute.arrays import BoolArray, Float32Array, Int32Array
from geols_precompute.data.formats.itk import open_header, open_image
from geols_precompute.data.formats.names import wrong_name
from geols_precompute.data.formats.payload import check_payload, scaling_of
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.grid import Grid, common_grid, grid_of, require_same_grid
from geols_precompute.data.masks import merged
from geols_precompute.digests import array_sha256, canonical_json, sha256_hex
from geols_precompute.errors import InputError

# SimpleITK then reads a NIfTI file whose axes are not orthonormal; `grid_of` has its true axes from the header itself.
os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
sitk.ProcessObject.SetGlobalWarningDisplay(False)

#: How far a label value may lie from a whole number, as a share of it: what float32 rounds.
_ROUNDING = 1e-6
#: SimpleITK takes a scl_slope below this for 1.
_LEAST_SLOPE = float(np.finfo(np.float64).eps)
#: scl_slope and scl_inter of a NIfTI header that says no scale.
UNSCALED = ((1.0, 0.0), (0.0, 0.0))
#: Integers that a header scales by more do not tell whole numbers from others.
_LARGEST_SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A case in memory: image [modality,z,y,x] float32, label [z,y,x] int32 (file values) or None, geometry.

    `notes` says what had to be mended to read it, `raters` are the label maps [rater,z,y,x] int32 of several raters, if
    they were read.
    """

    image: Float32Array
    label: Int32Array | None
    geometry: Geometry
    notes: tuple[str, ...] = ()
    raters: Int32Array | None = None


@dataclass(frozen=True, kw_only=True)
class Mask:
    """The file with the binary mask of an organ, and the label value that it stands for."""

    path: Path
    name: str
    value: int


def read_volume(
    images: Sequence[Path],
    label: Path | None,
    *,
    modalities: int,
    raters: Sequence[Path] = (),
    masks: Sequence[Mask] = (),
    mask_order: Sequence[str] = (),
) -> Volume:
    """Read a case: a file per modality, or one file that holds all `modalities`; with the label maps of `raters`.

    In place of a label there may be `masks`, of which one label map is made, see `merged`; those of `mask_order` last,
    in that order.

    Raises:
        InputError: a file cannot be read, is incomplete or not 3-D; sizes, spacings, origins or directions differ
            between files, see `common_grid`; an image holds NaN or infinite voxels; a label is not whole numbers; masks
            are not binary, or overlap.
    """
    read = [_read_on_grid(path) for path in images]
    grids = [grid for _, grid in read]
    channels = [channel for array, _ in read for channel in array]
    require_modalities(images[0], len(channels), modalities)
    labels = list(dict.fromkeys([*([label] if label is not None else []), *raters]))
    for path in labels:
        read.append(_read_on_grid(path))
        grids.append(read[-1][1])
        require_one_channel(path, len(read[-1][0]))
    shape = channels[0].shape
    joined = merged(_masks(masks, images[0], grids), shape, order=mask_order) if masks else None
    geometry, notes = common_grid((*images, *labels, *(mask.path for mask in masks)), grids)
    for index, channel in enumerate(channels):
        require_finite(channel, images[min(index, len(images) - 1)])
    whole: dict[Path, Int32Array] = {}
    for path, (array, _) in zip(labels, read[len(images) :], strict=True):
        whole[path], rounded = _whole_numbers(array[0], path)
        notes = (*notes, *rounded)
    image = np.empty((len(channels), *shape), np.float32)
    for target, channel in zip(image, channels, strict=True):
        target[...] = channel
    return Volume(
        image=image,
        label=whole[label] if label is not None else joined,
        geometry=geometry,
        notes=notes,
        raters=np.stack([whole[path] for path in raters]) if raters else None,
    )


def _masks(masks: Sequence[Mask], image: Path, grids: list[Grid]) -> Iterator[tuple[str, int, BoolArray]]:
    """Yield name, value and voxels of each mask, and append its grid to those of the files before it."""
    first = grids[0].geometry
    for mask in masks:
        array, grid = _read_on_grid(mask.path)
        require_one_channel(mask.path, len(array))
        require_same_grid(image, first, mask.path, grid.geometry, size_only=True)
        grids.append(grid)
        values = np.unique(array)
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            listed = ", ".join(f"{value:g}" for value in values[:5])
            raise InputError(f"{mask.path}: is no binary mask, which holds 0 and one other value; it has {listed}")
        yield mask.name, mask.value, array[0] != 0


def read_image(path: Path) -> tuple[NDArray[Any], Geometry, str]:
    """Return (array [channel,z,y,x], geometry, note); the note says what was mended or guessed, or is empty.

    Raises:
        InputError: the file cannot be read, is incomplete, or is not a 3-D volume.
    """
    array, grid = _read_on_grid(path)
    geometry, notes = common_grid([path], [grid])
    return array, geometry, "; ".join(notes)


def _read_on_grid(path: Path) -> tuple[NDArray[Any], Grid]:
    """Read a file: (array [channel,z,y,x], where it lies)."""
    if path.is_dir():
        image = open_image(path)
        return _voxels(image, path), grid_of(image, path)
    stored, notes = check_payload(path), [wrong_name(path)]
    if stored is not None:
        # the NIfTI library replaces NaN and infinities by zero, so they are looked for in the file itself
        require_finite(stored, path)
        header = open_header(path)
        if scaling_of(path) in UNSCALED and _is_plain(header, stored):
            _require_volume(header, stored, path)
            return stored, _noted(grid_of(header, path), notes)
    image = open_image(path)
    array, scaled = _scaled_as_declared(_voxels(image, path), stored, path)
    return array, _noted(grid_of(image, path), [*notes, scaled])


def _noted(grid: Grid, notes: Sequence[str]) -> Grid:
    return replace(grid, notes=(*grid.notes, *filter(None, notes)))


def _is_plain(header: sitk.ImageFileReader, stored: NDArray[Any]) -> bool:
    """Whether SimpleITK sees in a file the volumes that were read of it: not vectors, nor further axes."""
    size = header.GetSize()
    return header.GetNumberOfComponents() == 1 and len(size) in (3, 4) and size == (*stored.shape[:0:-1], *size[3:])


def _voxels(image: sitk.Image, path: Path) -> NDArray[Any]:
    """Return the voxels of an image [channel,z,y,x].

    Raises:
        InputError: they are no real numbers, or no volume.
    """
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: voxels of type {image.GetPixelIDTypeAsString()}; real numbers are supported")
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() == 3:
        array = array[np.newaxis]
    _require_volume(image, array, path)
    return array


def _require_volume(image: sitk.Image | sitk.ImageFileReader, array: NDArray[Any], path: Path) -> None:
    if array.ndim != 4 or min(array.shape) < 1:
        raise InputError(f"{path}: {image.GetDimension()}-D with size {image.GetSize()}; 3-D volumes are supported")
    if array.shape[1] == 1 and image.GetDimension() == 3 and image.GetSize()[2] == 1:
        raise InputError(f"{path}: a single slice of size {image.GetSize()}; 2-D images are not supported")


def _scaled_as_declared(array: NDArray[Any], stored: NDArray[Any] | None, path: Path) -> tuple[NDArray[Any], str]:
    """Return what SimpleITK has read of a file, scaled as its NIfTI header says, and a note.

    Where scl_slope is 0 or not finite there is no scale, and scl_inter does not count (NIfTI-1, and nibabel). SimpleITK
    adds it all the same, and takes a very small slope for 1.

    Args:
        array: read by SimpleITK, [channel,z,y,x].
        stored: its floating-point voxels before scaling, of a NIfTI file that has such.
        path: of the file.
    """
    slope, inter = scaling_of(path)
    is_scaled = math.isfinite(slope) and slope != 0
    added = inter if math.isfinite(inter) else 0.0
    note = ""
    if is_scaled and added != inter:
        note = f"scl_inter of the header is {inter}; it is taken as 0"
    elif not is_scaled and added:
        note = f"scl_slope of the header is {slope:g}, so that its scl_inter {inter:g} does not count"
    if is_scaled and abs(slope) >= _LEAST_SLOPE:
        return array, note
    if added:
        array = stored if stored is not None else np.rint(array - added)
    return (array * slope + added if is_scaled else array), note


def fingerprint(volume: Volume) -> dict[str, Any]:
    """Return the digests by which a case is recognised whatever its file names and format.

    They are over the source voxels, image as little-endian float32, label as int32, C order z,y,x, and over the
    geometry: {image_sha256: [per modality], label_sha256, geometry_sha256}, as a store's metadata keeps them.
    """
    assert volume.label is not None
    return {
        "image_sha256": [array_sha256(np.asarray(channel, np.float32)) for channel in volume.image],
        "label_sha256": label_sha256(volume.label),
        "geometry_sha256": sha256_hex(canonical_json(volume.geometry.as_json())),
    }


def label_sha256(label_ZYX: Int32Array) -> str:
    """Return the digest of a label map: little-endian int32, C order z,y,x."""
    return array_sha256(np.asarray(label_ZYX, np.int32))


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


def require_finite(channel: NDArray[Any], path: Path) -> None:
    """Refuse intensities [z,y,x] that no distance can be computed from.

    Raises:
        InputError: naming the first voxel that is NaN, infinite, or beyond float32.
    """
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


def _whole_numbers(array: NDArray[Any], path: Path) -> tuple[Int32Array, tuple[str, ...]]:
    """Return a label map as whole numbers, and notes; what float32 or a scale in the header rounds is whole."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= -(2**31) and high < 2**31):
        raise InputError(f"{path}: label values from {low} to {high}; they must be whole numbers that fit 32 bits")
    label = np.rint(array).astype(np.int32) if array.dtype.kind == "f" else array.astype(np.int32)
    if array.dtype.kind != "f" or np.array_equal(label, array):
        return label, ()
    slope = abs(scaling_of(path)[0])
    half_a_step = 0.5 * slope if slope <= _LARGEST_SLOPE else 0.0
    off = np.abs(label - array)
    wrong = off > half_a_step + _ROUNDING * np.maximum(1, np.abs(array))
    scaled = "" if slope == 1 else f" (the header scales the stored integers by scl_slope {slope:.6g})"
    if wrong.any():
        what_to_do = "; write labels without a scale" if scaled else "; is this a label map?"
        raise InputError(f"{path}: label value {array[wrong][0]} is not a whole number{scaled}{what_to_do}")
    return label, (f"{path}: label values are whole but for {off.max():.1g} and were rounded{scaled}",)
