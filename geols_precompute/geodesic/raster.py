"""The raster scan of the published code as one linear sweep of sixteen voxels at a time.

The scan
--------
An iteration is a forward and a backward pass. The forward pass visits the voxels in C order, and each takes the best
of its own distance and those of thirteen neighbours plus the step's cost. Written as (dz, dy, dx), these are

    (-1,-1,-1) (-1,-1,0) (-1,-1,1) (-1,0,-1) (-1,0,0) (0,-1,-1) (0,-1,0) (0,-1,1) (0,0,-1)    already visited
    ( 1,-1,-1) ( 1,-1,0) ( 1,-1,1) ( 1,0,-1)                                                 not yet visited

and the backward pass is its mirror image. Row by row this is a chain: a voxel waits for its left neighbour.

Skewed addresses
----------------
Store the volume at skewed addresses and the chain is gone. With H rows of W columns, L = max(ceil(W/2), 16):

    address(z, y, x) = z·(H+1)·(2L+1) + y·(2L+1) + x·L

One plane of three rows with W = 6, drawn with L = 3 (the last column and row are the dummies described below):

             x=0  x=1  x=2  x=3  x=4  x=5
      y=0     0    3    6    9   12   15  (18)        consecutive addresses 12, 13, 14 hold
      y=1     7   10   13   16   19   22  (25)        (y=0, x=4), (y=1, x=2), (y=2, x=0):
      y=2    14   17   20   23   26   29  (32)        one row down and two columns to the left each time,
            (21) (24) (27) (30) (33) (36) (39)        so never neighbours of each other

L and 2L+1 have no common divisor, so no two voxels share an address. The neighbours to the left (-L), above
(-3L-1, -2L-1, -L-1) and in the plane before lie at least L addresses behind a voxel; the four that the forward pass
reads before their own visit lie at least L ahead. L is at least 16, so a group of sixteen consecutive addresses needs
nothing from itself. A sweep over ascending addresses therefore meets every dependency of the scan: all voxels see the
same neighbours in the same state, and the result is the scan's, bit for bit.

Left of column 0 is column 2L of an earlier row, and above row 0 is row H of the plane before: addresses that no voxel
has. There the image is NaN, and a candidate made of NaN never wins in `lesser`, so the kernel knows no border.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array
from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.metric import Formula, Steps
from geols_precompute.geodesic.relax import UNREACHED, relax
from geols_precompute.geodesic.simd import LANES, prefetch
from geols_precompute.geodesic.workspace import scratch

_PREFETCH = 64  # addresses beyond the plane ahead; a quarter faster than none


class SkewedGrid(NamedTuple):
    """Where voxel (z, y, x) lies in a skewed volume: at margin + z·plane + y·row + x·column."""

    column: int
    row: int
    plane: int
    margin: int
    extent: int
    """Addresses from the first voxel to the last, rounded up to whole groups of sixteen."""
    size: int
    """Addresses of a volume with both margins."""


def make_grid(depth: int, height: int, width: int) -> SkewedGrid:
    """Return the skewed addresses of a volume of this shape."""
    column = max((width + 1) // 2, LANES)
    row = 2 * column + 1
    plane = (height + 1) * row
    extent = _round_up((depth - 1) * plane + (height - 1) * row + (width - 1) * column + 1, LANES)
    margin = _round_up(plane + row + column + LANES, 1024)
    # 208 floats beyond a multiple of the page size: equal addresses of two classes must not compete for one cache set
    size = _round_up(2 * margin + extent, 1024) + 208
    return SkewedGrid(column, row, plane, margin, extent, size)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def raster_distance(
    image: Float32Array, seeds: BoolArray, formula: Formula, steps: Steps, iterations: int, out: Float32Array
) -> int:
    """Write the distances after at most `iterations` forward and backward passes to `out`.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    Return the iterations done: fewer when one of them changed nothing.
    """
    grid = make_grid(*image.shape[1:])
    channels, classes = len(image), len(seeds)
    buffer = scratch((channels + classes) * grid.size)
    images = buffer[: channels * grid.size].reshape(channels, grid.size)
    distances = buffer[channels * grid.size :].reshape(classes, grid.size)
    _enter_image(image, images, grid)
    # NumPy finds the few that are set several times as fast as a loop over all voxels does
    first_seed = _enter_seeds(np.flatnonzero(seeds), seeds.shape[1:], distances, grid)
    done = _iterate(images[0] if channels == 1 else images, distances, formula, steps, grid, first_seed, iterations)
    _copy_out(distances, out, grid)
    return done


@jit
def _enter_image(image: Any, images: Any, grid: SkewedGrid) -> None:
    """Copy image [channel,z,y,x] into skewed volumes [channel,address] with NaN around."""
    images[:] = np.nan
    channels, depth, height, width = image.shape
    for channel in range(channels):
        for z in range(depth):
            for y in range(height):
                start = grid.margin + z * grid.plane + y * grid.row
                for x in range(width):
                    images[channel, start + x * grid.column] = image[channel, z, y, x]


@jit
def _enter_seeds(seeds: Any, shape: Any, distances: Any, grid: SkewedGrid) -> int:
    """Set distances [class,address] to zero on seeds, unreached elsewhere; return the first address.

    `seeds` are flat indices of [class,z,y,x].
    """
    distances[:] = UNREACHED
    first = grid.margin + grid.extent
    depth, height, width = shape
    for seed in seeds:
        row, x = divmod(seed, width)
        plane, y = divmod(row, height)
        label, z = divmod(plane, depth)
        here = grid.margin + z * grid.plane + y * grid.row + x * grid.column
        distances[label, here] = 0
        first = min(first, here)
    return first


@jit
def _copy_out(distances: Any, out: Any, grid: SkewedGrid) -> None:
    """Copy skewed distances [class,address] to out [class,z,y,x]."""
    classes, depth, height, width = out.shape
    for label in range(classes):
        for z in range(depth):
            for y in range(height):
                start = grid.margin + z * grid.plane + y * grid.row
                for x in range(width):
                    out[label, z, y, x] = distances[label, start + x * grid.column]


@jit
def _iterate(
    image: Any, distances: Any, formula: Any, steps: Any, grid: SkewedGrid, first_seed: int, iterations: int
) -> int:
    """Run forward and backward passes until an iteration changes nothing."""
    groups = grid.extent // LANES
    # nothing can change before the voxels that take from a seed in the plane after them
    skipped = max(0, first_seed - grid.plane - grid.margin) // LANES
    for iteration in range(iterations):
        changed = _pass(image, distances, formula, steps, grid, grid.margin + skipped * LANES, groups - skipped, 1)
        last = grid.margin + (groups - 1) * LANES
        changed |= _pass(image, distances, formula, steps, grid, last, groups, -1)
        if changed == 0:
            return iteration + 1
        skipped = 0
    return iterations


@jit
def _pass(
    image: Any, distances: Any, formula: Any, steps: Any, grid: SkewedGrid, first: int, groups: int, sign: int
) -> int:
    """Relax groups of sixteen voxels from address `first` on, upwards (sign 1) or downwards (sign -1).

    Return non-zero if a distance changed.
    """
    column, row, plane = sign * grid.column, sign * grid.row, sign * grid.plane
    ahead = plane + sign * _PREFETCH
    changed = 0
    for group in range(groups):
        here = first + sign * group * LANES
        prefetch(image, here + ahead)
        for label in range(distances.shape[0]):
            prefetch(distances, label * distances.shape[1] + here + ahead)
        changed |= relax(image, distances, formula, steps, here, column, row, plane)
    return changed
