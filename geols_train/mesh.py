"""Mesh: how much surface passes between eight neighbouring voxels, in mm², for each of their 256 patterns.

The border of a mask is meshed as in marching cubes (Lorensen and Cline 1987) with vertices half-way between voxel
centres. Where a pattern leaves a choice it is made as the tables of the surface-distance package (Nikolov et al. 2018)
make it, so that surface Dice agrees with it: on a face whose diagonals differ, the corners of which there are fewer
are cut off singly; and a polygon is triangulated so that its area in a unit cube is largest.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Corner = tuple[int, int, int]
Edge = tuple[Corner, Corner]
#: The corners (z,y,x) of a cube; corner i is bit i of a pattern.
CORNERS: tuple[Corner, ...] = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))


@functools.cache
def surface_areas(spacing: tuple[float, ...]) -> Float64Array:
    """Return the area in mm² of the surface inside each of the 256 patterns, for a spacing (z,y,x) in mm."""
    areas = np.zeros(256)
    for pattern in range(256):
        for triangle in _triangles(pattern):
            areas[pattern] += _area(triangle * np.asarray(spacing))
    return areas


def patterns(mask_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return the pattern of every cube of eight neighbouring voxels, [z+1,y+1,x+1]; beyond the grid is outside."""
    padded = np.pad(mask_ZYX, 1).astype(np.uint8)
    Z, Y, X = (n - 1 for n in padded.shape)
    found = np.zeros((Z, Y, X), np.uint8)
    for bit, (z, y, x) in enumerate(CORNERS):
        found |= padded[z : z + Z, y : y + Y, x : x + X] << bit
    return found


@functools.cache
def _triangles(pattern: int) -> tuple[Float64Array, ...]:
    """Return the triangles [vertex,zyx] of a pattern in the unit cube."""
    return tuple(triangle for polygon in _polygons(pattern) for triangle in _triangulated(polygon))


def _polygons(pattern: int) -> Iterator[Float64Array]:
    """Yield the closed polygons [vertex,zyx] in which the surface cuts the cube."""
    inside = {corner for bit, corner in enumerate(CORNERS) if pattern >> bit & 1}
    single = inside if len(inside) <= 4 else set(CORNERS) - inside
    neighbours: dict[Edge, list[Edge]] = {}
    for face in _faces():
        for one, other in _segments(face, inside, single):
            neighbours.setdefault(one, []).append(other)
            neighbours.setdefault(other, []).append(one)
    while neighbours:
        # every cut edge lies on two faces, so it has two neighbours and the walk closes
        edge, polygon = next(iter(neighbours)), []
        while edge in neighbours:
            polygon.append(edge)
            ahead = [n for n in neighbours.pop(edge) if n in neighbours]
            edge = ahead[0] if ahead else edge
        yield np.array(polygon, float).mean(axis=1)


def _segments(face: Sequence[Corner], inside: set[Corner], single: set[Corner]) -> list[tuple[Edge, Edge]]:
    """Return the pairs of cut edges that the surface joins on a face, whose corners come in order."""
    edges: list[Edge] = [(min(a, b), max(a, b)) for a, b in zip(face, (*face[1:], face[0]), strict=True)]
    cut = [edge for edge in edges if (edge[0] in inside) != (edge[1] in inside)]
    if len(cut) == 2:
        return [(cut[0], cut[1])]
    return [(edges[i - 1], edges[i]) for i, corner in enumerate(face) if corner in single] if cut else []


def _faces() -> Iterator[list[Corner]]:
    """Yield the corners of each face, going round it."""
    for axis, side in itertools.product(range(3), (0, 1)):
        face = []
        for pair in ((0, 0), (0, 1), (1, 1), (1, 0)):
            z, y, x = np.insert(pair, axis, side).tolist()
            face.append((z, y, x))
        yield face


def _triangulated(polygon: Float64Array) -> list[Float64Array]:
    """Return the triangulation of a polygon [vertex,zyx] that has the largest area."""
    if len(polygon) < 3:
        return []
    first, last = polygon[0], polygon[-1]
    choices = [
        [np.stack([first, polygon[k], last]), *_triangulated(polygon[: k + 1]), *_triangulated(polygon[k:])]
        for k in range(1, len(polygon) - 1)
    ]
    return max(choices, key=lambda triangles: round(sum(map(_area, triangles)), 9))


def _area(triangle: Float64Array) -> float:
    return float(np.linalg.norm(np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])) / 2)
