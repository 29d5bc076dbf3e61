"""GeodisTK 0.1.7, the paper's engine, behind checks: the gradient metric by raster scan.

The package itself accepts mismatched shapes, reads out of bounds on a wrong rank, holds the GIL while it works and
keeps its spacing argument alive for ever. Everything it is given here has been checked and converted first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geols_precompute.errors import MissingExtraError


def raster_scan() -> Callable[..., Any]:
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
def _leaked_once(spacing: tuple[float, ...]) -> list[float]:
    """Return always the same list for a spacing: GeodisTK never frees the list of a call."""
    return list(spacing)


def geodistk_distance(
    image: NDArray[np.float32],
    seeds: NDArray[np.bool_],
    spacing: Sequence[float],
    lam: float,
    iterations: int,
    out: NDArray[np.float32],
) -> None:
    """Write GeodisTK's distances to `out`.

    `image` is [channel,z,y,x], `seeds` and `out` are [class,z,y,x], all C-contiguous and checked by the caller.
    """
    scan = raster_scan()
    volume = image[0] if len(image) == 1 else np.ascontiguousarray(np.moveaxis(image, 0, -1))
    for mask, distance in zip(seeds.view(np.uint8), out, strict=True):
        distance[...] = scan(volume, mask, _leaked_once(tuple(spacing)), lam, iterations)
