"""The way the axes of a grid run in the body, and grids turned to run another way: by flips and swaps of axes only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import Float64Array
from geols_precompute.data.geometry import RAS_TO_LPS, Geometry
from geols_precompute.errors import InputError

#: Towards where an axis runs, and against it, for the axes of the body: right, anterior, superior.
_LETTERS = ("RL", "AP", "SI")
Element = TypeVar("Element", bound=np.generic)


def orientation_of(geometry: Geometry) -> str:
    """Return towards where the axes x,y,z of a grid run, as nibabel names it: RAS is to the right, to the front, up."""
    return "".join(_LETTERS[body][sign < 0] for body, sign in _body_axes(geometry))


def mixed(counts: Mapping[str, int]) -> str:
    """Say that a data set has several orientations, given how many cases have each; empty if it has one at most."""
    if len(counts) < 2:
        return ""
    listed = ", ".join(f"{count} {letters}" for letters, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    return f"the axes of the cases run in {len(counts)} ways ({listed})"


def turned(geometry: Geometry, orientation: str) -> Geometry:
    """Return the grid of the same voxels whose axes x,y,z run as `orientation` says.

    Raises:
        InputError: the grid comes from a header that declares no place.
    """
    steps = _steps(geometry, orientation)
    if steps == ((0, 1), (1, 1), (2, 1)):
        return geometry
    transforms = geometry.transforms
    if transforms is not None and transforms.affine is None:
        raise InputError("declares no place, so that nobody knows how its axes run; leave out --orientation for it")
    indices = np.zeros((4, 4))
    indices[3, 3] = 1
    for new, (old, sign) in enumerate(steps):
        indices[old, new] = sign
        indices[old, 3] = 0 if sign > 0 else geometry.size[old] - 1
    x, y, z = (old for old, _ in steps)
    made = Geometry.of_affine(geometry.affine @ indices, (geometry.size[x], geometry.size[y], geometry.size[z]))
    spacing = (geometry.spacing[x], geometry.spacing[y], geometry.spacing[z])
    return replace(made, spacing=spacing, transforms=transforms and transforms.reindexed(indices))


def turn(array: NDArray[Element], geometry: Geometry, orientation: str) -> NDArray[Element]:
    """Return an array [...,z,y,x] on `geometry` as it is on the grid turned to `orientation`."""
    steps = _steps(geometry, orientation)[::-1]
    leading = array.ndim - 3
    moved = array.transpose(*range(leading), *(leading + 2 - old for old, _ in steps))
    flips: tuple[Any, ...] = (..., *(slice(None, None, sign) for _, sign in steps))
    return np.ascontiguousarray(moved[flips])


def turn_back(array: NDArray[Element], geometry: Geometry, orientation: str) -> NDArray[Element]:
    """Return an array [...,z,y,x] on the grid turned to `orientation` as it is on `geometry`."""
    return turn(array, turned(geometry, orientation), orientation_of(geometry))


def _steps(geometry: Geometry, orientation: str) -> tuple[tuple[int, int], ...]:
    """Return, for each axis x,y,z of the turned grid, (the axis that it is on the grid, 1 or -1)."""
    there = {body: (axis, sign) for axis, (body, sign) in enumerate(_body_axes(geometry))}
    steps = []
    for letter in orientation:
        body = next(number for number, letters in enumerate(_LETTERS) if letter in letters)
        axis, sign = there[body]
        steps.append((axis, sign if letter == _LETTERS[body][0] else -sign))
    return tuple(steps)


def _body_axes(geometry: Geometry) -> list[tuple[int, int]]:
    """Return, for each axis x,y,z of a grid, (the axis of the body that it is nearest to, 1 or -1)."""
    axes: Float64Array = RAS_TO_LPS[:3, :3] @ np.reshape(geometry.direction, (3, 3))
    nearest = max(itertools.permutations(range(3)), key=lambda p: sum(abs(axes[body, n]) for n, body in enumerate(p)))
    return [(body, 1 if axes[body, axis] >= 0 else -1) for axis, body in enumerate(nearest)]
