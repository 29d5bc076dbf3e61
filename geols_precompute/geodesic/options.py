"""The options of the distance transform: their names, their limits, and the check that refuses all else.

Only the standard library is imported, so that a recipe or a command line can be checked without numba.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal, TypeGuard, get_args

from geols_precompute.errors import InputError

Metric = Literal["gradient", "riemannian"]
Engine = Literal["numba", "geodistk"]
Iterations = int | Literal["exact"]

METRICS: tuple[Metric, ...] = get_args(Metric)
ENGINES: tuple[Engine, ...] = get_args(Engine)
#: Raised whenever an engine's results change by a bit, so that maps of two algorithms never share a recipe_id.
ENGINE_VERSIONS: dict[Engine, int] = {"numba": 1, "geodistk": 1}

#: With intensities up to 1e12, squares of γ times a difference and their sums along a path stay inside float32.
MAX_GAMMA = 1e6
MAX_ITERATIONS = 1_000_000


def check_options(*, metric: object, lam: object, gamma: object, iterations: object, engine: object) -> None:
    """Refuse unknown names, numbers out of range, and what an engine cannot do.

    Raises:
        InputError: an option is not one of METRICS, ENGINES, 0 ≤ λ ≤ 1, 0 ≤ γ ≤ MAX_GAMMA, 1 to MAX_ITERATIONS or
            "exact"; or the engine geodistk is asked for another metric than gradient, or for exact distances.
    """
    _check_name("metric", metric, METRICS)
    _check_name("engine", engine, ENGINES)
    if not (is_finite_number(lam) and 0 <= lam <= 1):
        raise InputError(f"lam must be in [0, 1], got {lam!r}")
    if not (is_finite_number(gamma) and 0 <= gamma <= MAX_GAMMA):
        raise InputError(f"gamma must be a number from 0 to {MAX_GAMMA:g}, got {gamma!r}")
    is_exact = isinstance(iterations, str) and iterations == "exact"
    if not is_exact and not (_is_count(iterations) and iterations <= MAX_ITERATIONS):
        raise InputError(f'iterations must be a count from 1 to {MAX_ITERATIONS}, or "exact", got {iterations!r}')
    if engine == "geodistk" and (metric != "gradient" or is_exact):
        raise InputError("engine geodistk computes the gradient metric with a count of iterations only; use numba")


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a real number, Python's or NumPy's, neither NaN nor infinite; True and False are none."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and -math.inf < value < math.inf


def _is_count(value: Any) -> TypeGuard[int]:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) >= 1


def _check_name(option: str, name: object, allowed: tuple[str, ...]) -> None:
    if not (isinstance(name, str) and name in allowed):
        raise InputError(f"{option} must be one of {', '.join(allowed)}, got {name!r}")
