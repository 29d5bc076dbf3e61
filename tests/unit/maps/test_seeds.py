from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.morphology import ball, binary_erosion, skeletonize

from geols_precompute.maps.seeds import class_boxes, class_seeds

pytestmark = pytest.mark.filterwarnings("ignore:.*binary_erosion.*:FutureWarning")
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)).filter(np.any)
UNIT = (1.0, 1.0, 1.0)


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*s) for s in slices)] = True
    return mask


@settings(deadline=None)
@given(MASKS)
def test_skeleton_on_the_bounding_box_equals_that_of_the_whole_volume(mask):
    seeds, _ = class_seeds(mask, "skeleton", UNIT, fallback=False)
    np.testing.assert_array_equal(seeds, skeletonize(np.pad(mask, 1))[1:-1, 1:-1, 1:-1] > 0)


@settings(deadline=None)
@given(MASKS)
def test_erosion_is_scikit_images(mask):
    seeds, _ = class_seeds(mask, "erosion", UNIT, fallback=False)
    np.testing.assert_array_equal(seeds, binary_erosion(mask, ball(1)))


@settings(deadline=None)
@given(MASKS, st.sampled_from([0.5, 1.0, 1.7, 3.0]))
def test_margin_seeds_are_so_far_from_every_voxel_of_another_class(mask, width):
    spacing = (2.0, 1.0, 0.7)
    seeds, _ = class_seeds(mask, f"margin-{width}", spacing, fallback=False)
    others = np.argwhere(~mask) * spacing
    for voxel in np.ndindex(mask.shape):
        distances = np.linalg.norm(others - np.multiply(voxel, spacing), axis=1)
        # beyond the volume there is no other class
        assert seeds[voxel] == (mask[voxel] and distances.min(initial=np.inf) >= width - 1e-6)


def test_ignored_voxels_are_no_other_class_for_margin_seeds():
    mask, ignored = box((1, 1, 9), (0, 1), (0, 1), (2, 9)), box((1, 1, 9), (0, 1), (0, 1), (0, 2))
    assert class_seeds(mask, "margin-3", UNIT, ignore_ZYX=ignored)[0].sum() == 7
    assert class_seeds(mask, "margin-3", UNIT)[0].sum() == 5


@settings(deadline=None)
@given(MASKS, st.sampled_from(["skeleton", "erosion", "boundary", "centroid", "random-3", "margin-2"]))
def test_seeds_lie_in_the_class_and_a_present_class_has_one(mask, strategy):
    seeds, _ = class_seeds(mask, strategy, (2.5, 1.0, 0.5), random_key="a")
    assert seeds.any()
    assert not (seeds & ~mask).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_voxels_that_alternate_in_a_row_are_components(axis):
    mask = np.moveaxis(np.array([[[1, 0, 1, 0, 1]]], bool), 2, axis)
    seeds, fallbacks = class_seeds(mask, "erosion", UNIT)
    assert np.array_equal(seeds, mask)
    assert fallbacks == 3


@settings(deadline=None)
@given(MASKS, st.sampled_from(["skeleton", "erosion"]))
def test_every_component_has_a_seed_with_skeleton_and_erosion(mask, strategy):
    seeds, fallbacks = class_seeds(mask, strategy, UNIT)
    plain, none = class_seeds(mask, strategy, UNIT, fallback=False)
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    without = sum(not plain[labels == n].any() for n in range(1, count + 1))
    assert none == 0
    assert fallbacks == without
    assert all(seeds[labels == n].any() for n in range(1, count + 1))
    assert seeds.sum() == plain.sum() + fallbacks


@settings(deadline=None)
@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.sampled_from([0, 1, 2, 255])
    ),
    st.sampled_from(["skeleton", "erosion", "boundary", "centroid", "random-3"]),
)
def test_the_seeds_of_a_box_are_those_of_the_volume(label, strategy):
    boxes = class_boxes(label)
    assert set(boxes) == set(np.unique(label))
    for index, box_of_class in boxes.items():
        mask, ignored = label == index, label == 255
        assert mask[box_of_class].sum() == mask.sum()
        found, fallbacks = class_seeds(
            mask[box_of_class], strategy, (2.0, 1.0, 0.5), ignore_ZYX=ignored[box_of_class], random_key="a"
        )
        of_volume, expected = class_seeds(mask, strategy, (2.0, 1.0, 0.5), ignore_ZYX=ignored, random_key="a")
        assert fallbacks == expected
        placed = np.zeros_like(mask)
        placed[box_of_class] = found
        np.testing.assert_array_equal(placed, of_volume)


def test_an_even_cube_has_no_skeleton_so_its_deepest_voxel_is_the_seed():
    mask = box((8, 8, 8), (2, 6), (2, 6), (2, 6))
    assert not class_seeds(mask, "skeleton", UNIT, fallback=False)[0].any()
    seeds, fallbacks = class_seeds(mask, "skeleton", UNIT)
    assert fallbacks == 1
    assert np.argwhere(seeds).tolist() == [[3, 3, 3]]


def test_the_deepest_voxel_is_measured_in_mm():
    # 2 × 2 × 12 voxels of 10 × 10 × 1 mm: every voxel is 10 mm from the sides, so the depth is set by x
    thin = box((4, 4, 20), (1, 3), (1, 3), (4, 16))
    voxel = np.argwhere(class_seeds(thin, "erosion", (10.0, 10.0, 1.0))[0])
    assert voxel.tolist() == [[1, 1, 9]]


def test_a_component_that_fills_the_volume_gets_its_centre():
    seeds, fallbacks = class_seeds(np.ones((5, 5, 5), bool), "boundary", UNIT)
    assert (fallbacks, np.argwhere(seeds).tolist()) == (1, [[2, 2, 2]])


def test_centroid_takes_the_nearest_voxel_and_the_lowest_index_on_ties():
    two = box((1, 1, 7), (0, 1), (0, 1), (1, 2)) | box((1, 1, 7), (0, 1), (0, 1), (5, 6))
    assert np.argwhere(class_seeds(two, "centroid", UNIT)[0]).tolist() == [[0, 0, 1]]
    line = box((1, 1, 9), (0, 1), (0, 1), (2, 8))
    assert np.argwhere(class_seeds(line, "centroid", (1, 1, 0.3))[0]).tolist() == [[0, 0, 4]]


def test_boundary_by_hand():
    mask = box((5, 5, 5), (1, 4), (1, 4), (1, 4))
    seeds, _ = class_seeds(mask, "boundary", UNIT)
    assert seeds.sum() == 26
    assert not seeds[2, 2, 2]
    # where the class touches the edge of the volume or ignored voxels, there is no other class
    half = box((4, 4, 4), (0, 4), (0, 4), (0, 2))
    assert np.argwhere(class_seeds(half, "boundary", UNIT)[0])[:, 2].tolist() == [1] * 16
    ignored = box((4, 4, 4), (0, 4), (0, 4), (2, 3))
    seeds, fallbacks = class_seeds(half, "boundary", UNIT, ignore_ZYX=ignored)
    assert (seeds.sum(), fallbacks) == (1, 1)


def test_random_k_is_reproducible_distinct_and_bounded():
    mask = box((6, 6, 6), (1, 5), (1, 5), (1, 5))

    def draw(k, key):
        return class_seeds(mask, f"random-{k}", UNIT, random_key=key)[0]

    np.testing.assert_array_equal(draw(5, "0/a/1"), draw(5, "0/a/1"))
    assert draw(5, "0/a/1").sum() == 5
    assert draw(200, "0/a/1").sum() == 64
    assert any((draw(5, "0/a/1") != draw(5, key)).any() for key in ("1/a/1", "0/b/1", "0/a/2"))


def test_random_k_is_uniform():
    mask = np.ones((1, 1, 4), bool)
    counts = sum(class_seeds(mask, "random-1", UNIT, random_key=str(n))[0].astype(int) for n in range(2000))
    assert np.abs(counts - 500).max() < 100


def test_random_k_is_pinned():
    """Stored seeds must be drawn alike by every version of NumPy."""
    seeds = class_seeds(np.ones((4, 5, 6), bool), "random-3", UNIT, random_key="0/case/1")[0]
    assert np.flatnonzero(seeds).tolist() == [8, 40, 108]
