"""Soft labels on the device equal those of NumPy, and hand computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geols_precompute import softlabel
from geols_train import targets

C = 4


def random_case(seed, shape=(3, 4, 5), *, ignore=True, channels=(1, 2, 3)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, C, shape).astype(np.uint8)
    if ignore:
        label[rng.random(shape) < 0.2] = 255
    present = [c for c in channels if rng.random() < 0.7]
    stored = rng.integers(0, 256, (len(channels), *shape)).astype(np.uint8)
    stored[:, rng.random(shape) < 0.3] = 0
    return label, stored, present


def batch(seeds, **options):
    cases = [random_case(seed, **options) for seed in seeds]
    present = torch.tensor([[c in p for c in range(C)] for _, _, p in cases])
    return cases, torch.tensor(np.stack([c[0] for c in cases])), torch.tensor(np.stack([c[1] for c in cases])), present


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1), stored_background=st.booleans(), total=st.booleans())
def test_geols_equals_numpy(seed, alpha, stored_background, total):
    channels = (0, 1, 2, 3) if stored_background else (1, 2, 3)
    normalize = "sum" if total else "none"
    cases, label, stored, present = batch((seed, seed + 1), channels=channels)
    ours = targets.soft_label(
        "geols", label, n_classes=C, alpha=alpha, normalize=normalize, stored_BKZYX=stored, channels=channels,
        present_BC=present,
    )  # fmt: skip
    for got, (hard, maps, here) in zip(ours, cases, strict=True):
        g = softlabel.class_maps(maps, channels=channels, present=here, n_classes=C)
        expected = softlabel.geols(hard, g, alpha=alpha, normalize=normalize)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1))
def test_the_other_targets_equal_numpy(seed, alpha):
    cases, label, _, _ = batch((seed, seed + 1))
    for got, (hard, _, _) in zip(targets.one_hot(label, C), cases, strict=True):
        np.testing.assert_array_equal(got.numpy(), softlabel.one_hot(hard, C))
    for got, (hard, _, _) in zip(targets.soft_label("ls", label, n_classes=C, alpha=alpha), cases, strict=True):
        np.testing.assert_allclose(got.numpy(), softlabel.label_smoothing(hard, C, alpha), atol=1e-6)
    for got, (hard, _, _) in zip(targets.soft_label("svls", label, n_classes=C), cases, strict=True):
        np.testing.assert_allclose(got.numpy(), softlabel.svls(hard, C), atol=1e-6)


def test_by_hand():
    label = torch.tensor([[[[0, 1, 255]]]], dtype=torch.uint8)
    smooth = targets.label_smoothing(label, 2, 0.1)[0, :, 0, 0]
    torch.testing.assert_close(smooth, torch.tensor([[0.95, 0.05, 0], [0.05, 0.95, 0]]))
    stored = torch.tensor([[[[[51, 255, 255]]]]], dtype=torch.uint8)  # g_1 = 0.2, 1, 1; g_0 = 0.8, 0, 0
    present = torch.tensor([[False, True]])
    soft = targets.soft_label(
        "geols", label, n_classes=2, alpha=0.5, stored_BKZYX=stored, channels=(1,), present_BC=present
    )
    torch.testing.assert_close(soft[0, :, 0, 0], torch.tensor([[0.9, 0, 0], [0.1, 1, 0]]))


def test_normalize_none_keeps_the_published_sum():
    # two present classes with g = 0.5: the background is 0.5 too, and the sum 1.5
    label = torch.ones((1, 1, 1, 1), dtype=torch.uint8)
    maps = torch.full((1, 3, 1, 1, 1), 0.5)
    none = targets.geols(label, maps, alpha=0.2, normalize="none").flatten()
    torch.testing.assert_close(none, torch.tensor([0.1, 0.9, 0.1]))
    torch.testing.assert_close(targets.geols(label, maps, alpha=0.2).flatten().sum(), torch.tensor(1.0))


def test_alpha_zero_is_one_hot_bit_for_bit():
    _, label, stored, present = batch((1, 2))
    soft = targets.soft_label(
        "geols", label, n_classes=C, alpha=0.0, stored_BKZYX=stored, channels=(1, 2, 3), present_BC=present
    )
    assert torch.equal(soft, targets.soft_label("ce", label, n_classes=C))


def test_without_a_present_class_the_background_map_is_one():
    stored = torch.full((1, 1, 1, 1, 2), 200, dtype=torch.uint8)
    maps = targets.class_maps(stored, channels=(1,), present_BC=torch.tensor([[False, False]]), n_classes=2)
    assert maps.flatten().tolist() == [1, 1, 0, 0]


def test_svls_does_not_depend_on_autocast():
    _, label, _, _ = batch((3,))
    plain = targets.svls(label, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(targets.svls(label, C), plain)


def test_fl_trains_on_the_one_hot_label():
    _, label, _, _ = batch((3,))
    assert torch.equal(targets.soft_label("fl", label, n_classes=C), targets.one_hot(label, C))


@pytest.mark.parametrize("method", ["ce", "ls", "fl", "svls"])
def test_only_geols_needs_maps(method):
    _, label, _, _ = batch((4,))
    sums = targets.soft_label(method, label, n_classes=C).sum(dim=1)
    torch.testing.assert_close(sums, (label != 255).float())
