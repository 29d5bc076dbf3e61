"""Augmentation moves everything of a batch alike, and only as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geols_train.augment import augment, vary_intensities
from geols_train.targets import Mix


def tensors():
    image = torch.arange(2 * 1 * 2 * 3 * 4).reshape(2, 1, 2, 3, 4)
    return [image, image[:, 0], image.repeat(1, 2, 1, 1, 1)]


def test_image_label_and_maps_stay_together():
    shapes = set()
    for seed in range(60):
        for kind in ("paper", "flips"):
            image, label, maps = augment(tensors(), kind, np.random.default_rng(seed))
            assert torch.equal(image[:, 0], label)
            assert torch.equal(maps[:, 1], label)
            assert torch.equal(image.flatten().sort().values, tensors()[0].flatten())
        shapes.add(tuple(augment(tensors(), "paper", np.random.default_rng(seed))[1].shape[1:]))
    # two axes change places, or none does
    assert shapes == {(2, 3, 4), (3, 2, 4), (4, 3, 2), (2, 4, 3)}


def test_paper_leaves_half_of_the_batches_alone_and_rotates_the_others():
    moved = [
        not torch.equal(augment(tensors(), "paper", np.random.default_rng(s))[0], tensors()[0]) for s in range(400)
    ]
    assert 0.42 < np.mean(moved) < 0.58
    cube = torch.arange(27).reshape(1, 3, 3, 3)
    results = [augment([cube], "paper", np.random.default_rng(s))[0] for s in range(400)]
    distinct = {tuple(r.flatten().tolist()) for r in results}
    assert len(distinct) == 10  # 3 transpositions times 3 flips, and the batch as it was


def test_flips_touch_only_the_axes_that_are_named():
    label = torch.arange(24).reshape(1, 2, 3, 4)
    seen = set()
    for seed in range(40):
        (flipped,) = augment([label], "flips", np.random.default_rng(seed), flip_axes="x")
        seen.add(bool(torch.equal(flipped, label)))
        assert torch.equal(flipped, label) or torch.equal(flipped, label.flip(3))
    assert seen == {True, False}


def test_none_and_the_same_generator_give_the_same_batch():
    for kind in ("paper", "flips", "none"):
        first, second = (augment(tensors(), kind, np.random.default_rng(7)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(augment(tensors(), "none", np.random.default_rng(0))[0], tensors()[0])


@pytest.mark.parametrize("method", ["ce", "ls", "svls", "geols"])
def test_a_soft_label_moves_with_its_voxels_and_keeps_its_sum(method):
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8))
    stored = torch.from_numpy(rng.integers(0, 256, (2, 2, 5, 6, 7)).astype(np.uint8))
    present = torch.tensor([[True, True, True], [True, True, False]])

    def mixed(label, stored):
        return Mix(method=method, channels=(1, 2)).soft_label(label, stored, present, 3)

    for seed in range(20):
        turned = augment([label, stored], "paper", np.random.default_rng(seed))
        (expected,) = augment([mixed(label, stored)], "paper", np.random.default_rng(seed))
        found = mixed(*turned)
        # SVLS adds its 27 weights in another order after a turn
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if method == "svls" else 0)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(found.shape[0], *found.shape[2:]), rtol=0, atol=1e-6)


class Drawn:
    """A generator that draws what a test wants: which kinds happen, and their parameters."""

    def __init__(self, kinds, variance=0.05, factor=1.2, contrast=0.8, gamma=1.4):
        self.chance = np.where(kinds, 0.0, 1.0)
        self.parameters = np.array([variance, factor, contrast, gamma])

    def random(self, size):
        return self.chance

    def integers(self, high):
        return 5

    def uniform(self, low, high):
        assert (np.array(low) <= self.parameters).all()
        assert (self.parameters <= np.array(high)).all()
        return self.parameters


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(1).normal(size=(2, 2, 20, 21, 22)).astype(np.float32))


def test_each_kind_of_intensity_does_what_it_says(image):
    def vary(*kinds):
        return vary_intensities(image[:1, :1], [Drawn(kinds)])[0, 0].double()

    before = image[0, 0].double()
    assert torch.equal(vary(0, 0, 0, 0), before)
    noise = vary(1, 0, 0, 0) - before
    assert noise.var().item() == pytest.approx(0.05, rel=0.05)
    assert abs(noise.mean().item()) < 0.01
    torch.testing.assert_close(vary(0, 1, 0, 0), 1.2 * before, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vary(0, 0, 1, 0), 0.8 * before + 0.2 * before.mean(), rtol=1e-5, atol=1e-6)
    bent = vary(0, 0, 0, 1)
    assert bent.mean().item() == pytest.approx(before.mean().item(), abs=1e-5)
    assert bent.std().item() == pytest.approx(before.std().item(), rel=1e-5)
    # a power keeps the order of the voxels, and above 1 it stretches the bright end
    assert torch.equal(bent.flatten().argsort(), before.flatten().argsort())
    assert (bent.max() - bent.median()) / (bent.median() - bent.min()) > (before.max() - before.median()) / (
        before.median() - before.min()
    )


def test_intensities_of_a_case_do_not_depend_on_those_beside_it(image):
    def rngs():
        return [np.random.default_rng((9, case)) for case in range(2)]

    both = vary_intensities(image, rngs())
    assert torch.equal(both[1:], vary_intensities(image[1:], rngs()[1:]))
    many = image.repeat(100, 1, 1, 1, 1)
    varied = vary_intensities(many, [np.random.default_rng((9, case)) for case in range(200)])
    untouched = (varied == many).flatten(2).all(dim=2)
    # 0.9 · 0.85² · 0.7 of all modalities are left as they were, each for itself
    assert untouched.float().mean().item() == pytest.approx(0.9 * 0.85**2 * 0.7, abs=0.07)
    assert (untouched[:, 0] != untouched[:, 1]).any()


def test_a_flat_image_stays_finite():
    flat = torch.full((1, 1, 4, 4, 4), 2.0)
    assert torch.isfinite(vary_intensities(flat, [Drawn((0, 1, 1, 1))])).all()
