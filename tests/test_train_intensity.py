"""Z-scores, over all voxels or over those of the brain."""

from __future__ import annotations

import numpy as np
import pytest

from geols_precompute.data.prepare import to_int16
from geols_train.intensity import zscore


def scored(image, *, skull_stripped=False):
    stored, scale, offset = to_int16(image)
    return zscore(stored, np.array(scale), np.array(offset), skull_stripped=skull_stripped).apply(stored)


@pytest.mark.parametrize("factor", [1, 1e-3, 1e4])
def test_mean_zero_and_deviation_one_whatever_the_scale(factor):
    image = (np.random.default_rng(0).normal(5, 3, (2, 4, 5, 6)) * factor).astype(np.float32)
    result = scored(image)
    assert result.dtype == np.float32
    expected = (image - image.mean(axis=(1, 2, 3), keepdims=True)) / image.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize("low", [0.0, -3.7])
def test_skull_stripped_takes_only_voxels_that_are_not_zero(low):
    image = np.zeros((1, 4, 4, 4), np.float32)
    inside = np.linspace(low, 9.3, 32, dtype=np.float32).reshape(2, 4, 4) + np.float32(0.013)
    image[0, :2] = inside
    result = scored(image, skull_stripped=True)
    assert (result[0, 2:] == 0).all()
    np.testing.assert_allclose(result[0, :2], (inside - inside.mean()) / inside.std(), atol=2e-3)


def test_constant_and_empty_modalities_give_zero():
    assert (scored(np.full((1, 2, 2, 2), 7.0, np.float32)) == 0).all()
    assert (scored(np.zeros((1, 2, 2, 2), np.float32), skull_stripped=True) == 0).all()
