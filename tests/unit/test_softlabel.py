from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geols_precompute import softlabel
from geols_precompute.errors import InputError

METHODS = ("geols", "ce", "ls", "fl", "svls", "gauss", "sdf", "dilate", "bls", "nuls", "nacl", "mbls")
MM = ("gauss", "sdf", "dilate", "bls")
SPACING = (2.0, 1.0, 0.5)


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
        soft = softlabel.soft_label(label, maps, method=method, n_classes=4, spacing=SPACING)
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
    with pytest.raises(InputError, match=r"method must be one of geols, ce, ls, .*, raters, got 'lss'"):
        softlabel.soft_label(label, method="lss", n_classes=4)


def test_a_number_of_classes_that_is_not_that_of_the_maps_is_refused():
    label, stored = random_case(9)
    with pytest.raises(InputError, match="4 maps do not fit 3 classes"):
        softlabel.soft_label(label, maps_of(stored, [1]), n_classes=3)


# --- with a width -----------------------------------------------------------------------------------------------------


def line(*classes):
    """A label map along x."""
    return np.array([[classes]], np.uint8)


def of_width(label, method, n_classes=2, **options):
    return softlabel.soft_label(label, method=method, n_classes=n_classes, **{"spacing": (3.0, 2.0, 1.0), **options})


def test_a_signed_distance_by_hand():
    # the border is one voxel away for both of its sides, and d is in mm
    soft = of_width(line(0, 0, 1, 1, 1), "sdf", width=2.0)[1].ravel()
    d = np.array([-2, -1, 1, 2, 3]) / 2
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-d)), atol=1e-6)
    wide = of_width(line(0, 0, 1, 1, 1), "sdf", width=2.0, spacing=(3.0, 2.0, 4.0))[1].ravel()
    np.testing.assert_allclose(wide, 1 / (1 + np.exp(-4 * d)), atol=1e-6)


def test_a_signed_distance_of_three_classes_by_hand():
    p = 1 / (1 + np.exp(-np.array([[2, 1, -1, -2], [-1, 1, -1, -2], [-3, -2, -1, 1]], float)))
    p[1] = 1 / (1 + np.exp(-np.array([-2, -1, 1, -1], float)))
    expected = p / p.sum(axis=0)
    np.testing.assert_allclose(of_width(line(0, 0, 1, 2), "sdf", 3)[:, 0, 0], expected, atol=1e-6)


def test_a_class_that_is_absent_or_everywhere_has_a_signed_distance_without_end():
    np.testing.assert_array_equal(of_width(line(1, 1, 255), "sdf", 3)[:, 0, 0], [[0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_beyond_16_widths_a_signed_distance_is_0_or_1():
    soft = of_width(line(*[0] * 20, *[1] * 20), "sdf", width=1.0)[1].ravel()
    assert (soft[:4] == 0).all()
    assert (soft[4:36] > 0).all()
    assert (soft[-4:] == 1).all()


def test_a_gaussian_by_hand():
    # of a step, with σ = 1 voxel of 2 mm, cut off at 4 σ
    soft = of_width(line(*[0] * 9, *[1] * 9), "gauss", width=2.0, spacing=(1.0, 1.0, 2.0))[1].ravel()
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    weights /= weights.sum()
    np.testing.assert_allclose(soft[8], weights[:4].sum(), atol=1e-6)
    np.testing.assert_allclose(soft[9], weights[:5].sum(), atol=1e-6)
    np.testing.assert_allclose(soft[7], weights[:3].sum(), atol=1e-6)


def test_a_gaussian_against_scipy():
    from scipy import ndimage

    label, _ = random_case(3, shape=(9, 10, 12))
    expected = [
        ndimage.gaussian_filter(channel, (0.75, 1.5, 3.0), mode="nearest", truncate=4.0)
        for channel in softlabel.one_hot(label, 4)
    ]
    np.testing.assert_allclose(of_width(label, "gauss", 4, width=1.5, spacing=SPACING), expected, atol=1e-6)


@pytest.mark.parametrize(("width", "spacing", "reached"), [(1.0, 1.0, 1), (2.5, 1.0, 2), (0.3, 0.1, 3), (0.9, 1.0, 0)])
def test_dilated_labels_by_hand(width, spacing, reached):
    soft = of_width(line(0, 0, 0, 0, 1, 1), "dilate", alpha=0.3, width=width, spacing=(1.0, 1.0, spacing))[1].ravel()
    np.testing.assert_allclose(soft, [0.3 if 4 - x <= reached else 0.0 for x in range(4)] + [1, 1], atol=1e-6)


def test_two_dilated_classes_share_the_smooth_part():
    soft = of_width(line(1, 0, 2, 0, 0), "dilate", 3, alpha=0.4, width=1.0)[:, 0, 0]
    np.testing.assert_allclose(soft, [[0, 0.6, 0, 0.6, 1], [1, 0.2, 0, 0, 0], [0, 0.2, 1, 0.4, 0]], atol=1e-6)


def test_a_border_is_smoothed_on_both_of_its_sides_by_hand():
    soft = of_width(line(0, 0, 0, 1, 1, 1), "bls", alpha=0.2, width=1.0)[1].ravel()
    np.testing.assert_allclose(soft, [0, 0, 0.1, 0.9, 1, 1], atol=1e-6)
    # in mm: 2 mm along y are one voxel, which 1 mm does not reach
    label = np.array([0, 1], np.uint8).reshape(1, 2, 1)
    np.testing.assert_array_equal(of_width(label, "bls", alpha=0.2, width=1.0)[1].ravel(), [0, 1])
    np.testing.assert_allclose(of_width(label, "bls", alpha=0.2, width=2.0)[1].ravel(), [0.1, 0.9], atol=1e-6)


@pytest.mark.parametrize("method", ["dilate", "bls"])
def test_widths_against_brute_force(method):
    label, _ = random_case(5, shape=(4, 5, 6))
    label[1:, 2:, :4] = 0
    label[0, 0, :2] = 255
    soft = of_width(label, method, 4, alpha=0.3, width=1.2, spacing=SPACING)
    places = np.argwhere(label != 255)
    for voxel in map(tuple, places):
        distance = np.sqrt((((places - voxel) * SPACING) ** 2).sum(axis=1))
        near = set(label[tuple(places[distance <= 1.2].T)].tolist())
        own = label[voxel]
        expected = np.eye(4)[own]
        if method == "bls" and near != {own}:
            expected = 0.7 * expected + 0.3 / 4
        if method == "dilate" and own == 0 and near - {0}:
            expected = 0.7 * expected + 0.3 * np.isin(np.arange(4), [*(near - {0})]) / len(near - {0})
        np.testing.assert_allclose(soft[:, *voxel], expected, atol=1e-6)


def test_ordered_classes_by_hand():
    soft = of_width(line(0, 2, 255), "nuls", 3, width=0.5, spacing=None)[:, 0, 0]
    e2, e8 = np.exp(-2), np.exp(-8)
    total = 1 + e2 + e8
    np.testing.assert_allclose(soft, np.array([[1, e8, 0], [e2, e2, 0], [e8, 1, 0]]) / total, atol=1e-6)


@pytest.mark.parametrize("method", MM)
def test_ignored_voxels_are_no_border(method):
    soft = of_width(line(1, 1, 255, 255, 255), method, alpha=0.3)[:, 0, 0]
    np.testing.assert_allclose(soft, [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("width", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("method", MM)
def test_a_part_of_a_volume_with_its_reach_around_is_that_part_of_the_whole(method, width):
    rng = np.random.default_rng(11)
    label = np.zeros((30, 40, 60), np.uint8)
    for value in (1, 2, 3):
        z, y, x = (int(rng.integers(2, n - 8)) for n in label.shape)
        label[z : z + 6, y : y + 7, x : x + 5] = value
    label[rng.random(label.shape) < 0.01] = 255
    options = {"alpha": 0.3, "width": width, "spacing": SPACING}
    whole = of_width(label, method, 4, **options)
    for place in ((3, 5, 7), (0, 20, 40), (20, 33, 50)):
        window = tuple(slice(start, start + 8) for start in place)
        margins = softlabel.reach(method, SPACING, width)
        around = tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(window, margins, strict=True))
        inside = tuple(slice(s.start - a.start, s.start - a.start + 8) for s, a in zip(window, around, strict=True))
        shown = tuple(slice(i.start, i.start + whole[(0, *window)].shape[n]) for n, i in enumerate(inside))
        part = of_width(label[around], method, 4, **options)[(slice(None), *shown)]
        np.testing.assert_allclose(part, whole[(slice(None), *window)], atol=1e-7)


def test_the_mean_of_raters_by_hand():
    raters = [line(0, 1, 1, 255), line(0, 1, 2, 255), line(1, 255, 2, 255), line(1, 1, 2, 255)]
    mean = softlabel.mean_of_raters(raters, 3)
    np.testing.assert_allclose(mean[:, 0, 0], [[0.5, 0, 0, 0], [0.5, 1, 0.25, 0], [0, 0, 0.75, 0]], atol=1e-6)
    soft = softlabel.soft_label(line(255, 1, 1, 1), mean, method="raters")
    np.testing.assert_allclose(soft[:, 0, 0], [[0, 0, 0, 0], [0, 1, 0.25, 0], [0, 0, 0.75, 0]], atol=1e-6)


def test_what_a_width_needs():
    label = line(0, 1)
    for method in MM:
        with pytest.raises(InputError, match=rf"method {method} is measured in mm: it needs the spacing"):
            softlabel.soft_label(label, method=method, n_classes=2)
        for width in (0, -1, float("nan"), float("inf")):
            with pytest.raises(InputError, match="width must be a positive number"):
                of_width(label, method, width=width)
    with pytest.raises(InputError, match="method raters needs the maps"):
        softlabel.soft_label(label, method="raters", n_classes=2)
