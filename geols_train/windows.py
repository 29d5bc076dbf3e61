"""Windows: boxes of voxels that may reach beyond a volume, and how overlapping ones cover it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geols_precompute.store.shard import Window

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of `size` voxels (z,y,x) whose first voxel is `start`; it may reach beyond the volume."""

    start: Size
    size: Size

    def inside(self, shape_ZYX: Sequence[int]) -> Window:
        """Return the slices of the volume that the box covers."""
        z, y, x = (
            slice(max(0, start), min(n, start + size))
            for start, size, n in zip(self.start, self.size, shape_ZYX, strict=True)
        )
        return z, y, x

    def placed(self, shape_ZYX: Sequence[int]) -> Window:
        """Return the slices of the box that the volume fills; the rest of the box is padding."""
        z, y, x = (
            slice(max(0, -start), min(size, n - start))
            for start, size, n in zip(self.start, self.size, shape_ZYX, strict=True)
        )
        return z, y, x


def whole_box(shape_ZYX: Sequence[int]) -> Box:
    """Return the box that is the volume."""
    z, y, x = shape_ZYX
    return Box(start=(0, 0, 0), size=(z, y, x))


def centre_box(shape_ZYX: Sequence[int], size: Size) -> Box:
    """Return the box in the middle of a volume: a centre crop, or a centred pad where the volume is smaller."""
    z, y, x = ((n - s) // 2 for n, s in zip(shape_ZYX, size, strict=True))
    return Box(start=(z, y, x), size=size)


def random_box(shape_ZYX: Sequence[int], size: Size, rng: np.random.Generator) -> Box:
    """Return a box at a uniformly drawn place inside the volume, centred along axes where the volume is smaller."""
    z, y, x = (int(rng.integers(n - s + 1)) if n > s else (n - s) // 2 for n, s in zip(shape_ZYX, size, strict=True))
    return Box(start=(z, y, x), size=size)


def covering_boxes(shape_ZYX: Sequence[int], size: Size, *, overlap: float) -> list[Box]:
    """Return boxes that cover a volume, neighbours sharing at least `overlap` (0 to below 1) of their size."""
    axes = (_starts(n, s, overlap) for n, s in zip(shape_ZYX, size, strict=True))
    return [Box(start=(z, y, x), size=size) for z, y, x in itertools.product(*axes)]


def _starts(n: int, size: int, overlap: float) -> list[int]:
    if n <= size:
        return [(n - size) // 2]
    steps = int(np.ceil((n - size) / max(1.0, size * (1 - overlap))))
    return [round(i * (n - size) / steps) for i in range(steps + 1)]
