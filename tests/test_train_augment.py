"""Augmentation moves everything of a batch alike, and only as it says."""

from __future__ import annotations

import numpy as np
import torch

from geols_train.augment import augment


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
