"""Converged distances: tiles of the volume, sixteen at a time, in the order in which distances grow.

The volume is cut into tiles of 8×8×8 voxels. A queue holds the tiles that have something new in or next to them,
the smallest new distance first, as in Dijkstra's algorithm. A tile is *visited*: copied with a border of one voxel,
swept in both directions until nothing changes, written back; neighbours that touch a lowered voxel are queued. When
the queue is empty no step lowers any distance.

Sixteen visits run side by side, one per vector lane:

    address of a local voxel = (y·10 + x)·10 + z, times 16, plus the lane        (0 and 9 are the border)

A sweep loads sixteen values of sixteen different tiles at once, so no lane waits for another, and a lane whose tile
is finished takes the next from the queue while the others go on.

The sweep ascends in y, then x, then z. Of the thirteen neighbours that `relax` looks at, nine have a smaller y, three
of the others a smaller x, the last a smaller z: all come earlier, so a forward sweep leaves no forward step undone. A
tile is finished when a sweep after its first changes nothing.

Every distance is the smallest of the sums of step costs along a path, added in the path's order. Additions round, but
never reverse an order, so that minimum does not depend on the order of visits: raster sweeps until nothing changes
end with the same bits.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.metric import Metric, Steps
from geols_precompute.geodesic.relax import UNREACHED, relax
from geols_precompute.geodesic.simd import LANES, prefetch

TILE = 8
SWEEPS_PER_VISIT = 4  # a tile not finished by then is queued again: its border may have changed meanwhile
NOTHING_NEW = UNREACHED
NO_TILE = np.float32(-1)  # smaller than any distance, so that it never enters the queue

# strides of the local copies
_PLANE = LANES
_COLUMN = (TILE + 2) * _PLANE
_ROW = (TILE + 2) * _COLUMN
_FIRST = _ROW + _COLUMN + _PLANE
_LAST = _FIRST + (TILE - 1) * (_ROW + _COLUMN + _PLANE)
_SIZE = (TILE + 2) * _ROW


class Grid(NamedTuple):
    """Tiles are numbered in C order, with one tile that does not exist around the grid."""

    row: int
    plane: int
    size: int


class Lanes(NamedTuple):
    """What the sixteen lanes hold: local copies, the tile of each lane (-1: none), what this visit has done so far."""

    images: NDArray[np.float32]
    distances: NDArray[np.float32]
    tiles: NDArray[np.int64]
    sweeps: NDArray[np.int64]
    lowered: NDArray[np.bool_]


class Agenda(NamedTuple):
    """Per tile: the smallest distance that is new in or next to it since its last visit began, and whether it runs."""

    news: NDArray[np.float32]
    running: NDArray[np.bool_]


def exact_distance(
    image: NDArray[np.float32], seeds: NDArray[np.bool_], metric: Metric, steps: Steps, out: NDArray[np.float32]
) -> None:
    """Write the converged distances to `out`, where all work takes place: beyond it little memory is needed.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    """
    counts = [-(-side // TILE) for side in image.shape[1:]]
    grid = Grid(counts[2] + 2, (counts[1] + 2) * (counts[2] + 2), (counts[0] + 2) * (counts[1] + 2) * (counts[2] + 2))
    images = np.full((len(image), _SIZE), np.nan, np.float32)
    lanes = Lanes(
        images,
        distances=np.full(_SIZE, UNREACHED),
        tiles=np.full(LANES, -1),
        sweeps=np.zeros(LANES, np.int64),
        lowered=np.zeros(LANES, np.bool_),
    )
    swept_image = images[0] if len(image) == 1 else images
    # class after class: image and distances of one class may fit the processor's last cache, those of all do not
    for mask, distance in zip(seeds, out, strict=True):
        news = np.full((counts[0] + 2, counts[1] + 2, counts[2] + 2), NO_TILE)
        news[1:-1, 1:-1, 1:-1] = NOTHING_NEW
        agenda = Agenda(news.ravel(), np.zeros(grid.size, np.bool_))
        _solve(image, mask, metric, steps, distance, swept_image, lanes, agenda, grid)


@jit
def _solve(
    image: Any,
    seeds: Any,
    metric: Any,
    steps: Any,
    distance: Any,
    swept_image: Any,
    lanes: Lanes,
    agenda: Agenda,
    grid: Grid,
) -> None:
    """Visit tiles until the queue is empty."""
    queue = [(np.float32(0), 0)]
    queue.clear()  # the entry was there for numba to see its type
    _enter_seeds(seeds, distance, queue, agenda, grid)
    lowest = np.empty((3, 3, 3), np.float32)
    sign = 1
    while _fill_lanes(image, distance, queue, lanes, agenda, grid):
        changed = _sweep(swept_image, lanes.distances, metric, steps, sign)
        for lane in range(LANES):
            tile = lanes.tiles[lane]
            lanes.sweeps[lane] += 1
            unfinished = (changed >> lane) & 1 == 1
            lanes.lowered[lane] |= unfinished
            if tile < 0 or lanes.sweeps[lane] < 2 or (unfinished and lanes.sweeps[lane] < SWEEPS_PER_VISIT):
                continue
            if lanes.lowered[lane]:
                _leave_tile(distance, lanes, lane, tile, grid, lowest)
                _announce_around(queue, agenda, grid, tile, lowest, unfinished)
            lanes.tiles[lane] = -1
            agenda.running[tile] = False
            if agenda.news[tile] < NOTHING_NEW:  # from this visit, or from neighbours meanwhile
                heapq.heappush(queue, (agenda.news[tile], tile))
        sign = -sign


@jit
def _enter_seeds(seeds: Any, distance: Any, queue: Any, agenda: Agenda, grid: Grid) -> None:
    """Set the distance to zero on seeds, unreached elsewhere; queue all tiles that hold or touch a seed."""
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
                                tile = _tile_at(corner_z, corner_y, corner_x, grid)
                                _announce(queue, agenda, tile, np.float32(0))


@jit
def _tile_at(z: int, y: int, x: int, grid: Grid) -> int:
    """Return the number of the tile that holds a voxel; coordinates may be -1 or one too large."""
    return (z + TILE) // TILE * grid.plane + (y + TILE) // TILE * grid.row + (x + TILE) // TILE


@jit
def _first_voxel(tile: int, grid: Grid) -> tuple[int, int, int]:
    """Return z, y, x of a tile's first voxel."""
    z, rest = divmod(tile, grid.plane)
    y, x = divmod(rest, grid.row)
    return (z - 1) * TILE, (y - 1) * TILE, (x - 1) * TILE


@jit
def _announce(queue: Any, agenda: Agenda, tile: int, value: Any) -> None:
    """Tell a tile that a distance in or next to it has become `value`."""
    if value < agenda.news[tile]:
        agenda.news[tile] = value
        if not agenda.running[tile]:  # else the end of its visit queues it
            heapq.heappush(queue, (value, tile))


@jit
def _fill_lanes(image: Any, distance: Any, queue: Any, lanes: Lanes, agenda: Agenda, grid: Grid) -> bool:
    """Give the next tiles of the queue to free lanes; return whether any lane has work."""
    working = False
    for lane in range(LANES):
        while lanes.tiles[lane] < 0 and len(queue) > 0:
            value, tile = heapq.heappop(queue)
            if agenda.running[tile] or value != agenda.news[tile]:
                continue  # an entry that a later and smaller one has replaced
            agenda.news[tile] = NOTHING_NEW
            agenda.running[tile] = True
            lanes.tiles[lane] = tile
            lanes.sweeps[lane] = 0
            lanes.lowered[lane] = False
            _enter_tile(image, distance, lanes, lane, tile, grid)
        working |= lanes.tiles[lane] >= 0
    return working


@jit
def _enter_tile(image: Any, distance: Any, lanes: Lanes, lane: int, tile: int, grid: Grid) -> None:
    """Copy a tile and its border into a lane; outside the volume the image is NaN, so that no step leads there."""
    first_z, first_y, first_x = _first_voxel(tile, grid)
    _copy_tile(distance, lanes.distances, lane, first_z, first_y, first_x, UNREACHED)
    for channel in range(len(image)):
        _copy_tile(image[channel], lanes.images[channel], lane, first_z, first_y, first_x, np.float32(np.nan))


@jit
def _copy_tile(volume: Any, local: Any, lane: int, first_z: int, first_y: int, first_x: int, outside: Any) -> None:
    """Copy the voxels of a tile and its border into a lane of `local`."""
    depth, height, width = volume.shape
    begin, end = max(0, first_x - 1), min(width, first_x + TILE + 1)
    for z in range(max(0, first_z - 1), min(depth, first_z + TILE + 1)):
        for y in range(max(0, first_y - 1), min(height, first_y + TILE + 1)):
            # ask for all rows before waiting for the first: they lie far apart in memory
            prefetch(volume, (z * height + y) * width + begin)
            prefetch(volume, (z * height + y) * width + end - 1)
    for z in range(first_z - 1, first_z + TILE + 1):
        for y in range(first_y - 1, first_y + TILE + 1):
            row = (z - first_z) * _PLANE + (y - first_y) * _ROW + _FIRST + lane
            is_inside = 0 <= z < depth and 0 <= y < height
            if not (is_inside and end - begin == TILE + 2):
                for x in range(-1, TILE + 1):
                    local[row + x * _COLUMN] = outside
            if is_inside:
                for x in range(begin, end):
                    local[row + (x - first_x) * _COLUMN] = volume[z, y, x]


@jit
def _sweep(image: Any, distances: Any, metric: Any, steps: Any, sign: int) -> int:
    """Relax all voxels of all lanes, forward (sign 1) or backward (sign -1); return the lanes that changed."""
    first = _FIRST if sign > 0 else _LAST
    changed = 0
    for y in range(TILE):
        for x in range(TILE):
            here = first + sign * (y * _ROW + x * _COLUMN)
            for _ in range(TILE):
                changed |= relax(image, distances, metric, steps, here, sign * _COLUMN, sign * _ROW, sign * _PLANE)
                here += sign * _PLANE
    return changed


@jit
def _leave_tile(distance: Any, lanes: Lanes, lane: int, tile: int, grid: Grid, lowest: Any) -> None:
    """Write lowered distances back.

    Fill `lowest` [3,3,3] with the smallest of them that touches the neighbour in each direction; the middle is the
    smallest of all.
    """
    depth, height, width = distance.shape
    first_z, first_y, first_x = _first_voxel(tile, grid)
    lowest[:] = NOTHING_NEW
    for z in range(min(TILE, depth - first_z)):
        for y in range(min(TILE, height - first_y)):
            row = z * _PLANE + y * _ROW + _FIRST + lane
            left, anywhere, right = NOTHING_NEW, NOTHING_NEW, NOTHING_NEW
            for x in range(min(TILE, width - first_x)):
                value = lanes.distances[row + x * _COLUMN]
                if value < distance[first_z + z, first_y + y, first_x + x]:
                    distance[first_z + z, first_y + y, first_x + x] = value
                    anywhere = min(anywhere, value)
                    left = value if x == 0 else left
                    right = value if x == TILE - 1 else right
            if anywhere < NOTHING_NEW:
                for to_z in range(0 if z == 0 else 1, 3 if z == TILE - 1 else 2):
                    for to_y in range(0 if y == 0 else 1, 3 if y == TILE - 1 else 2):
                        lowest[to_z, to_y, 0] = min(lowest[to_z, to_y, 0], left)
                        lowest[to_z, to_y, 1] = min(lowest[to_z, to_y, 1], anywhere)
                        lowest[to_z, to_y, 2] = min(lowest[to_z, to_y, 2], right)


@jit
def _announce_around(queue: Any, agenda: Agenda, grid: Grid, tile: int, lowest: Any, unfinished: bool) -> None:
    """Announce what a visit has lowered to the neighbours, and to the tile itself if its visit ends unfinished."""
    for z in range(3):
        for y in range(3):
            for x in range(3):
                other = tile + (z - 1) * grid.plane + (y - 1) * grid.row + x - 1
                if other != tile or unfinished:
                    _announce(queue, agenda, other, lowest[z, y, x])
