from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geols_precompute import softlabel
from geols_precompute.errors import InputError

METHODS = ("geols", "ce", "ls", "fl", "svls")


def random_case(seed, n_classes=4, shape=(3, 4, 5)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, n_classes, shape).astype(np.uint8)
    stored = rng.integers(0, 256, (n_classes - 1, *shape)).astype(np.uint8)
    return label, stored


def maps_of(stored, present, n_classes=4):
    return softlabel.class_maps(stored, channels=range(1, n_classes), present=present, n_classes=n_classes)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.sets(st.integers(1, 3)))
def test_normalised_soft_labels_sum_to_one_and_keep_at_least_one_minus_alpha(seed, alpha, present):
    label, stored = random_case(seed)
    soft = softlabel.soft_label(label, maps_of(stored, sorted(present)), alpha=alpha)
    np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-6)
    own = np.take_along_axis(soft, label[np.newaxis], 0)[0]
    assert (own >= 1 - alpha - 1e-6).all()
    assert (soft >= 0).all()


def test_geols_by_hand():
    label = np.array([[[1]]], np.uint8)
    stored = np.array([[[[255]]], [[[51]]]], np.uint8)  # g1 = 1, g2 = 0.2, background 1 - 0.6
    maps = softlabel.class_maps(stored, channels=[1, 2], present=[1, 2], n_classes=3)
    np.testing.assert_allclose(maps.ravel(), [0.4, 1.0, 0.2], atol=1e-6)
    plain = softlabel.soft_label(label, maps, alpha=0.1, normalize="none")
    np.testing.assert_allclose(plain.ravel(), [0.04, 1.0, 0.02], atol=1e-6)
    normalised = softlabel.soft_label(label, maps, alpha=0.1)
    np.testing.assert_allclose(normalised.ravel(), [0.025, 0.9 + 0.0625, 0.0125], atol=1e-6)


def test_absent_classes_get_nothing_and_stay_out_of_the_background_mean():
    stored = np.full((2, 1, 1, 1), 204, np.uint8)  # 0.8
    maps = softlabel.class_maps(stored, channels=[1, 2], present=[0, 2], n_classes=3)
    np.testing.assert_allclose(maps.ravel(), [0.2, 0, 0.8], atol=1e-6)
    none = softlabel.class_maps(stored, channels=[1, 2], present=[], n_classes=3)
    np.testing.assert_array_equal(none.ravel(), [1, 0, 0])


def test_a_stored_background_is_used_and_where_all_maps_are_zero_the_label_is_one_hot():
    stored = np.zeros((3, 1, 1, 2), np.uint8)
    stored[0, 0, 0, 1] = 255
    label = np.array([[[2, 2]]], np.uint8)
    maps = softlabel.class_maps(stored, channels=[0, 1, 2], present=[0, 1, 2], n_classes=3)
    soft = softlabel.soft_label(label, maps, alpha=0.3)
    np.testing.assert_allclose(soft[:, 0, 0, 0], [0, 0, 1])
    np.testing.assert_allclose(soft[:, 0, 0, 1], [0.3, 0, 0.7], atol=1e-6)


def test_ignored_voxels_are_zero_everywhere():
    label, stored = random_case(1)
    label[0, 0, 0] = 255
    for method in METHODS:
        maps = maps_of(stored, [1, 2, 3]) if method == "geols" else None
        soft = softlabel.soft_label(label, maps, method=method, n_classes=4)
        np.testing.assert_array_equal(soft[:, 0, 0, 0], 0)
        total = soft.sum(axis=0)
        total[0, 0, 0] = 1
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_alpha_zero_is_one_hot_for_every_method():
    label, stored = random_case(2)
    hard = softlabel.one_hot(label, 4)
    np.testing.assert_array_equal(hard.argmax(axis=0), label)
    np.testing.assert_array_equal(softlabel.soft_label(label, maps_of(stored, [1, 2]), alpha=0), hard)
    np.testing.assert_array_equal(softlabel.soft_label(label, method="ls", n_classes=4, alpha=0.0), hard)


def test_label_smoothing_by_hand():
    soft = softlabel.soft_label(np.array([[[1]]], np.uint8), method="ls", n_classes=4, alpha=0.1)
    np.testing.assert_allclose(soft.ravel(), [0.025, 0.925, 0.025, 0.025], atol=1e-6)


def test_svls_kernel_gives_half_to_the_centre():
    kernel = softlabel.svls_kernel()
    assert kernel.sum() == pytest.approx(1)
    assert kernel[1, 1, 1] == pytest.approx(0.5)
    assert kernel[0, 1, 1] / kernel[0, 0, 1] == pytest.approx(np.exp(0.5), rel=1e-5)


def test_svls_against_scipy():
    from scipy import ndimage

    label, _ = random_case(3, shape=(5, 6, 7))
    expected = [ndimage.convolve(c, softlabel.svls_kernel(), mode="nearest") for c in softlabel.one_hot(label, 4)]
    np.testing.assert_allclose(softlabel.soft_label(label, method="svls", n_classes=4), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_0_to_1_is_refused(alpha):
    label, stored = random_case(4)
    with pytest.raises(InputError, match="alpha"):
        softlabel.soft_label(label, maps_of(stored, [1]), alpha=alpha)
    with pytest.raises(InputError, match="alpha"):
        softlabel.soft_label(label, method="ls", n_classes=4, alpha=alpha)


def test_shapes_that_do_not_fit_are_refused():
    label, stored = random_case(5)
    with pytest.raises(InputError, match="do not fit"):
        softlabel.soft_label(label[1:], maps_of(stored, [1]))


def test_methods_that_take_the_label_alone():
    label, stored = random_case(6)
    maps = maps_of(stored, [1, 2, 3])
    for method in ("ce", "fl"):
        hard = softlabel.soft_label(label, method=method, n_classes=4)
        np.testing.assert_array_equal(hard, softlabel.one_hot(label, 4))
    for method in ("ce", "fl", "ls", "svls"):
        soft = softlabel.soft_label(label, method=method, n_classes=4, alpha=0.3)
        assert soft.dtype == np.float32
        # maps tell the number of classes and nothing else
        np.testing.assert_array_equal(softlabel.soft_label(label, maps, method=method, alpha=0.3), soft)
    assert softlabel.soft_label(label, maps).dtype == np.float32


def test_what_a_method_needs_is_asked_for():
    label, _ = random_case(7)
    with pytest.raises(InputError, match="needs the maps"):
        softlabel.soft_label(label, n_classes=4)
    for method in ("ce", "fl", "ls", "svls"):
        with pytest.raises(InputError, match="n_classes is needed where there are no maps"):
            softlabel.soft_label(label, method=method)


def test_an_unknown_method_is_refused():
    label, _ = random_case(8)
    with pytest.raises(InputError, match="method must be one of geols, ce, ls, fl, svls, got 'lss'"):
        softlabel.soft_label(label, method="lss", n_classes=4)


def test_a_number_of_classes_that_is_not_that_of_the_maps_is_refused():
    label, stored = random_case(9)
    with pytest.raises(InputError, match="4 maps do not fit 3 classes"):
        softlabel.soft_label(label, maps_of(stored, [1]), n_classes=3)
