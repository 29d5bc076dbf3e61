"""Maps: geodesic distances to g in [0, 1] (decay, min-max), and g to the uint8 that a store keeps.

Written as loops that numba compiles, in a fixed order and with an exponential of our own, so that the same distances
give the same bytes on every processor and with every version of the mathematics library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from geols_precompute.arrays import Float32Array, Float64Array, UInt8Array
from geols_precompute.geodesic.jit import jit

Decay = float | Literal["mean"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
_IN_TURN = 16


@dataclass(frozen=True, kw_only=True)
class DistanceStatistics:
    """Mean, smallest and largest geodesic distance of one class over a volume (and over averaged modalities)."""

    mean: float
    low: float
    high: float


def make_maps(distances_KZYX: Float32Array, decay: Decay) -> list[DistanceStatistics]:
    """Turn the distances of K classes into their maps g, in place, and return the statistics of the distances.

    g = exp(-D / mean(D)), or exp(-k·D) for a number k per mm (GeoLS eq. 5), then (g - min) / (max - min), over the
    whole volume. Where that is flat (D equal everywhere), g is 1 where D = 0 and 0 elsewhere: never NaN.

    Args:
        distances_KZYX: float32, C-contiguous, finite, not negative.
        decay: "mean", or k.
    """
    distances_KV = distances_KZYX.reshape(len(distances_KZYX), -1)
    found = [
        DistanceStatistics(mean=total / distances.size, low=float(distances.min()), high=float(distances.max()))
        for total, distances in zip(_sums(distances_KV), distances_KV, strict=True)
    ]
    for distances, statistics in zip(distances_KV, found, strict=True):
        _make_map(distances, decay, statistics)
    return found


def _make_map(distances: Float32Array, decay: Decay, statistics: DistanceStatistics) -> None:
    mean, low, high = statistics.mean, statistics.low, statistics.high
    # a mean below 3e-39 mm has no reciprocal in float32, and 0 · ∞ would be NaN
    rate = np.float32(decay if decay != "mean" else min(1 / mean, FLOAT32_MAX) if mean > 0 else 0)
    g_high, g_low = _exp_of_negative(np.float32(low), rate), _exp_of_negative(np.float32(high), rate)
    if g_high > g_low:
        _decay(distances, rate, np.float32(g_low), np.float32(1 / (g_high - g_low)))
    else:
        np.equal(distances, 0, out=distances)


def quantise(sum_ZYX: Float32Array, count: int, stored_ZYX: UInt8Array) -> None:
    """Write the mean of `count` added maps to `stored_ZYX` as round-half-even(255·g), uint8."""
    _quantise(sum_ZYX.reshape(-1), np.float32(count), stored_ZYX.reshape(-1))


def compile_kernels() -> None:
    """Compile every kernel of this module into numba's cache on disk, before workers start."""
    distances = np.array([[[[0, 1]]]], np.float32)
    make_maps(distances, "mean")
    quantise(distances[0], 1, np.empty((1, 1, 2), np.uint8))


@jit
def _sums(values_KV: Float32Array) -> Float64Array:
    """Sum each row in float64, one value after another: the sum's last bits are part of the format.

    An addition waits for the one before it, so that a few of each row in turn take little longer than one row.
    """
    sums = np.zeros(len(values_KV))
    rows, size = values_KV.shape
    whole = size - size % _IN_TURN
    for start in range(0, whole, _IN_TURN):
        for row in range(rows):
            total = sums[row]
            for i in range(start, start + _IN_TURN):
                total += values_KV[row, i]
            sums[row] = total
    for row in range(rows):
        for i in range(whole, size):
            sums[row] += values_KV[row, i]
    return sums


@jit
def _exp_of_negative(distance: np.float32, rate: np.float32) -> np.float32:
    """exp(-distance·rate) to 1.2e-7 relative, by additions and multiplications only.

    exp(x) = 2^n·exp(r) with n = round(x / ln 2); exp(r) by the degree-6 polynomial of the Cephes library's expf, ln 2
    split in two so that r is exact enough, and 2^n put together as bits.
    """
    x = -distance * rate
    x = x if x > np.float32(-87) else np.float32(-87)
    n = np.rint(x * np.float32(1.44269504))
    r = (x - n * np.float32(0.693359375)) - n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    exp_r = p * (r * r) + r + np.float32(1)
    power_of_two = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return exp_r * power_of_two


@jit
def _decay(values: Float32Array, rate: np.float32, g_low: np.float32, scale: np.float32) -> None:
    # one array: of two that might be the same memory, which is only seen at run time, no vectors are made
    one, zero = np.float32(1), np.float32(0)
    for i in range(values.size):
        g = (_exp_of_negative(values[i], rate) - g_low) * scale
        # rounding may leave [0, 1] by a bit
        g = g if g < one else one
        values[i] = g if g > zero else zero


@jit
def _quantise(total: Float32Array, count: np.float32, stored: UInt8Array) -> None:
    for i in range(total.size):
        stored[i] = np.uint8(np.rint(total[i] / count * np.float32(255)))
