"""Vectors of sixteen values: reading and writing that lies apart."""

from __future__ import annotations

import numpy as np

from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.simd import gather, load, scatter, store


@jit
def _gather(array, places, shift, out):
    store(out, 0, gather(array, places, shift))


@jit
def _scatter(values, places, shift, out):
    scatter(out, places, shift, load(values, 0))


def test_gather_reads_the_places_of_an_array_of_any_rank():
    array = np.random.default_rng(0).random((7, 50)).astype(np.float32)
    places = np.random.default_rng(1).integers(0, 340, 16)
    out = np.empty(16, np.float32)
    _gather(array, places, 9, out)
    np.testing.assert_array_equal(out, array.ravel()[places + 9])


def test_scatter_writes_the_places_and_nothing_else():
    values = np.arange(1, 17, dtype=np.float32)
    places = np.random.default_rng(1).permutation(300)[:16]
    out, expected = np.zeros(310, np.float32), np.zeros(310, np.float32)
    _scatter(values, places, -3, out[3:])
    expected[places] = values
    np.testing.assert_array_equal(out, expected)


def test_the_highest_lane_wins_a_place_that_several_have():
    out = np.zeros(20, np.float32)
    _scatter(np.arange(1, 17, dtype=np.float32), np.full(16, 4), 1, out)
    np.testing.assert_array_equal(np.flatnonzero(out), [5])
    assert out[5] == 16
