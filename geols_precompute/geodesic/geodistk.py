"""GeodisTK 0.1.7, the paper's engine, as one of our engines: the gradient metric by raster scan.

The package itself accepts mismatched shapes, reads out of bounds on a wrong rank, holds the GIL while it works and
keeps its spacing argument alive for ever. Everything it is given here has been checked and converted first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array
from geols_precompute.errors import MissingExtraError


def import_raster_scan() -> Callable[..., Any]:
    """Import GeodisTK's function.

    Raises:
        MissingExtraError: if GeodisTK is not installed.
    """
    try:
        from GeodisTK import geodesic3d_raster_scan
    except ImportError:
        raise MissingExtraError("GeodisTK", "geodistk") from None
    return geodesic3d_raster_scan


@functools.cache
def _spacing_list(spacing: tuple[float, ...]) -> list[float]:
    """Return the same list for the same spacing: GeodisTK never frees the one that it is given."""
    return list(spacing)


def geodistk_distance(
    image: Float32Array,
    seeds: BoolArray,
    spacing: Sequence[float],
    lam: float,
    iterations: int,
    out: Float32Array,
) -> None:
    """Write GeodisTK's distances to `out`.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    """
    scan = import_raster_scan()
    volume = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
    for mask, distance in zip(seeds.view(np.uint8), out, strict=True):
        distance[...] = scan(volume, mask, _spacing_list(tuple(spacing)), lam, iterations)
