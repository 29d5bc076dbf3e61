"""Exact distances: Dijkstra's algorithm on tiles of voxels, sixteen tiles at a time.

The idea
--------
The volume is cut into tiles of 8×8×8 voxels. A tile's *pending value* is the smallest distance that has been lowered
in it or next to it since its last visit began. A *visit* copies a tile with a border of one voxel, sweeps over the copy
in both directions, and writes the distances back; each that was lowered becomes a pending value of the neighbours that
it touches. A *round* visits the tiles with the smallest pending values, about a sixteenth of those that have one, where
Dijkstra's algorithm takes the one best voxel. When no tile has a pending value no step lowers any distance.

Sixteen tiles at a time
-----------------------
Image and distances are kept with a border, so that every tile has one, and all tiles look alike. Here one plane of a
volume with tiles of 3×3 voxels, and what a visit of tile b copies:

    . . . . . . . . . . .         outside, and where a tile exceeds the volume, the image is NaN: a candidate
    . a a[a b b b c]c c .         made of NaN never wins in `lesser`, so the kernel knows no border
    . a a[a b b b c]c c .
    . a a[a b b b c]c c .
    . d d[d e e e f]f f .
    . d d d e e e f f f .

A batch is sixteen visits that begin, sweep and end together, one in each lane of a vector. The same voxel of sixteen
tiles lies at the same distance from their first voxels, so one `gather` copies it for all of them, and one `scatter`
writes it back:

    volume                           copies          lane 0  1  2  ...  15
    ┌──────────────────────────┐
    │ ▪·····                   │     first voxel            ▪  ▪  ▪  ...  ▪      consecutive addresses
    │ ······      ▪·····       │     second voxel           ·  ·  ·  ...  ·
    │     ▪·····  ······  ...  │     ...
    └──────────────────────────┘

A voxel of a copy lies at address ((y·10 + x)·10 + z)·16 + lane, with y, x, z from 0 to 9, where 0 and 9 are the border.
So no voxel of a group waits for another. A forward sweep ascends in y, then x, then z. Of the thirteen neighbours that
`relax` looks at, nine have a smaller y, three of the others a smaller x, the last a smaller z: all come earlier, so the
sweep leaves no forward step undone.

Why the order does not matter
-----------------------------
Every distance is the smallest of the sums of step costs along a path, added in the path's order. Additions round, but
never reverse an order, so that minimum does not depend on the order of visits: raster sweeps until nothing changes
end with the same bits. Nor does it matter that two tiles of a batch may be neighbours, and see each other as they were.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array, Int64Array
from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.metric import Formula, Steps
from geols_precompute.geodesic.relax import UNREACHED, relax
from geols_precompute.geodesic.simd import (
    LANES,
    broadcast,
    gather,
    lesser,
    load,
    prefetch,
    scatter,
    smaller_lanes,
    store,
    where_lesser,
)
from geols_precompute.geodesic.workspace import scratch

TILE = 8
ROUND = 4 * LANES  # tiles that a round takes at least, if so many have a pending value
ROUND_SHARE = 16  # and at least one in so many, or looking for the smallest values would take longer than the visits
SWEEPS_PER_VISIT = 3  # a tile not finished by then is visited again: its border may have changed meanwhile
NOTHING_PENDING = UNREACHED
OUTSIDE = np.float32(-1)  # pending value of tiles outside the volume: no distance is smaller, so none is visited

_SIDE = TILE + 2
_DIRECTIONS = 27  # a tile and its neighbours, in C order
_MIDDLE = _DIRECTIONS // 2

# strides of the copies in a batch
_Z = LANES
_X = _SIDE * _Z
_Y = _SIDE * _X
_FIRST = _Y + _X + _Z
_LAST = _FIRST + (TILE - 1) * (_Y + _X + _Z)
_SIZE = _SIDE * _Y


class TileGrid(NamedTuple):
    """Where voxels and tiles lie, both in C order and with a layer outside the volume around them."""

    row: int
    """Addresses of a padded volume from one row of voxels to the next."""
    plane: int
    """Addresses from one plane to the next."""
    size: int
    """Addresses of a padded volume."""
    tile_row: int
    """Tiles from one row of tiles to the next."""
    tile_plane: int
    """Tiles from one plane to the next."""
    tiles: int
    """How many there are, with those outside the volume."""


class Batch(NamedTuple):
    """Sixteen visits, one per lane."""

    tiles: Int64Array
    """[lane]: the tile that it visits."""
    places: Int64Array
    """[lane]: the address in a padded volume of the first voxel of its tile's border."""
    image: Float32Array
    """Copies of the tiles' image, [address] for one channel, [channel,address] for several."""
    distances: Float32Array
    """Copies of the tiles' distances, [address]."""
    lowest: Float32Array
    """[direction,lane]: the smallest lowered distance that touches the neighbour there, in the middle of all."""


def make_grid(depth: int, height: int, width: int) -> TileGrid:
    """Return the tiles of a volume of this shape."""
    tiles_z, tiles_y, tiles_x = (-(-side // TILE) for side in (depth, height, width))
    row = tiles_x * TILE + 2
    plane = (tiles_y * TILE + 2) * row
    tile_row = tiles_x + 2
    tile_plane = (tiles_y + 2) * tile_row
    return TileGrid(row, plane, (tiles_z * TILE + 2) * plane, tile_row, tile_plane, (tiles_z + 2) * tile_plane)


def exact_distance(image: Float32Array, seeds: BoolArray, formula: Formula, steps: Steps, out: Float32Array) -> None:
    """Write the converged distances to `out`; the work takes a padded volume per channel and one for the distances.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    """
    grid = make_grid(*image.shape[1:])
    channels = len(image)
    ends = np.cumsum([channels * _SIZE, _SIZE, _DIRECTIONS * LANES, channels * grid.size, grid.size])
    copies_image, copies, lowest, images, distances = np.split(scratch(ends[-1]), ends[:-1])
    _enter_image(image, images.reshape(channels, grid.size), grid)
    batch = Batch(
        tiles=np.empty(LANES, np.int64),
        places=np.empty(LANES, np.int64),
        image=copies_image if channels == 1 else copies_image.reshape(channels, _SIZE),
        distances=copies,
        lowest=lowest.reshape(_DIRECTIONS, LANES),
    )
    # class after class: image and distances of one class may fit the processor's last cache, those of all do not
    for mask, distance in zip(seeds, out, strict=True):
        pending = _no_pending_values(grid)
        _enter_seeds(mask, distances, pending, grid)
        _solve(images, distances, pending, batch, formula, steps, grid)
        _copy_out(distances, distance, grid)


def _no_pending_values(grid: TileGrid) -> Float32Array:
    """Return [tile]: NOTHING_PENDING in the volume, OUTSIDE around it."""
    pending = np.full((grid.tiles // grid.tile_plane, grid.tile_plane // grid.tile_row, grid.tile_row), OUTSIDE)
    pending[1:-1, 1:-1, 1:-1] = NOTHING_PENDING
    return pending.ravel()


# ---- volumes with a border ----


@jit
def _enter_image(image: Any, images: Any, grid: TileGrid) -> None:
    """Copy image [channel,z,y,x] into padded volumes [channel,address] with NaN around."""
    images[:] = np.nan
    channels, depth, height, width = image.shape
    for channel in range(channels):
        for z in range(depth):
            for y in range(height):
                start = (z + 1) * grid.plane + (y + 1) * grid.row + 1
                images[channel, start : start + width] = image[channel, z, y]


@jit
def _enter_seeds(seeds: Any, distances: Any, pending: Any, grid: TileGrid) -> None:
    """Set the distance to zero on seeds, unreached elsewhere; make zero pending in tiles that hold or touch a seed."""
    distances[:] = UNREACHED
    depth, height, width = seeds.shape
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if seeds[z, y, x]:
                    distances[(z + 1) * grid.plane + (y + 1) * grid.row + x + 1] = 0
                    # the eight corners of the neighbourhood reach every tile that it reaches
                    for corner_z in (z - 1, z + 1):
                        for corner_y in (y - 1, y + 1):
                            for corner_x in (x - 1, x + 1):
                                tile = _tile_of(corner_z, corner_y, corner_x, grid)
                                pending[tile] = min(pending[tile], np.float32(0))


@jit
def _copy_out(distances: Any, out: Any, grid: TileGrid) -> None:
    """Copy a padded volume to out [z,y,x]."""
    depth, height, width = out.shape
    for z in range(depth):
        for y in range(height):
            start = (z + 1) * grid.plane + (y + 1) * grid.row + 1
            out[z, y] = distances[start : start + width]


@jit
def _tile_of(z: int, y: int, x: int, grid: TileGrid) -> int:
    """Return the number of the tile that holds a voxel; coordinates may be -1 or one too large."""
    return (z + TILE) // TILE * grid.tile_plane + (y + TILE) // TILE * grid.tile_row + (x + TILE) // TILE


@jit
def _place_of(tile: int, grid: TileGrid) -> int:
    """Return the address of the first voxel of a tile's border."""
    z, rest = divmod(tile, grid.tile_plane)
    y, x = divmod(rest, grid.tile_row)
    return ((z - 1) * grid.plane + (y - 1) * grid.row + x - 1) * TILE


# ---- rounds ----


@jit
def _solve(images: Any, distances: Any, pending: Any, batch: Batch, formula: Any, steps: Any, grid: TileGrid) -> None:
    """Visit tiles, round after round, until none has a pending value."""
    waiting = list(np.flatnonzero(pending == 0))
    while len(waiting) > 0:
        chosen, waiting = _choose(pending, waiting)
        for first in range(0, len(chosen), LANES):
            _fill(batch, pending, chosen, first, grid)
            _visit(images, distances, pending, waiting, batch, formula, steps, grid)


@jit
def _choose(pending: Any, waiting: Any) -> tuple[Any, Any]:
    """Share out the waiting tiles: those with the smallest pending values are for this round, in whole batches."""
    count = max(ROUND, len(waiting) // ROUND_SHARE)
    if len(waiting) <= count:
        limit = NOTHING_PENDING
    else:
        limit = np.partition(np.array([pending[tile] for tile in waiting]), count - 1)[count - 1]
    chosen = [tile for tile in waiting if pending[tile] <= limit]
    others = [tile for tile in waiting if pending[tile] > limit]
    while len(chosen) > LANES and len(chosen) % LANES > 0:
        others.append(chosen.pop())
    return chosen, others


@jit
def _fill(batch: Batch, pending: Any, chosen: Any, first: int, grid: TileGrid) -> None:
    """Begin visits of sixteen chosen tiles; if fewer are left the last fills several lanes, which do the same."""
    for lane in range(LANES):
        tile = chosen[min(first + lane, len(chosen) - 1)]
        batch.tiles[lane] = tile
        batch.places[lane] = _place_of(tile, grid)
        pending[tile] = NOTHING_PENDING


# ---- one batch ----


@jit
def _visit(
    images: Any, distances: Any, pending: Any, waiting: Any, batch: Batch, formula: Any, steps: Any, grid: TileGrid
) -> None:
    """Lower the distances in the batch's tiles; make them pending values, and let tiles wait that had none."""
    channels = images.size // grid.size
    _prefetch(distances, 0, batch, grid)
    for channel in range(channels):
        _prefetch(images, channel * grid.size, batch, grid)
    _copy_tiles(distances, 0, batch, batch.distances, 0, grid)
    for channel in range(channels):
        _copy_tiles(images, channel * grid.size, batch, batch.image, channel * _SIZE, grid)
    is_lowered, is_changing = 0, 0
    for sweep in range(SWEEPS_PER_VISIT):
        is_changing = _sweep(batch, formula, steps, 1 if sweep % 2 == 0 else -1)
        is_lowered |= is_changing
    if is_lowered != 0:
        _write_back(distances, batch, grid)
        for lane in range(LANES):
            if (is_lowered >> lane) & 1 == 1:
                _lower_pending(pending, waiting, batch, lane, (is_changing >> lane) & 1 == 1, grid)


@jit
def _prefetch(volume: Any, start: int, batch: Batch, grid: TileGrid) -> None:
    """Ask for all rows of all tiles before waiting for the first: they lie far apart in memory."""
    for lane in range(LANES):
        for z in range(_SIDE):
            for y in range(_SIDE):
                row = start + batch.places[lane] + z * grid.plane + y * grid.row
                prefetch(volume, row)
                prefetch(volume, row + _SIDE - 1)


@jit
def _copy_tiles(volume: Any, start: int, batch: Batch, copies: Any, copies_start: int, grid: TileGrid) -> None:
    """Copy the batch's tiles with their borders from the volume that begins at `start`."""
    for z in range(_SIDE):
        for y in range(_SIDE):
            row = start + z * grid.plane + y * grid.row
            here = copies_start + z * _Z + y * _Y
            for x in range(_SIDE):
                store(copies, here + x * _X, gather(volume, batch.places, row + x))


@jit
def _sweep(batch: Batch, formula: Any, steps: Any, sign: int) -> int:
    """Relax all voxels of all lanes once, forward (sign 1) or backward (sign -1); return the lanes that changed."""
    first = _FIRST if sign > 0 else _LAST
    changed = 0
    for y in range(TILE):
        for x in range(TILE):
            here = first + sign * (y * _Y + x * _X)
            for _ in range(TILE):
                changed |= relax(batch.image, batch.distances, formula, steps, here, sign * _X, sign * _Y, sign * _Z)
                here += sign * _Z
    return changed


@jit
def _write_back(distances: Any, batch: Batch, grid: TileGrid) -> None:
    """Write the distances to the volume, and in `lowest` where they were lowered and how far."""
    nothing = broadcast(NOTHING_PENDING)
    for direction in range(_DIRECTIONS):
        store(batch.lowest, direction * LANES, nothing)
    for z in range(TILE):
        for y in range(TILE):
            row = (z + 1) * grid.plane + (y + 1) * grid.row + 1
            here = _FIRST + z * _Z + y * _Y
            left, anywhere, right = nothing, nothing, nothing
            for x in range(TILE):
                new, old = load(batch.distances, here + x * _X), gather(distances, batch.places, row + x)
                if smaller_lanes(new, old) != 0:
                    scatter(distances, batch.places, row + x, new)
                    lowered = where_lesser(new, old, nothing)
                    anywhere = lesser(lowered, anywhere)
                    left = lowered if x == 0 else left
                    right = lowered if x == TILE - 1 else right
            for to_z in range(0 if z == 0 else 1, 3 if z == TILE - 1 else 2):
                for to_y in range(0 if y == 0 else 1, 3 if y == TILE - 1 else 2):
                    direction = (to_z * 3 + to_y) * 3
                    _lower(batch.lowest, direction * LANES, left)
                    _lower(batch.lowest, (direction + 1) * LANES, anywhere)
                    _lower(batch.lowest, (direction + 2) * LANES, right)


@jit
def _lower(values: Any, index: int, candidates: Any) -> None:
    """Lower sixteen values to the candidates where those are smaller."""
    store(values, index, lesser(candidates, load(values, index)))


@jit
def _lower_pending(pending: Any, waiting: Any, batch: Batch, lane: int, is_changing: bool, grid: TileGrid) -> None:
    """Lower the pending values of a lane's tile and its neighbours; those that had none wait from now on."""
    for direction in range(_DIRECTIONS):
        if direction == _MIDDLE and not is_changing:
            continue  # within the tile no step is left undone
        z, y, x = direction // 9 - 1, direction // 3 % 3 - 1, direction % 3 - 1
        tile = batch.tiles[lane] + z * grid.tile_plane + y * grid.tile_row + x
        value = batch.lowest[direction, lane]
        if value < pending[tile]:
            if pending[tile] == NOTHING_PENDING:
                waiting.append(tile)
            pending[tile] = value
