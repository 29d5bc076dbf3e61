"""Geometry: where a grid of voxels lies in space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geols_precompute.arrays import Float64Array
from geols_precompute.data.formats.transforms import Transforms, axis_lengths

#: Numbers of a geometry are rounded to so many decimals; where voxels are smaller than 0.01 mm, to 1e-6 of a voxel.
DECIMALS = 6
#: Cosines of the angles between axes up to which a grid counts as orthogonal: 0.06 degrees.
ORTHOGONAL_WITHIN = 1e-3
#: From NIfTI's axes (right, anterior, superior) to those of SimpleITK (left, posterior, superior), and back.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a grid of voxels lies in space, as SimpleITK and the store's metadata give it: x,y,z order.

    Attributes:
        size: voxels.
        spacing: mm, along each axis of the grid.
        origin: mm, the centre of the first voxel.
        direction: 3×3, row by row; its columns are the axes' directions, of length 1. They are at right angles but for
            data that is not, such as CT with a tilted gantry.
        transforms: what the NIfTI file says that the grid comes from, where that is more than can be told from the
            rest. It is no part of the grid, so that equal grids are equal whatever their files say.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    transforms: Transforms | None = field(default=None, compare=False)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Array shape (z,y,x)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Voxel spacing (z,y,x) in mm."""
        return self.spacing[2], self.spacing[1], self.spacing[0]

    @property
    def affine(self) -> Float64Array:
        """The 4×4 matrix from voxel indices (x,y,z) to mm in SimpleITK's axes (left, posterior, superior)."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        affine[:3, 3] = self.origin
        return affine

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes are at right angles to each other, within 0.06 degrees."""
        return largest_cosine(np.reshape(self.direction, (3, 3))) <= ORTHOGONAL_WITHIN

    def as_json(self) -> dict[str, list[float]]:
        """Return the geometry with every number rounded to 1e-6 and no negative zero.

        Spacing and origin of voxels smaller than 0.01 mm are rounded to 1e-6 of the smallest one's power of ten.
        """

        def rounded(values: Sequence[float], decimals: int) -> list[float]:
            return [round(float(v), decimals) + 0.0 for v in values]

        smallest = min(self.spacing)
        decimals = DECIMALS - math.floor(math.log10(smallest)) if 0 < smallest < 0.01 else DECIMALS
        return {
            "size": list(self.size),
            "spacing": rounded(self.spacing, decimals),
            "origin": rounded(self.origin, decimals),
            "direction": rounded(self.direction, DECIMALS),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Geometry:
        """Return the geometry of a store's metadata."""
        x, y, z = (int(n) for n in document["size"])
        return cls(
            size=(x, y, z),
            spacing=three_floats(document["spacing"]),
            origin=three_floats(document["origin"]),
            direction=tuple(float(v) for v in document["direction"]),
        )

    @classmethod
    def of_affine(cls, affine: Float64Array, size: tuple[int, int, int]) -> Geometry:
        """Return the geometry of a grid from its 4×4 matrix of voxel indices to mm in SimpleITK's axes."""
        spacing = axis_lengths(affine)
        return cls(
            size=size,
            spacing=three_floats(spacing),
            origin=three_floats(affine[:3, 3]),
            direction=tuple((affine[:3, :3] / spacing).ravel().tolist()),
        )


def largest_cosine(axes: Float64Array) -> float:
    """Return the largest cosine, in magnitude, of the angles between the columns of a 3×3 matrix of unit columns."""
    return float(np.abs(axes.T @ axes - np.diag(np.sum(axes**2, axis=0))).max())


def three_floats(values: Sequence[float] | Float64Array) -> tuple[float, float, float]:
    """Return the first three of `values`."""
    x, y, z = (float(v) for v in values[:3])
    return x, y, z
