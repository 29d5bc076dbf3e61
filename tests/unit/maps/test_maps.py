from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geols_precompute.maps.decay import make_maps, quantise

DISTANCES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.floats(0, 1e5, width=32, allow_subnormal=False),
)


def plain_map(distances, decay):
    """The definition in float64."""
    d = distances.astype(np.float64)
    g = np.exp(-d / d.mean()) if decay == "mean" else np.exp(-decay * d)
    return (g - g.min()) / (g.max() - g.min())


def one_map(distances, decay):
    maps = distances[np.newaxis].copy()
    (statistics,) = make_maps(maps, decay)
    return maps[0], statistics


@settings(deadline=None)
@given(DISTANCES, st.sampled_from(["mean", 1.0, 0.01]))
# the mean has no reciprocal in float32
@example(np.array([[[2**-126, 0, 0, 0]]], np.float32), "mean")
def test_maps_are_finite_within_0_and_1_and_fall_with_distance(distances, decay):
    g, _ = one_map(distances, decay)
    assert np.isfinite(g).all()
    assert g.min() >= 0
    assert g.max() <= 1
    order = np.argsort(distances, axis=None)
    assert (np.diff(g.ravel()[order]) <= 1e-6).all()


@pytest.mark.parametrize("decay", ["mean", 1.0, 0.05, 30.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_maps_follow_the_definition(decay, scale):
    distances = (scale * np.random.default_rng(0).random((7, 8, 9))).astype(np.float32)
    distances[3, 3, 3] = 0
    g, statistics = one_map(distances, decay)
    if decay != "mean" and decay * scale < 1e-2:
        # exp(-k·D) spans less than 1e-2, of which float32 keeps five digits fewer
        np.testing.assert_allclose(g, plain_map(distances, decay), atol=1e-2)
    else:
        np.testing.assert_allclose(g, plain_map(distances, decay), atol=2e-6)
    np.testing.assert_allclose(
        [statistics.mean, statistics.low, statistics.high], [distances.mean(), distances.min(), distances.max()], 1e-5
    )


@pytest.mark.parametrize("decay", ["mean", 1.0])
@pytest.mark.parametrize(("value", "expected"), [(0.0, 1), (3.0, 0)])
def test_flat_distances_give_one_on_seeds_and_zero_elsewhere(decay, value, expected):
    g, _ = one_map(np.full((2, 3, 4), value, np.float32), decay)
    np.testing.assert_array_equal(g, expected)


def test_distances_too_small_for_exp_to_tell_apart_still_mark_the_seeds():
    distances = np.full((1, 1, 4), 1e-9, np.float32)
    distances[0, 0, 2] = 0
    g, _ = one_map(distances, 1.0)
    np.testing.assert_array_equal(g, [[[0, 0, 1, 0]]])


def test_quantise_rounds_half_to_even_and_averages():
    sums = np.array([[[0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 1, 0.4999 / 255]]], np.float32) * 2
    stored = np.empty(sums.shape, np.uint8)
    quantise(sums, 2, stored)
    expected = np.rint((sums / np.float32(2)) * np.float32(255))
    np.testing.assert_array_equal(stored, expected)
    assert stored.ravel()[[0, 1, 2, 4, 5]].tolist() == [0, 0, 2, 255, 0]


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 2, 50), elements=st.floats(0, 1, width=32)))
def test_quantisation_error_is_at_most_half_a_step(g):
    stored = np.empty(g.shape, np.uint8)
    quantise(g, 1, stored)
    assert np.abs(stored / 255 - g.astype(np.float64)).max() <= 0.5 / 255 + 1e-7


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 2, 1, 37), elements=st.floats(0, 1e5, width=32)))
def test_several_classes_at_once_have_the_mean_of_a_plain_loop(distances):
    statistics = make_maps(distances.copy(), "mean")
    for found, of_class in zip(statistics, distances, strict=True):
        total = 0.0
        for value in of_class.ravel().tolist():
            total += value
        assert found.mean == total / of_class.size
        assert (found.low, found.high) == (of_class.min(), of_class.max())
