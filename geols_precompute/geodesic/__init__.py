"""Geodesic distance transforms of labelled volumes.

`geodesic_distance` is the one public function; the engines behind it are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geols_precompute.geodesic.options import Engine, Iterations, Metric, check_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geols_precompute.arrays import BoolArray, Float32Array

__all__ = ["compile_kernels", "geodesic_distance"]


def geodesic_distance(
    image: Float32Array,
    seeds: BoolArray,
    spacing: Sequence[float],
    *,
    metric: Metric = "gradient",
    lam: float = 1.0,
    gamma: float = 1.0,
    iterations: Iterations = 4,
    engine: Engine = "numba",
    out: Float32Array | None = None,
) -> Float32Array:
    """Distance of every voxel to the nearest seed of each class, along the cheapest path through the image.

    A path moves between neighbours of the 26-neighbourhood. A step p → q of length ds mm costs, with
    ‖Δx‖ = ‖x_p - x_q‖₂ over the channels,

    - ``gradient``: ds / ((1-λ) + λ/(‖Δx‖ + 1e-5)), as in the code published with GeoLS;
    - ``riemannian``: sqrt(ds² + γ²·‖Δx‖²), equation 4 of GeoLS.

    Args:
        image: [z,y,x] or [modality,z,y,x], float32, any memory order, finite and within
            ±1e12. Several modalities give one joint distance.
        seeds: [class,z,y,x], bool; every class has at least one seed.
        spacing: voxel size (z,y,x) in mm.
        metric: the cost of a step, see above.
        lam: λ of the gradient metric, from 0 (Euclidean) to 1 (intensity only).
        gamma: γ of the Riemannian metric, from 0 (Euclidean) to 1e6.
        iterations: forward and backward raster scans at most, 1 to 1,000,000 (they stop early once nothing changes), or
            ``"exact"`` for the converged distances.
        engine: ``numba``, or ``geodistk`` for the paper's engine (gradient metric and a count of iterations only).
        out: C-contiguous float32 [class,z,y,x] to write to, so that a caller can keep its memory.

    Returns:
        Distances float32 [class,z,y,x], zero exactly on the seeds (`out` if it was given).

    Raises:
        InputError: if an argument is not as above; nothing compiled has run by then.
        MissingExtraError: if ``engine="geodistk"`` and GeodisTK is not installed.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((3, 4, 5), np.float32)
        >>> seeds = np.zeros((1, 3, 4, 5), bool)
        >>> seeds[0, 1, 2, 0] = True
        >>> float(geodesic_distance(image, seeds, (2.5, 2.0, 2.0), lam=0.0)[0, 1, 2, 4])
        8.0
    """
    from geols_precompute.geodesic import checks

    check_options(metric=metric, lam=lam, gamma=gamma, iterations=iterations, engine=engine)
    spacing_mm = checks.checked_spacing(spacing)
    channels = checks.checked_image(image)
    masks = checks.checked_seeds(seeds, channels.shape[1:])
    distances = checks.checked_out(out, masks.shape, channels)
    if engine == "geodistk":
        from geols_precompute.geodesic.geodistk import geodistk_distance

        assert iterations != "exact"
        geodistk_distance(channels, masks, spacing_mm, float(lam), int(iterations), distances)
        return distances
    from geols_precompute.geodesic.metric import make_formula, make_steps

    formula = make_formula(metric, float(lam), float(gamma))
    steps = make_steps(formula, spacing_mm)
    if iterations == "exact":
        from geols_precompute.geodesic.exact import exact_distance

        exact_distance(channels, masks, formula, steps, distances)
    else:
        from geols_precompute.geodesic.raster import raster_distance

        raster_distance(channels, masks, formula, steps, int(iterations), distances)
    return distances


def compile_kernels(
    *,
    metric: Metric = "gradient",
    lam: float = 1.0,
    iterations: Iterations = 4,
    joint: bool = False,
    engine: Engine = "numba",
) -> None:
    """Compile what these options need, once, into the cache on disk, before workers start.

    Workers then load machine code instead of each compiling the same kernels. `joint` says that the image will have
    several modalities. With ``engine="geodistk"`` this checks that GeodisTK is installed.

    Raises:
        InputError, MissingExtraError: as `geodesic_distance` does.
    """
    import numpy as np

    image = np.zeros((2 if joint else 1, 1, 1, 1), np.float32)
    seeds = np.ones((1, 1, 1, 1), bool)
    geodesic_distance(image, seeds, (1.0, 1.0, 1.0), metric=metric, lam=lam, iterations=iterations, engine=engine)
