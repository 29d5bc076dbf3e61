"""What a step between neighbouring voxels costs: the two metrics of GeoLS on the 26-neighbourhood.

A formula is a small tuple of numbers. numba compiles a kernel for each *type* of argument, so the type of the tuple
selects what is computed, and every kernel is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload, register_jitable

from geols_precompute.geodesic.options import Metric
from geols_precompute.geodesic.simd import absolute, broadcast, load, square_root

EPSILON = np.float32(1e-5)  # the published code adds it to every intensity difference


class PureGradient(NamedTuple):
    """The published metric at λ = 1, without its division: ds·(‖Δx‖ + ε)."""

    epsilon: np.float32


class MixedGradient(NamedTuple):
    """The published metric at any λ: ds / ((1-λ) + λ/(‖Δx‖ + ε))."""

    epsilon: np.float32
    lam: np.float32
    one_minus_lam: np.float32


class Riemannian(NamedTuple):
    """Equation 4 of GeoLS on the graph: sqrt(ds² + γ²·‖Δx‖²)."""

    gamma_squared: np.float32


Formula = PureGradient | MixedGradient | Riemannian


class Steps(NamedTuple):
    """One number for each kind of step, named by the axes along which it moves: ds in mm, or ds² for `Riemannian`."""

    x: np.float32
    y: np.float32
    z: np.float32
    xy: np.float32
    xz: np.float32
    yz: np.float32
    xyz: np.float32


def make_formula(metric: Metric, lam: float, gamma: float) -> Formula:
    """Return checked options as the tuple that the kernels know."""
    if metric == "riemannian":
        return Riemannian(np.float32(gamma * gamma))
    if lam == 1:
        return PureGradient(EPSILON)
    return MixedGradient(EPSILON, np.float32(lam), np.float32(1 - lam))


def make_steps(formula: Formula, spacing: Sequence[float]) -> Steps:
    """Step lengths for a voxel spacing (z, y, x) in mm, in the form that the formula takes."""
    z, y, x = (float(side) ** 2 for side in spacing)
    squares = x, y, z, x + y, x + z, y + z, x + y + z
    if isinstance(formula, Riemannian):
        return Steps(*map(np.float32, squares))
    return Steps(*(np.float32(math.sqrt(square)) for square in squares))


@register_jitable  # type: ignore[untyped-decorator]
def _difference(image: Any, p: int, q: int) -> Any:
    """|Δx| of one channel."""
    return absolute(load(image, p) - load(image, q))


@register_jitable  # type: ignore[untyped-decorator]
def _squared_difference(image: Any, p: int, q: int) -> Any:
    """Δx² of one channel."""
    difference = load(image, p) - load(image, q)
    return difference * difference


@register_jitable  # type: ignore[untyped-decorator]
def _squared_norm(image: Any, p: int, q: int) -> Any:
    """‖Δx‖² over the channels of image [channel, address]."""
    total = broadcast(np.float32(0))
    for channel in range(image.shape[0]):
        start = channel * image.shape[1]
        difference = load(image, start + p) - load(image, start + q)
        total = total + difference * difference
    return total


@register_jitable  # type: ignore[untyped-decorator]
def _norm(image: Any, p: int, q: int) -> Any:
    """‖Δx‖ over the channels of image [channel, address]."""
    return square_root(_squared_norm(image, p, q))


def step_cost(formula: Any, image: Any, p: int, q: int, step: Any) -> Any:
    """Cost of the steps q → p of sixteen voxels and their neighbours; only for compiled code.

    `image` holds one channel as a flat array, or several as [channel, address]; `p` and `q` are addresses, `step` is
    one number of `Steps` in all lanes. NaN in either voxel gives NaN: a step that is never taken.
    """
    raise NotImplementedError


@overload(step_cost)  # type: ignore[untyped-decorator]
def _step_cost(formula: Any, image: Any, p: Any, q: Any, step: Any) -> Callable[..., Any]:
    one_channel = image.ndim == 1
    difference = _difference if one_channel else _norm
    squared_difference = _squared_difference if one_channel else _squared_norm

    def pure_gradient(formula: Any, image: Any, p: Any, q: Any, step: Any) -> Any:
        return step * (difference(image, p, q) + broadcast(formula.epsilon))

    def mixed_gradient(formula: Any, image: Any, p: Any, q: Any, step: Any) -> Any:
        raised = difference(image, p, q) + broadcast(formula.epsilon)
        return step * raised / (broadcast(formula.one_minus_lam) * raised + broadcast(formula.lam))

    def riemannian(formula: Any, image: Any, p: Any, q: Any, step: Any) -> Any:
        return square_root(step + broadcast(formula.gamma_squared) * squared_difference(image, p, q))

    formulas = {PureGradient: pure_gradient, MixedGradient: mixed_gradient, Riemannian: riemannian}
    return formulas[formula.instance_class]
