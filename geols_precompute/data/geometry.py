"""Geometry: where a grid of voxels lies in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a grid of voxels lies in space, as SimpleITK and the store's metadata give it: x,y,z order.

    Attributes:
        size: voxels.
        spacing: mm.
        origin: mm, the centre of the first voxel.
        direction: 3×3 direction cosines, row by row.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Array shape (z,y,x)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Voxel spacing (z,y,x) in mm."""
        return self.spacing[2], self.spacing[1], self.spacing[0]

    def as_json(self) -> dict[str, list[float]]:
        """Return the geometry with every number rounded to 1e-6 and no negative zero."""

        def rounded(values: Sequence[float]) -> list[float]:
            return [round(float(v), 6) + 0.0 for v in values]

        return {
            "size": list(self.size),
            "spacing": rounded(self.spacing),
            "origin": rounded(self.origin),
            "direction": rounded(self.direction),
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


def three_floats(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first three of `values`."""
    x, y, z = (float(v) for v in values[:3])
    return x, y, z
