"""Exact distances: Dijkstra's algorithm on tiles of voxels, sixteen tiles at a time.

The idea
--------
The volume is cut into tiles of 8×8×8 voxels. A tile's *pending value* is the smallest distance that has been lowered
in it or next to it since its last visit began. A queue holds the tiles that have a pending value, the smallest first,
as Dijkstra's algorithm does with voxels. A *visit* copies a tile with a border of one voxel, sweeps over the copy in
both directions until nothing changes, and writes the lowered distances back; each becomes a pending value of the
neighbours that it touches. When the queue is empty no step lowers any distance.

The batch
---------
Sixteen visits run side by side, one per lane of a vector. A voxel of a copy lies at

    address = ((y·10 + x)·10 + z)·16 + lane        with y, x, z from 0 to 9, where 0 and 9 are the border

so sixteen consecutive addresses hold the same voxel of sixteen tiles, and none waits for another. A lane whose visit
has ended takes the next tile from the queue while the other lanes go on.

A forward sweep ascends in y, then x, then z. Of the thirteen neighbours that `relax` looks at, nine have a smaller y,
three of the others a smaller x, the last a smaller z: all come earlier, so the sweep leaves no forward step undone. A
visit ends when a sweep after its first changes nothing, or after four sweeps.

Why the order does not matter
-----------------------------
Every distance is the smallest of the sums of step costs along a path, added in the path's order. Additions round, but
never reverse an order, so that minimum does not depend on the order of visits: raster sweeps until nothing changes
end with the same bits.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array, Int64Array
from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.metric import Formula, Steps
from geols_precompute.geodesic.relax import UNREACHED, relax
from geols_precompute.geodesic.simd import LANES, prefetch

TILE = 8
SWEEPS_PER_VISIT = 4  # a tile not finished by then is queued again: its border may have changed meanwhile
NO_TILE = -1
NOTHING_PENDING = UNREACHED
OUTSIDE = np.float32(-1)  # pending value of tiles outside the volume: no distance is smaller, so they are never queued

# strides of the copies in a batch
_Z = LANES
_X = (TILE + 2) * _Z
_Y = (TILE + 2) * _X
_FIRST = _Y + _X + _Z
_LAST = _FIRST + (TILE - 1) * (_Y + _X + _Z)
_SIZE = (TILE + 2) * _Y


class TileGrid(NamedTuple):
    """How tiles are numbered: in C order, with one layer of tiles outside the volume around it."""

    row: int
    """Tiles from one row to the next."""
    plane: int
    """Tiles from one plane to the next."""


class Queue(NamedTuple):
    """The tiles to visit."""

    heap: list[tuple[np.float32, int]]
    """Entries (pending value, tile); an entry is outdated once its tile's pending value is another."""
    pending: Float32Array
    """[tile]: its pending value, or NOTHING_PENDING, or OUTSIDE."""
    in_batch: BoolArray
    """[tile]: whether it is being visited, and so has no entry in the heap."""


class Batch(NamedTuple):
    """Sixteen visits, one per lane."""

    image: Float32Array
    """Copies of the tiles' image, [address] for one channel, [channel,address] for several."""
    distances: Float32Array
    """Copies of the tiles' distances, [address]."""
    tiles: Int64Array
    """[lane]: the tile that it visits, or NO_TILE."""
    sweeps: Int64Array
    """[lane]: sweeps of this visit."""
    is_changing: BoolArray
    """[lane]: whether the last sweep lowered a distance."""
    is_lowered: BoolArray
    """[lane]: whether any sweep of this visit did."""


def exact_distance(image: Float32Array, seeds: BoolArray, formula: Formula, steps: Steps, out: Float32Array) -> None:
    """Write the converged distances to `out`, where all work takes place: beyond it little memory is needed.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    """
    tiles_z, tiles_y, tiles_x = (-(-side // TILE) for side in image.shape[1:])
    grid = TileGrid(row=tiles_x + 2, plane=(tiles_y + 2) * (tiles_x + 2))
    batch = Batch(
        image=np.full(_SIZE if len(image) == 1 else (len(image), _SIZE), np.nan, np.float32),
        distances=np.full(_SIZE, UNREACHED),
        tiles=np.full(LANES, NO_TILE, np.int64),
        sweeps=np.zeros(LANES, np.int64),
        is_changing=np.zeros(LANES, np.bool_),
        is_lowered=np.zeros(LANES, np.bool_),
    )
    # class after class: image and distances of one class may fit the processor's last cache, those of all do not
    for mask, distance in zip(seeds, out, strict=True):
        pending = np.full((tiles_z + 2, tiles_y + 2, tiles_x + 2), OUTSIDE)
        pending[1:-1, 1:-1, 1:-1] = NOTHING_PENDING
        _solve(image, mask, formula, steps, distance, batch, pending.ravel(), grid)


@jit
def _solve(
    image: Any, seeds: Any, formula: Any, steps: Any, distance: Any, batch: Batch, pending: Any, grid: TileGrid
) -> None:
    """Write one class's distances: visit tiles until the queue is empty."""
    _enter_seeds(seeds, distance, pending, grid)
    queue = _make_queue(pending)
    sign = 1
    while _fill_batch(image, distance, batch, queue, grid):
        _sweep(batch, formula, steps, sign)
        for lane in range(LANES):
            if _visit_ends(batch, lane):
                _end_visit(distance, batch, lane, queue, grid)
        sign = -sign


# ---- the queue ----


@jit
def _enter_seeds(seeds: Any, distance: Any, pending: Any, grid: TileGrid) -> None:
    """Set the distance to zero on seeds, unreached elsewhere; make zero pending in tiles that hold or touch a seed."""
    depth, height, width = seeds.shape
    distance[:] = UNREACHED
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if seeds[z, y, x]:
                    distance[z, y, x] = 0
                    # the eight corners of the neighbourhood reach every tile that it reaches
                    for corner_z in (z - 1, z + 1):
                        for corner_y in (y - 1, y + 1):
                            for corner_x in (x - 1, x + 1):
                                tile = _tile_of(corner_z, corner_y, corner_x, grid)
                                pending[tile] = min(pending[tile], np.float32(0))


@jit
def _make_queue(pending: Any) -> Queue:
    """Return the queue of the tiles in which zero is pending."""
    heap = [(pending[tile], int(tile)) for tile in np.flatnonzero(pending == 0)]  # equal values in order are a heap
    return Queue(heap, pending, np.zeros(pending.size, np.bool_))


@jit
def _lower_pending(queue: Queue, tile: int, lowest: Any, grid: TileGrid) -> None:
    """Lower the pending values of a tile and its neighbours to `lowest` [3,3,3] where that is smaller."""
    for z in range(3):
        for y in range(3):
            for x in range(3):
                value, neighbour = lowest[z, y, x], tile + (z - 1) * grid.plane + (y - 1) * grid.row + x - 1
                if value < queue.pending[neighbour]:
                    queue.pending[neighbour] = value
                    if not queue.in_batch[neighbour]:  # else the end of its visit queues it
                        heapq.heappush(queue.heap, (value, neighbour))


@jit
def _next_tile(queue: Queue) -> int:
    """Take the tile with the smallest pending value, for a visit that begins now; NO_TILE if the queue is empty."""
    while len(queue.heap) > 0:
        value, tile = heapq.heappop(queue.heap)
        is_outdated = queue.in_batch[tile] or value != queue.pending[tile]
        if not is_outdated:
            queue.pending[tile] = NOTHING_PENDING
            queue.in_batch[tile] = True
            return tile
    return NO_TILE


@jit
def _return_tile(queue: Queue, tile: int) -> None:
    """Take a tile back from the batch; queue it again if it has got a pending value meanwhile."""
    queue.in_batch[tile] = False
    if queue.pending[tile] < NOTHING_PENDING:
        heapq.heappush(queue.heap, (queue.pending[tile], tile))


# ---- the batch ----


@jit
def _fill_batch(image: Any, distance: Any, batch: Batch, queue: Queue, grid: TileGrid) -> bool:
    """Begin visits of the next tiles in all free lanes; return whether any lane has a tile."""
    has_work = False
    for lane in range(LANES):
        if batch.tiles[lane] == NO_TILE:
            tile = _next_tile(queue)
            if tile != NO_TILE:
                _begin_visit(image, distance, batch, lane, tile, grid)
        has_work |= batch.tiles[lane] != NO_TILE
    return has_work


@jit
def _begin_visit(image: Any, distance: Any, batch: Batch, lane: int, tile: int, grid: TileGrid) -> None:
    """Copy a tile and its border into a lane; outside the volume the image is NaN, so that no step leads there."""
    batch.tiles[lane] = tile
    batch.sweeps[lane] = 0
    batch.is_lowered[lane] = False
    first_z, first_y, first_x = _first_voxel(tile, grid)
    _copy_tile(distance, batch.distances, lane, first_z, first_y, first_x, UNREACHED)
    copies = batch.image.reshape(len(image), _SIZE)
    for channel in range(len(image)):
        _copy_tile(image[channel], copies[channel], lane, first_z, first_y, first_x, np.float32(np.nan))


@jit
def _sweep(batch: Batch, formula: Any, steps: Any, sign: int) -> None:
    """Relax all voxels of all lanes once, forward (sign 1) or backward (sign -1)."""
    first = _FIRST if sign > 0 else _LAST
    image, distances = batch.image, batch.distances
    changed = 0
    for y in range(TILE):
        for x in range(TILE):
            here = first + sign * (y * _Y + x * _X)
            for _ in range(TILE):
                changed |= relax(image, distances, formula, steps, here, sign * _X, sign * _Y, sign * _Z)
                here += sign * _Z
    for lane in range(LANES):
        batch.sweeps[lane] += 1
        batch.is_changing[lane] = (changed >> lane) & 1 == 1
        batch.is_lowered[lane] |= batch.is_changing[lane]


@jit
def _visit_ends(batch: Batch, lane: int) -> bool:
    """Whether a lane's tile has been swept in both directions, and until nothing changed or often enough."""
    if batch.tiles[lane] == NO_TILE or batch.sweeps[lane] < 2:
        return False
    return not batch.is_changing[lane] or batch.sweeps[lane] == SWEEPS_PER_VISIT


@jit
def _end_visit(distance: Any, batch: Batch, lane: int, queue: Queue, grid: TileGrid) -> None:
    """Write lowered distances back, queue the tiles that they may lower further, and free the lane."""
    tile = batch.tiles[lane]
    if batch.is_lowered[lane]:
        lowest = _write_back(distance, batch, lane, grid)
        if not batch.is_changing[lane]:
            lowest[1, 1, 1] = NOTHING_PENDING  # within the tile no step is left undone
        _lower_pending(queue, tile, lowest, grid)
    batch.tiles[lane] = NO_TILE
    _return_tile(queue, tile)


# ---- tiles in the volume ----


@jit
def _tile_of(z: int, y: int, x: int, grid: TileGrid) -> int:
    """Return the number of the tile that holds a voxel; coordinates may be -1 or one too large."""
    return (z + TILE) // TILE * grid.plane + (y + TILE) // TILE * grid.row + (x + TILE) // TILE


@jit
def _first_voxel(tile: int, grid: TileGrid) -> tuple[int, int, int]:
    """Return z, y, x of a tile's first voxel."""
    z, rest = divmod(tile, grid.plane)
    y, x = divmod(rest, grid.row)
    return (z - 1) * TILE, (y - 1) * TILE, (x - 1) * TILE


@jit
def _copy_tile(volume: Any, copies: Any, lane: int, first_z: int, first_y: int, first_x: int, outside: Any) -> None:
    """Copy the voxels of a tile and its border from volume [z,y,x] into a lane of `copies` [address]."""
    depth, height, width = volume.shape
    begin, end = max(0, first_x - 1), min(width, first_x + TILE + 1)
    for z in range(max(0, first_z - 1), min(depth, first_z + TILE + 1)):
        for y in range(max(0, first_y - 1), min(height, first_y + TILE + 1)):
            # ask for all rows before waiting for the first: they lie far apart in memory
            prefetch(volume, (z * height + y) * width + begin)
            prefetch(volume, (z * height + y) * width + end - 1)
    for z in range(first_z - 1, first_z + TILE + 1):
        for y in range(first_y - 1, first_y + TILE + 1):
            row = (z - first_z) * _Z + (y - first_y) * _Y + _FIRST + lane
            is_inside = 0 <= z < depth and 0 <= y < height
            if not (is_inside and end - begin == TILE + 2):
                for x in range(-1, TILE + 1):
                    copies[row + x * _X] = outside
            if is_inside:
                for x in range(begin, end):
                    copies[row + (x - first_x) * _X] = volume[z, y, x]


@jit
def _write_back(distance: Any, batch: Batch, lane: int, grid: TileGrid) -> Any:
    """Write a lane's lowered distances to the volume.

    Return [3,3,3]: the smallest of them that touches the neighbour in each direction, in the middle the smallest of
    all; NOTHING_PENDING where there is none.
    """
    depth, height, width = distance.shape
    first_z, first_y, first_x = _first_voxel(batch.tiles[lane], grid)
    lowest = np.full((3, 3, 3), NOTHING_PENDING)
    for z in range(min(TILE, depth - first_z)):
        for y in range(min(TILE, height - first_y)):
            row = z * _Z + y * _Y + _FIRST + lane
            left, anywhere, right = NOTHING_PENDING, NOTHING_PENDING, NOTHING_PENDING
            for x in range(min(TILE, width - first_x)):
                value = batch.distances[row + x * _X]
                if value < distance[first_z + z, first_y + y, first_x + x]:
                    distance[first_z + z, first_y + y, first_x + x] = value
                    anywhere = min(anywhere, value)
                    left = value if x == 0 else left
                    right = value if x == TILE - 1 else right
            if anywhere < NOTHING_PENDING:
                for to_z in range(0 if z == 0 else 1, 3 if z == TILE - 1 else 2):
                    for to_y in range(0 if y == 0 else 1, 3 if y == TILE - 1 else 2):
                        lowest[to_z, to_y, 0] = min(lowest[to_z, to_y, 0], left)
                        lowest[to_z, to_y, 1] = min(lowest[to_z, to_y, 1], anywhere)
                        lowest[to_z, to_y, 2] = min(lowest[to_z, to_y, 2], right)
    return lowest
