"""Soft labels on the device equal those of NumPy, and hand computations."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geols_precompute import softlabel
from geols_precompute.errors import InputError
from geols_train import targets
from geols_train.targets import METHODS, Mix, class_maps, one_hot, soft_label

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
    options = {"alpha": alpha, "normalize": "sum" if total else "none"}
    cases, label, stored, present = batch((seed, seed + 1), channels=channels)
    maps = class_maps(stored, channels=channels, present=present, n_classes=C)
    for got, g, (hard, uint8, here) in zip(soft_label(label, maps, **options), maps, cases, strict=True):
        expected = softlabel.class_maps(uint8, channels=channels, present=here, n_classes=C)
        np.testing.assert_allclose(g.numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(got.numpy(), softlabel.soft_label(hard, expected, **options), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0, 1))
def test_the_other_targets_equal_numpy(seed, alpha):
    cases, label, _, _ = batch((seed, seed + 1))
    for got, (hard, _, _) in zip(one_hot(label, C), cases, strict=True):
        np.testing.assert_array_equal(got.numpy(), softlabel.one_hot(hard, C))
    for method in ("ce", "ls", "fl", "svls"):
        options = {"method": method, "n_classes": C, "alpha": alpha}
        for got, (hard, _, _) in zip(soft_label(label, **options), cases, strict=True):
            np.testing.assert_allclose(got.numpy(), softlabel.soft_label(hard, **options), atol=1e-6)


def test_by_hand():
    label = torch.tensor([[[[0, 1, 255]]]], dtype=torch.uint8)
    smooth = soft_label(label, method="ls", n_classes=2, alpha=0.1)[0, :, 0, 0]
    torch.testing.assert_close(smooth, torch.tensor([[0.95, 0.05, 0], [0.05, 0.95, 0]]))
    stored = torch.tensor([[[[[51, 255, 255]]]]], dtype=torch.uint8)  # g_1 = 0.2, 1, 1; g_0 = 0.8, 0, 0
    maps = class_maps(stored, channels=(1,), present=torch.tensor([[False, True]]), n_classes=2)
    soft = soft_label(label, maps, alpha=0.5)
    torch.testing.assert_close(soft[0, :, 0, 0], torch.tensor([[0.9, 0, 0], [0.1, 1, 0]]))


def test_normalize_none_keeps_the_published_sum():
    # two present classes with g = 0.5: the background is 0.5 too, and the sum 1.5
    label = torch.ones((1, 1, 1, 1), dtype=torch.uint8)
    maps = torch.full((1, 3, 1, 1, 1), 0.5)
    none = soft_label(label, maps, alpha=0.2, normalize="none").flatten()
    torch.testing.assert_close(none, torch.tensor([0.1, 0.9, 0.1]))
    torch.testing.assert_close(soft_label(label, maps, alpha=0.2).flatten().sum(), torch.tensor(1.0))


def test_alpha_zero_is_one_hot_bit_for_bit():
    _, label, stored, present = batch((1, 2))
    maps = class_maps(stored, channels=(1, 2, 3), present=present, n_classes=C)
    assert torch.equal(soft_label(label, maps, alpha=0.0), soft_label(label, method="ce", n_classes=C))


def test_without_a_present_class_the_background_map_is_one():
    stored = torch.full((1, 1, 1, 1, 2), 200, dtype=torch.uint8)
    maps = class_maps(stored, channels=(1,), present=torch.tensor([[False, False]]), n_classes=2)
    assert maps.flatten().tolist() == [1, 1, 0, 0]


def test_svls_does_not_depend_on_autocast():
    _, label, _, _ = batch((3,))
    plain = soft_label(label, method="svls", n_classes=C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(soft_label(label, method="svls", n_classes=C), plain)


def test_fl_trains_on_the_one_hot_label():
    _, label, _, _ = batch((3,))
    assert torch.equal(soft_label(label, method="fl", n_classes=C), one_hot(label, C))


MADE_ON_LOAD = [name for name, method in METHODS.items() if method.is_made_on_load]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"geols", *MADE_ON_LOAD}))
def test_only_geols_needs_maps(method):
    _, label, _, _ = batch((4,))
    sums = soft_label(label, method=method, n_classes=C).sum(dim=1)
    torch.testing.assert_close(sums, (label != 255).float())
    assert method != "geols"


@pytest.mark.parametrize("method", MADE_ON_LOAD)
def test_what_is_made_on_load_is_taken_as_it_is_but_where_the_label_is_ignored(method):
    label = torch.tensor([[[[0, 1, 255]]]], dtype=torch.uint8)
    made = torch.tensor([[[[[0.75, 0.25, 0.5]]], [[[0.25, 0.75, 0.5]]]]])
    soft = Mix(method=method).soft_label(label, made, torch.zeros(1, 2, dtype=torch.bool), 2)
    assert soft[0, :, 0, 0].tolist() == [[0.75, 0.25, 0], [0.25, 0.75, 0]]
    with pytest.raises(InputError, match=r"made from the volume by .*: give it as maps"):
        soft_label(label, method=method, n_classes=2)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(MADE_ON_LOAD)))
def test_a_method_says_whether_alpha_changes_it(method):
    _, label, stored, present = batch((5,))
    mixes = [Mix(method=method, channels=(1, 2, 3), alpha=alpha) for alpha in (0.1, 0.7)]
    one, other = (mix.soft_label(label, stored, present, C) for mix in mixes)
    assert torch.equal(one, other) != METHODS[method].uses_alpha


def test_every_method_has_its_record():
    assert set(METHODS) == set(get_args(softlabel.MethodName))


@pytest.mark.parametrize("axes", [(3, 4), (24,), (2, 3, 2, 2)])
@pytest.mark.parametrize("index_type", [torch.int64, torch.int16])
def test_any_axes_may_follow_and_any_integers_be_indices(axes, index_type):
    _, label, stored, present = batch((6, 7), shape=(2, 3, 4))
    expected = soft_label(label, class_maps(stored, channels=(1, 2, 3), present=present, n_classes=C))
    axes = axes if np.prod(axes) == 24 else (4, 6)
    maps = class_maps(stored.reshape(2, 3, *axes), channels=(1, 2, 3), present=present, n_classes=C)
    got = soft_label(label.reshape(2, *axes).to(index_type), maps)
    assert torch.equal(got, expected.reshape(2, C, *axes))


def test_what_is_refused():
    label, maps = torch.zeros(1, 2, 3, 4, dtype=torch.uint8), torch.ones(1, 3, 2, 3, 4)
    for arguments, options, message in [
        ((label, maps), {"alpha": 1.1}, r"alpha must be in \[0, 1\], got 1.1"),
        ((label,), {"n_classes": 3}, "method geols needs the maps of every class"),
        ((label,), {"method": "ce"}, "n_classes is needed where there are no maps"),
        ((label[:, 1:], maps), {}, r"maps of shape \(1, 3, 2, 3, 4\) do not fit 3 classes and a label of shape"),
        ((label, maps), {"n_classes": 4}, "do not fit 4 classes"),
        ((label[0],), {"method": "svls", "n_classes": 3}, r"svls needs a label \[b,z,y,x\]"),
    ]:
        with pytest.raises(InputError, match=message):
            soft_label(*arguments, **options)


def test_the_kernel_of_svls_is_brought_to_a_device_once(monkeypatch):
    label = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    soft_label(label, method="svls", n_classes=2)
    monkeypatch.setattr(targets, "svls_kernel", lambda: pytest.fail("made again"))
    soft_label(label, method="svls", n_classes=2)
