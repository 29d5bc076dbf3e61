from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.morphology import skeletonize

from geols_precompute.data.volumes import read_image
from geols_precompute.maps.skeleton import skeleton


def scikit_image(mask):
    # padded: of a volume one voxel thin, scikit-image would thin the plane only
    return skeletonize(np.pad(mask, 1))[1:-1, 1:-1, 1:-1] > 0


@settings(deadline=None, max_examples=200)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)))
def test_any_mask(mask):
    np.testing.assert_array_equal(skeleton(mask), scikit_image(mask))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 24)] * 3), st.floats(0.6, 2.5), st.floats(0.35, 0.65))
def test_smooth_shapes_with_tunnels_and_cavities(seed, shape, sigma, level):
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma) > np.float64(level)
    np.testing.assert_array_equal(skeleton(mask), scikit_image(mask))


def test_solids_touching_the_edge_and_nothing_at_all():
    for mask in (
        np.ones((9, 9, 9), bool),
        np.ones((4, 4, 40), bool),
        np.zeros((3, 4, 5), bool),
        np.ones((1, 7, 9), bool),
    ):
        np.testing.assert_array_equal(skeleton(mask), scikit_image(mask))


@pytest.mark.parametrize(
    "name",
    ["flare/ct_001/ct_001_seg.nii.gz", "brats/BraTS-GLI-00001-000/BraTS-GLI-00001-000_seg.nii.gz"],
)
def test_real_organs_and_tumours(real_data, name):
    label = read_image(real_data(name))[0][0]
    for value in np.unique(label)[1:]:
        mask = label == value
        np.testing.assert_array_equal(skeleton(mask), scikit_image(mask))
