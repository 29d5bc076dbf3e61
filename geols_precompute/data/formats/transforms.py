"""The place of a grid as a NIfTI header declares it, read from its bytes and written back to them."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geols_precompute.arrays import Float64Array

#: Millimetres per spatial unit of xyzt_units (metre, millimetre, micrometre); every other code is taken as millimetre.
MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}
_SPATIAL_UNITS = 0x07
#: Two transforms are the same if no corner of the volume moves by more than this share of the smallest voxel edge,
SAME_WITHIN = 1e-3
#: and the difference is worth telling from here on.
TOLD_FROM = 0.1
#: The least volume that three unit vectors may span for a transform to be usable.
_LEAST_VOLUME = 0.01
_LARGEST_NUMBER = 1e30
_LARGEST_CODE = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where a version of NIfTI keeps a field: struct format and byte offset, without the byte order."""

    pixdim: tuple[str, int]
    units: tuple[str, int]
    codes: tuple[str, int]
    quaternion: tuple[str, int]
    srow: tuple[str, int]


#: By the header's size, which is its first number.
_LAYOUTS = {
    348: _Layout(pixdim=("4f", 76), units=("B", 123), codes=("2h", 252), quaternion=("6f", 256), srow=("12f", 280)),
    540: _Layout(pixdim=("4d", 104), units=("i", 500), codes=("2i", 344), quaternion=("6d", 352), srow=("12d", 400)),
}


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """What a NIfTI header says of the place of its voxels, in its own units and axes (right, anterior, superior).

    A header may declare two transforms. One rule says which is used, nibabel's: the sform if its code is above 0, else
    the qform if its code is above 0; where neither is, pixdim gives the voxel size alone, and the place is not known.
    Nothing of the others is mixed in: with the sform, the voxel size is the length of its columns, whatever pixdim
    says. A transform whose axes do not span a volume is passed over, and `notes` says so.

    Attributes:
        sform_code, qform_code: what the transforms refer to; 0: not declared.
        units: the spatial unit: 1 metre, 2 millimetre, 3 micrometre, 0 not declared (taken as millimetre).
        pixdim: the sign qfac of the qform's third axis, then the voxel size x,y,z.
        quaternion: b, c, d of the qform's rotation, then its offset x,y,z.
        srow: the three rows of the sform.
    """

    sform_code: int
    qform_code: int
    units: int
    pixdim: tuple[float, ...]
    quaternion: tuple[float, ...]
    srow: tuple[float, ...]

    @classmethod
    def of_header(cls, header: bytes) -> Transforms | None:
        """Read the first 540 bytes of a .nii or .hdr file, of either version and byte order; None if it is no NIfTI.

        The header of ANALYZE 7.5 has a voxel size and no transform. Numbers that are not finite become 0.
        """
        order, layout = next(
            (
                (order, layout)
                for order in "<>"
                for size, layout in _LAYOUTS.items()
                if len(header) >= size and struct.unpack_from(f"{order}i", header)[0] == size
            ),
            ("", None),
        )
        if layout is None:
            return None

        def read(field: tuple[str, int]) -> tuple[Any, ...]:
            return struct.unpack_from(order + field[0], header, field[1])

        pixdim = tuple(v if abs(v) < _LARGEST_NUMBER else 0.0 for v in read(layout.pixdim))
        is_nifti = header[344:347] in (b"n+1", b"ni1") or header[4:7] in (b"n+2", b"ni2")
        if not is_nifti:
            return cls(sform_code=0, qform_code=0, units=2, pixdim=pixdim, quaternion=(0.0,) * 6, srow=(0.0,) * 12)
        (qform_code, sform_code), quaternion, srow = map(read, (layout.codes, layout.quaternion, layout.srow))
        if not all(abs(v) < _LARGEST_NUMBER for v in quaternion):
            qform_code, quaternion = 0, (0.0,) * 6
        if not all(abs(v) < _LARGEST_NUMBER for v in srow):
            srow = (0.0,) * 12
        return cls(
            sform_code=min(max(sform_code, 0), _LARGEST_CODE),
            qform_code=min(max(qform_code, 0), _LARGEST_CODE),
            units=read(layout.units)[0] & _SPATIAL_UNITS,
            pixdim=pixdim,
            quaternion=quaternion,
            srow=srow,
        )

    @classmethod
    def of_affine(cls, affine: Float64Array) -> Transforms:
        """Return what declares one 4×4 matrix of voxel indices to mm, right, anterior, superior: its sform."""
        return cls(
            sform_code=1,
            qform_code=0,
            units=2,
            pixdim=(1.0, *axis_lengths(affine).tolist()),
            quaternion=(0.0,) * 6,
            srow=tuple(affine[:3].ravel().tolist()),
        )

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """What pixdim says of the voxel size x,y,z, in mm; 1 in the header's unit where it is 0, as others take it."""
        return tuple(abs(v or 1.0) * self._millimetres for v in self.pixdim[1:])

    @property
    def sform(self) -> Float64Array | None:
        """The sform as a 4×4 matrix of voxel indices to mm; None if it is not declared."""
        if not self.sform_code:
            return None
        return np.vstack([np.reshape(self.srow, (3, 4)) * self._millimetres, [0.0, 0.0, 0.0, 1.0]])

    @property
    def qform(self) -> Float64Array | None:
        """The qform as a 4×4 matrix of voxel indices to mm; None if it is not declared."""
        if not self.qform_code:
            return None
        affine = np.eye(4)
        affine[:3, :3] = _rotation(self.quaternion[:3]) * self.voxel_size
        affine[:3, 2] *= -1.0 if self.pixdim[0] < 0 else 1.0
        affine[:3, 3] = np.array(self.quaternion[3:]) * self._millimetres
        return affine

    @property
    def affine(self) -> Float64Array | None:
        """The transform that is used, a 4×4 matrix of voxel indices to mm; None if no usable one is declared."""
        return next((form for form in (self.sform, self.qform) if form is not None and is_usable(form)), None)

    def is_plain(self, size: Sequence[int]) -> bool:
        """Whether a file that declares the one grid, twice, for scanner coordinates and in mm, says the same."""
        sform, qform = self.sform, self.qform
        if sform is None or qform is None or (self.sform_code, self.qform_code) != (1, 1) or self.units not in (0, 2):
            return False
        return is_usable(sform) and farthest(sform, qform, size) <= SAME_WITHIN * axis_lengths(sform).min()

    def notes(self, size: Sequence[int]) -> list[str]:
        """Return what a person should know of a header that is used as the rule says."""
        sform, qform, used = self.sform, self.qform, self.affine
        notes = []
        if sform is not None and not is_usable(sform):
            instead = "the qform" if used is not None else "the voxel size of pixdim alone"
            notes.append(f"the sform (code {self.sform_code}) spans no volume, {instead} is used")
        elif sform is not None and qform is not None:
            if (away := farthest(sform, qform, size)) > TOLD_FROM * axis_lengths(sform).min():
                notes.append(
                    f"sform (code {self.sform_code}) and qform (code {self.qform_code}) of the header disagree by up "
                    f"to {away:.3g} mm; the sform is used, with the voxel size of its columns {_short(sform)} mm"
                )
        elif sform is not None and all(self.pixdim[1:]) and self._pixdim_disagrees(sform):
            notes.append(
                f"pixdim says voxels of {_numbers(self.voxel_size)} mm, the sform of {_short(sform)} mm (x,y,z); "
                "the sform is used"
            )
        if used is None:
            notes.append("the header declares no place (sform and qform code 0); its voxel size alone is used")
        if used is None or sform is None or not is_usable(sform):
            if not all(self.pixdim[1:]):
                notes.append(f"pixdim is {_numbers(self.pixdim[1:])} (x,y,z); 1 is taken in place of 0")
            if any(v < 0 for v in self.pixdim[1:]):
                notes.append(f"pixdim is {_numbers(self.pixdim[1:])} (x,y,z); the signs are left out")
        return notes

    def scaled(self, factors: Sequence[float]) -> Transforms:
        """Return what declares a grid of the same first voxel whose voxels are larger by `factors` x,y,z."""
        srow = np.reshape(self.srow, (3, 4)) * [*factors, 1.0]
        pixdim = [self.pixdim[0], *(p * f for p, f in zip(self.pixdim[1:], factors, strict=True))]
        return replace(self, srow=tuple(srow.ravel().tolist()), pixdim=tuple(pixdim))

    def reindexed(self, indices: Float64Array) -> Transforms:
        """Return what declares the same voxels under other indices.

        Args:
            indices: the 4×4 matrix from the new indices to the old ones: axes swapped and reversed.
        """
        srow = np.reshape(self.srow, (3, 4)) @ indices
        turn, swap = indices[:3, :3], np.abs(indices[:3, :3])
        pixdim = np.array(self.pixdim[1:])
        rotation = _rotation(self.quaternion[:3]) * [1.0, 1.0, -1.0 if self.pixdim[0] < 0 else 1.0]
        sizes = np.where(pixdim == 0, 1.0, np.abs(pixdim))
        offset = np.array(self.quaternion[3:]) + (rotation * sizes) @ indices[:3, 3]
        rotation = rotation @ turn
        qfac = 1.0 if np.linalg.det(rotation) > 0 else -1.0
        return replace(
            self,
            srow=tuple(srow.ravel().tolist()),
            pixdim=(qfac, *(pixdim @ swap).tolist()),
            quaternion=(*_quaternion(rotation * [1.0, 1.0, qfac]), *offset.tolist()),
        )

    def write_to(self, header: bytearray) -> None:
        """Write these transforms into a little-endian NIfTI-1 header, for the ones that it has."""
        layout = _LAYOUTS[348]
        struct.pack_into("<4f", header, layout.pixdim[1], *self.pixdim)
        struct.pack_into("<2h", header, layout.codes[1], self.qform_code, self.sform_code)
        struct.pack_into("<6f", header, layout.quaternion[1], *self.quaternion)
        struct.pack_into("<12f", header, layout.srow[1], *self.srow)
        header[layout.units[1]] = header[layout.units[1]] & ~_SPATIAL_UNITS | self.units

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a store keeps them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Transforms:
        """Return the transforms of a store's metadata."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**fields)

    def _pixdim_disagrees(self, sform: Float64Array) -> bool:
        return bool(np.abs(np.array(self.voxel_size) / axis_lengths(sform) - 1).max() > TOLD_FROM / 10)

    @property
    def _millimetres(self) -> float:
        return MILLIMETRES.get(self.units, 1.0)


def axis_lengths(affine: Float64Array) -> Float64Array:
    """Return the lengths of the first three columns of a matrix: the voxel size x,y,z."""
    lengths: Float64Array = np.linalg.norm(affine[:3, :3], axis=0)
    return lengths


def is_usable(affine: Float64Array) -> bool:
    """Whether the axes of a matrix span a volume, so that it gives every voxel a place of its own."""
    lengths = axis_lengths(affine)
    if not lengths.all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) >= _LEAST_VOLUME)


def farthest(a: Float64Array, b: Float64Array, size: Sequence[int]) -> float:
    """Return the largest distance in mm between the places that two matrices give to a voxel of a volume.

    Args:
        a: 4×4, voxel indices to mm.
        b: another.
        size: voxels x,y,z.
    """
    corners = np.array([[i, j, k, 1.0] for i in (0, size[0] - 1) for j in (0, size[1] - 1) for k in (0, size[2] - 1)])
    return float(np.linalg.norm(corners @ (a - b)[:3].T, axis=1).max())


def _rotation(quaternion: Sequence[float]) -> Float64Array:
    """Return the rotation of b, c, d of a unit quaternion; one that is longer than 1 is shortened, as niftilib does."""
    b, c, d = quaternion
    length = b * b + c * c + d * d
    if length > 1:
        b, c, d = (v / math.sqrt(length) for v in (b, c, d))
    a = math.sqrt(max(0.0, 1 - length))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _quaternion(rotation: Float64Array) -> tuple[float, float, float]:
    """Return b, c, d of the unit quaternion of a rotation, a not negative."""
    # the eigenvector of the largest eigenvalue of this matrix is the quaternion (Bar-Itzhack 2000)
    r = rotation
    matrix = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], 0, 0, 0],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], 0, 0],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0],
            [r[1, 0] - r[0, 1], r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    a, b, c, d = np.linalg.eigh(matrix)[1][:, -1]
    sign = -1.0 if a < 0 else 1.0
    return float(sign * b), float(sign * c), float(sign * d)


def _short(affine: Float64Array) -> str:
    return _numbers(axis_lengths(affine))


def _numbers(values: Sequence[float] | Float64Array) -> str:
    return " × ".join(f"{v:.6g}" for v in values)
