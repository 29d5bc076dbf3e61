"""Losses against hand computations, and the Dice term's minimum."""

from __future__ import annotations

import math

import pytest
import torch

from geols_train.losses import dice_semimetric_loss, focal_loss, soft_cross_entropy


def column(values):
    """[c] or [voxel][c] -> [1,c,1,1,voxel]."""
    return torch.tensor(values).T[None, :, None, None, :]


LOGITS = column([[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.5), math.log(0.25), math.log(0.25)]])
ALL = torch.ones((1, 1, 1, 2), dtype=torch.bool)


def test_soft_cross_entropy_by_hand():
    target = column([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    first = -(0.9 * math.log(0.7) + 0.1 * math.log(0.2))
    second = -math.log(0.25)
    torch.testing.assert_close(soft_cross_entropy(LOGITS, target, ALL), torch.tensor((first + second) / 2))


def test_voxels_that_do_not_count_change_nothing():
    target = column([[0.9, 0.1, 0.0], [math.nan, 0.0, 0.0]])
    counted = torch.tensor([[[[True, False]]]])
    expected = torch.tensor(-(0.9 * math.log(0.7) + 0.1 * math.log(0.2)))
    torch.testing.assert_close(soft_cross_entropy(LOGITS, target, counted), expected)
    assert soft_cross_entropy(LOGITS, target, torch.zeros_like(counted)) == 0


@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.0])
def test_focal_loss_by_hand(gamma):
    target = column([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    expected = (-(0.8**gamma) * math.log(0.2) - 0.5**gamma * math.log(0.5)) / 2
    torch.testing.assert_close(focal_loss(LOGITS, target, ALL, gamma=gamma), torch.tensor(expected))


def test_focal_loss_without_focus_is_cross_entropy():
    target = column([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(focal_loss(LOGITS, target, ALL, gamma=0.0), soft_cross_entropy(LOGITS, target, ALL))


def test_dice_semimetric_loss_by_hand():
    target = column([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    # foreground classes: |p - y| = 0.1 + 0.25 and 0.1 + 0.25; |p| + |y| = 0.45 + 0.6 and 0.35 + 0.5
    expected = (0.35 / 1.05 + 0.35 / 0.85) / 2
    torch.testing.assert_close(dice_semimetric_loss(LOGITS, target, ALL), torch.tensor(expected))


def test_on_hard_targets_it_is_the_soft_dice_loss():
    p = LOGITS.softmax(dim=1)[:, 1:]
    y = column([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    usual = 1 - 2 * (p * y[:, 1:]).sum(dim=(0, 2, 3, 4)) / (p + y[:, 1:]).sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(dice_semimetric_loss(LOGITS, y, ALL), usual.mean())


def test_its_minimum_on_a_soft_target_is_the_target_where_the_usual_form_goes_to_the_corner():
    y = torch.tensor(0.7)
    grid = torch.linspace(0.01, 0.99, 99)
    logits = torch.stack([torch.log(1 - grid), torch.log(grid)])[None, :, None, None, :]
    ours = torch.stack([
        dice_semimetric_loss(logits[..., i : i + 1], column([[1 - y, y]]), torch.ones((1, 1, 1, 1), dtype=torch.bool))
        for i in range(99)
    ])  # fmt: skip
    usual = 1 - 2 * grid * y / (grid + y)
    assert grid[ours.argmin()] == pytest.approx(0.7)
    assert ours.min() == pytest.approx(0, abs=1e-6)
    assert grid[usual.argmin()] == pytest.approx(0.99)


def test_losses_are_float32_from_bfloat16_logits():
    target = column([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    for loss in (soft_cross_entropy, dice_semimetric_loss):
        assert loss(LOGITS.bfloat16(), target, ALL).dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_focal_loss_has_a_finite_slope_beside_voxels_that_do_not_count(gamma):
    logits = torch.zeros(1, 2, 1, 1, 3, requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).reshape(1, 2, 1, 1, 3)
    counted = torch.tensor([True, True, False]).reshape(1, 1, 1, 3)
    loss = focal_loss(logits, target, counted, gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(0.5**gamma * math.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()
