"""Converged distances: the bits of plain NumPy and of sweeps until nothing changes, and close to a plain Dijkstra."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
from distances import SHAPES, SPACING, random_case
from hypothesis import given, settings
from hypothesis import strategies as st

from geols_precompute.geodesic import geodesic_distance
from geols_precompute.geodesic.options import MAX_ITERATIONS

UNTIL_NOTHING_CHANGES = MAX_ITERATIONS
OPTIONS = [
    {"metric": "gradient", "lam": 1.0},
    {"metric": "gradient", "lam": 0.5},
    {"metric": "gradient", "lam": 0.0},
    {"metric": "riemannian", "gamma": 1.0},
    {"metric": "riemannian", "gamma": 0.0},
    {"metric": "riemannian", "gamma": 0.02},
]
NEIGHBOURS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def step_cost(length, difference, *, metric, lam=1.0, gamma=1.0):
    if metric == "riemannian":
        return math.sqrt(length**2 + gamma**2 * difference**2)
    return length / ((1 - lam) + lam / (difference + 1e-5))


def dijkstra(image, seeds, spacing, **options):
    """Distances of one class in double precision, one voxel at a time; image is [channel,z,y,x]."""
    distance = np.full(seeds.shape, np.inf)
    distance[seeds] = 0
    queue = [(0.0, tuple(voxel)) for voxel in np.argwhere(seeds).tolist()]
    while queue:
        value, voxel = heapq.heappop(queue)
        if value > distance[voxel]:
            continue
        for step in NEIGHBOURS:
            other = tuple(a + b for a, b in zip(voxel, step, strict=True))
            if not all(0 <= a < n for a, n in zip(other, seeds.shape, strict=True)):
                continue
            length = math.hypot(*(a * b for a, b in zip(step, spacing, strict=True)))
            difference = np.linalg.norm(image[:, *voxel].astype(float) - image[:, *other].astype(float))
            candidate = value + step_cost(length, difference, **options)
            if candidate < distance[other]:
                distance[other] = candidate
                heapq.heappush(queue, (candidate, other))
    return distance


def converged(image, seeds, spacing, *, metric, lam=1.0, gamma=1.0):
    """Distances of one class in float32: all steps of all voxels at once, again and again, until nothing changes."""
    steps = []
    for step in NEIGHBOURS:
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, seeds.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, seeds.shape, strict=True))
        squared_length = sum((a * b) ** 2 for a, b in zip(step, spacing, strict=True))
        difference = image[:, *here] - image[:, *there]
        squared = np.zeros(difference.shape[1:], np.float32)
        for channel in difference:
            squared += channel * channel
        norm = np.abs(difference[0]) if len(image) == 1 else np.sqrt(squared)
        raised, length = norm + np.float32(1e-5), np.float32(math.sqrt(squared_length))
        if metric == "riemannian":
            cost = np.sqrt(np.float32(squared_length) + np.float32(gamma**2) * squared)
        elif lam == 1:
            cost = length * raised
        else:
            cost = length * raised / (np.float32(1 - lam) * raised + np.float32(lam))
        assert cost.dtype == np.float32
        steps.append((here, there, cost))
    distance = np.where(seeds, np.float32(0), np.float32(np.inf))
    while True:
        lowered = distance.copy()
        for here, there, cost in steps:
            np.minimum(lowered[here], distance[there] + cost, out=lowered[here])
        if (lowered == distance).all():
            return distance
        distance = lowered


SMALL = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 11))
AROUND_TILES = st.tuples(*[st.sampled_from([1, 2, 7, 8, 9, 10, 15, 16, 17, 25])] * 3)


@st.composite
def cases(draw, sides=SMALL):
    shape = draw(sides.flatmap(st.permutations))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.integers(1, 3))
    scale = draw(st.sampled_from([0.0, 1e-6, 1.0, 1000.0, 1e6]))
    levels = draw(st.sampled_from([2, 5, 10**6]))  # few levels: flat regions and ties
    image = (generator.integers(0, levels, (channels, *shape)) / levels * scale).astype(np.float32)
    seeds = generator.random((1, *shape)) < draw(st.sampled_from([0.0, 0.1, 0.5]))
    seeds[(0, *generator.integers(0, shape))] = True
    spacing = draw(st.tuples(*[st.sampled_from([0.4, 1.0, 2.5, 7.0])] * 3))
    return image, seeds, spacing


@given(cases(), st.sampled_from(OPTIONS))
@settings(deadline=None, max_examples=100)
def test_exact_equals_dijkstra(case, options):
    image, seeds, spacing = case
    exact = geodesic_distance(image, seeds, spacing, iterations="exact", **options)
    np.testing.assert_allclose(exact[0], dijkstra(image, seeds[0], spacing, **options), rtol=2e-6, atol=0)
    np.testing.assert_array_equal(exact == 0, seeds)


@given(cases(AROUND_TILES), st.sampled_from(OPTIONS))
@settings(deadline=None, max_examples=100)
def test_exact_has_the_bits_of_plain_numpy(case, options):
    image, seeds, spacing = case
    exact = geodesic_distance(image, seeds, spacing, iterations="exact", **options)
    np.testing.assert_array_equal(exact[0], converged(image, seeds[0], spacing, **options))


@given(cases(), st.sampled_from(OPTIONS), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_more_seeds_never_enlarge_exact_distances(case, options, seed):
    image, seeds, spacing = case
    more = seeds | (np.random.default_rng(seed).random(seeds.shape) < 0.1)
    few_seeds = geodesic_distance(image, seeds, spacing, iterations="exact", **options)
    assert (geodesic_distance(image, more, spacing, iterations="exact", **options) <= few_seeds).all()


@given(cases(), st.sampled_from(OPTIONS), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_counted_iterations_come_down_to_the_exact_distances(case, options, iterations):
    image, seeds, spacing = case
    exact = geodesic_distance(image, seeds, spacing, iterations="exact", **options)
    counted = geodesic_distance(image, seeds, spacing, iterations=iterations, **options)
    more = geodesic_distance(image, seeds, spacing, iterations=iterations + 1, **options)
    assert (exact <= more).all()
    assert (more <= counted).all()
    np.testing.assert_array_equal(counted == 0, seeds)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_exact_has_the_bits_of_sweeps_until_nothing_changes(options, channels):
    image, seeds = random_case((21, 34, 27), channels=channels, density=0.0005)
    exact = geodesic_distance(image, seeds, SPACING, iterations="exact", **options)
    sweeps = geodesic_distance(image, seeds, SPACING, iterations=UNTIL_NOTHING_CHANGES, **options)
    np.testing.assert_array_equal(exact, sweeps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
def test_exact_at_any_size(shape, channels):
    image, seeds = random_case(shape, seed=sum(shape), channels=channels, density=0.001)
    for options in OPTIONS:
        exact = geodesic_distance(image, seeds, SPACING, iterations="exact", **options)
        for distance, mask in zip(exact, seeds, strict=True):
            np.testing.assert_array_equal(distance, converged(image, mask, SPACING, **options))


def test_many_tiles_waiting_at_once():
    """Most of 1584 tiles have a pending value from the start: more than sixteen rounds of the usual size."""
    image, seeds = random_case((90, 88, 95), classes=1, density=0.02)
    exact = geodesic_distance(image, seeds, SPACING, iterations="exact")
    sweeps = geodesic_distance(image, seeds, SPACING, iterations=UNTIL_NOTHING_CHANGES)
    np.testing.assert_array_equal(exact, sweeps)


def test_fewer_tiles_than_lanes():
    """Two tiles for sixteen lanes: the last of them is visited by fifteen lanes, which write the same."""
    image = np.zeros((8, 8, 16), np.float32)
    seeds = np.zeros((1, 8, 8, 16), bool)
    seeds[0, 0, 0, 0] = seeds[0, 7, 7, 15] = True
    exact = geodesic_distance(image, seeds, (1, 1, 1), iterations="exact", metric="riemannian", gamma=0)
    np.testing.assert_array_equal(exact[0], exact[0, ::-1, ::-1, ::-1])
    assert exact[0, 0, 0, 7] == 7


def test_a_winding_corridor_is_followed_to_its_end():
    """Raster scans need an iteration for every turn; the exact engine must not stop early."""
    image = np.full((1, 41, 40), 1000, np.float32)
    image[0, ::2] = 0
    image[0, 1::4, -1] = 0
    image[0, 3::4, 0] = 0
    seeds = np.zeros((1, 1, 41, 40), bool)
    seeds[0, 0, 0, 0] = True
    exact = geodesic_distance(image, seeds, (1, 1, 1), iterations="exact")
    assert exact[0, 0, ::2].max() < 0.01  # hundreds of steps of 1e-5 and never over a wall of 1000
    four = geodesic_distance(image, seeds, (1, 1, 1), iterations=4)
    assert four[0, 0, ::2].max() > 100
