"""Boxes: centre crops, pads, random places and covers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geols_train.windows import centre_box, covering_boxes, random_box, whole_box

sizes = st.tuples(*[st.integers(1, 30)] * 3)


@given(shape=sizes, size=sizes, seed=st.integers(0, 99))
def test_what_lies_inside_the_volume_lands_at_its_place_in_the_box(shape, size, seed):
    for box in (centre_box(shape, size), random_box(shape, size, np.random.default_rng(seed)), whole_box(shape)):
        for inside, placed, start, n, s in zip(
            box.inside(shape), box.placed(shape), box.start, shape, box.size, strict=True
        ):
            assert 0 <= inside.start < inside.stop <= n
            assert 0 <= placed.start < placed.stop <= s
            assert inside.stop - inside.start == placed.stop - placed.start == min(n, s)
            assert inside.start - placed.start == start


@given(shape=sizes, size=sizes, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_cover_every_voxel_with_the_overlap_asked_for(shape, size, overlap):
    for n, s, axis in zip(shape, size, range(3), strict=True):
        starts = sorted({box.start[axis] for box in covering_boxes(shape, size, overlap=overlap)})
        if n <= s:
            assert starts == [(n - s) // 2]
            continue
        assert (starts[0], starts[-1]) == (0, n - s)
        assert all(b - a <= max(1, np.ceil(s * (1 - overlap))) for a, b in itertools.pairwise(starts))


def test_random_boxes_reach_both_ends():
    starts = {random_box((5, 9, 3), (3, 9, 4), np.random.default_rng(s)).start for s in range(50)}
    assert {start[0] for start in starts} == {0, 1, 2}
    assert {start[1:] for start in starts} == {(0, -1)}


@pytest.mark.parametrize(("n", "size", "start"), [(10, 4, 3), (9, 4, 2), (4, 8, -2), (5, 8, -2)])
def test_centre(n, size, start):
    assert centre_box((n,) * 3, (size,) * 3).start == (start,) * 3
