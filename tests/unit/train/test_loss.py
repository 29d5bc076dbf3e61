"""Losses against hand computations; the fused one is the plain one, for every method, precision and shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from train_fixtures import make_stores, open_fixture

from geols_precompute.errors import InputError
from geols_train import LabelMaps, SoftCrossEntropy
from geols_train import loss as losses
from geols_train.batches import Batch
from geols_train.device import ONE_PROCESS
from geols_train.loss import (
    Objective,
    dice_semimetric_loss,
    focal_loss,
    fused_cross_entropy,
    margin_penalty,
    neighbourhood_penalty,
    neighbourhood_shares,
    soft_cross_entropy,
)
from geols_train.targets import METHODS, Mix, one_hot


def column(values):
    """[c] or [voxel][c] -> [1,c,1,1,voxel]."""
    return torch.tensor(values).T[None, :, None, None, :]


LOGITS = column([[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.5), math.log(0.25), math.log(0.25)]])
ALL = torch.zeros((1, 1, 1, 2), dtype=torch.uint8)


def test_soft_cross_entropy_by_hand():
    target = column([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    first = -(0.9 * math.log(0.7) + 0.1 * math.log(0.2))
    second = -math.log(0.25)
    torch.testing.assert_close(soft_cross_entropy(LOGITS, target, ALL), torch.tensor((first + second) / 2))


def test_voxels_that_do_not_count_change_nothing():
    target = column([[0.9, 0.1, 0.0], [math.nan, 0.0, 0.0]])
    label = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    expected = torch.tensor(-(0.9 * math.log(0.7) + 0.1 * math.log(0.2)))
    torch.testing.assert_close(soft_cross_entropy(LOGITS, target, label), expected)
    assert soft_cross_entropy(LOGITS, target, torch.full_like(label, 255)) == 0


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
    ours = torch.stack(
        [
            dice_semimetric_loss(
                logits[..., i : i + 1], column([[1 - y, y]]), torch.zeros((1, 1, 1, 1), dtype=torch.uint8)
            )
            for i in range(99)
        ]
    )
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
    label = torch.tensor([0, 1, 255]).reshape(1, 1, 1, 3)
    loss = focal_loss(logits, target, label, gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(0.5**gamma * math.log(2), rel=1e-5)
    assert torch.isfinite(logits.grad).all()


# --- penalties --------------------------------------------------------------------------------------------------------


def test_the_margin_penalty_by_hand():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 0.5, 9.0], [7.0, 7.0, 7.0]]).T.reshape(1, 3, 1, 1, 3)
    label = torch.tensor([[[[0, 1, 255]]]], dtype=torch.uint8)
    # behind the largest: 0, 4, 3 and 9, 8.5, 0; beyond a margin of 2: 0, 2, 1 and 7, 6.5, 0
    assert margin_penalty(logits, label, margin=2.0).item() == pytest.approx((3 + 13.5) / 6)
    assert margin_penalty(logits, label, margin=10.0).item() == 0


def test_the_penalty_of_nacl_by_hand():
    label = torch.tensor([[[[0, 1, 1, 255]]]], dtype=torch.uint8)
    logits = torch.tensor([[1.0, -1.0, 0.5, 50.0], [0.0, 2.0, 0.5, -50.0]]).reshape(1, 2, 1, 1, 4)
    # edges replicated along x: 0 0 1, 0 1 1, 1 1 (ignored)
    shares = np.array([[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 1]])
    expected = np.abs(np.array([[1, -1, 0.5], [0, 2, 0.5]]) - shares).mean()
    assert neighbourhood_penalty(logits, label).item() == pytest.approx(expected)


def random_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (2, 7, 8, 9), generator=generator)
    batch = Batch(cases=("a", "b"), image=label, label=label, maps=None, present=torch.ones(2, 3, dtype=torch.bool))
    return torch.randn((2, 3, 7, 8, 9), generator=generator), batch


def objective(method, **options):
    return Objective(mix=Mix(method=method), focal_gamma=0.0, dice_weight=0.0, world=ONE_PROCESS, **options)


def test_nacl_is_that_of_monai(monkeypatch):
    nacl = pytest.importorskip("monai.losses").NACLLoss(classes=3, dim=3, alpha=0.4)
    logits, batch = random_batch()
    shares = neighbourhood_shares(batch.label, 3)
    inside = (slice(None), slice(None), *[slice(1, -1)] * 3)  # MONAI pads with zeros
    torch.testing.assert_close(shares[inside], nacl.get_constr_target(batch.label)[inside])
    monkeypatch.setattr(nacl, "get_constr_target", lambda mask: shares)
    torch.testing.assert_close(objective("nacl", penalty=0.4)(logits, batch), nacl(logits, batch.label))


def test_mbls_adds_its_penalty_to_the_cross_entropy():
    logits, batch = random_batch()
    cross_entropy = functional.cross_entropy(logits, batch.label)
    behind = logits.max(dim=1, keepdim=True).values - logits
    expected = cross_entropy + 0.3 * (behind - 0.5).relu().mean()
    torch.testing.assert_close(objective("mbls", penalty=0.3, margin=0.5)(logits, batch), expected)
    with_dice = replace(objective("mbls", penalty=0.3, margin=0.5), dice_weight=2.0)
    dice = dice_semimetric_loss(logits, one_hot(batch.label, 3), batch.label)
    torch.testing.assert_close(with_dice(logits, batch), expected + 2 * dice)


# --- fused -----------------------------------------------------------------------------------------------------------

SHAPE = (5, 6, 7)
HARD = Mix(method="ce")


def make_batch(n_classes, *, stored_background=False, seed=0, batch=3, shape=SHAPE, dtype=torch.float32):
    """Random logits, labels with ignored and padded voxels, maps with empty places, and an absent class."""
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.integers(0, n_classes, (batch, *shape)).astype(np.uint8))
    channels = tuple(range(0 if stored_background else 1, n_classes))
    present = torch.ones(batch, n_classes, dtype=torch.bool)
    present[1, n_classes - 1] = False
    label[1][label[1] == n_classes - 1] = 0
    stored = torch.from_numpy(rng.integers(0, 256, (batch, len(channels), *shape)).astype(np.uint8))
    stored[:, :, 1] = 0
    stored *= present[:, list(channels)].reshape(batch, len(channels), *(1 for _ in shape))
    label[0, -2:] = 255
    label[2, 0] = 255
    logits = torch.from_numpy(rng.normal(0, 4, (batch, n_classes, *shape)).astype(np.float32)).to(dtype)
    return logits.requires_grad_(), label, stored, channels, present


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored_background", [False, True])
@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize(
    ("method", "alpha", "normalize"),
    [
        ("ce", 0.1, "sum"),
        ("ls", 0.1, "sum"),
        ("geols", 0.1, "sum"),
        ("geols", 0.7, "none"),
        ("geols", 0.0, "sum"),
        ("geols", 1.0, "sum"),
    ],
)
@pytest.mark.parametrize("slab", [17, 60, 2**20])
def test_value_and_gradient_are_those_of_the_plain_form(
    monkeypatch, method, alpha, normalize, n_classes, stored_background, dtype, slab
):
    monkeypatch.setattr(losses, "CPU_SLAB", slab)
    logits, label, stored, channels, present = make_batch(n_classes, stored_background=stored_background, dtype=dtype)
    mix = Mix(method=method, alpha=alpha, normalize=normalize, channels=channels)
    loss = fused_cross_entropy(logits, label, stored, present, mix=mix)
    (3 * loss).backward()
    gradient, logits.grad = logits.grad, None
    plain = soft_cross_entropy(logits, mix.soft_label(label, stored, present, n_classes), label)
    (3 * plain).backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(gradient, logits.grad, **tolerance)
    assert gradient.dtype == dtype
    assert not gradient[(label == 255)[:, None].expand_as(gradient)].any()


@pytest.mark.parametrize(("cases", "voxels", "most"), [(4, 60, 7), (4, 60, 60), (5, 60, 130), (3, 60, 1000)])
def test_slabs_cover_a_batch_once(cases, voxels, most):
    seen = np.zeros((cases, voxels), int)
    for part in losses.slabs(cases, voxels, most):
        assert seen[part].size <= most
        seen[part] += 1
    assert (seen == 1).all()


class Operations(TorchDispatchMode):
    """Counts what is asked of the device; views ask nothing of it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["geols", "ce"])
def test_a_gpu_is_asked_for_few_operations(monkeypatch, method):
    # the paper's batch: 4 classes, 4 × 128×192×192, on a card of 24 GB or more
    parts = len(list(losses.slabs(4, 128 * 192 * 192, losses._slab_of_memory(40 * 2**30, 4))))
    assert parts == 1
    # on a smaller one the batch is in parts, whose temporaries take a sixteenth of the memory
    assert losses._slab_of_memory(8 * 2**30, 4) * 4 * 4 * 6 <= 8 * 2**30 / 16
    # what one slab takes does not depend on its size
    monkeypatch.setattr(losses, "CPU_SLAB", 2**30)
    logits, label, stored, channels, present = make_batch(4, batch=4)
    mix = Mix(method=method, channels=channels)
    with Operations() as asked:
        fused_cross_entropy(logits, label, stored, present, mix=mix).backward()
    assert asked.count <= 60


def test_hard_labels_give_the_cross_entropy_of_torch():
    logits, label, *_ = make_batch(4)
    loss = fused_cross_entropy(logits, label, mix=HARD)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, label.long(), ignore_index=255))


def test_the_gradient_by_finite_differences():
    logits, label, stored, channels, present = make_batch(3, shape=(4, 3, 2))
    mix = Mix(method="geols", alpha=0.3, channels=channels)
    step = 1e-2
    fused_cross_entropy(logits, label, stored, present, mix=mix).backward()
    for place in [(0, 0, 0, 0, 0), (1, 2, 0, 2, 1), (1, 1, 1, 1, 0)]:
        values = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[place] += sign * step
            values.append(fused_cross_entropy(moved, label, stored, present, mix=mix))
        assert logits.grad[place] == pytest.approx(float(values[0] - values[1]) / (2 * step), abs=2e-4)


def test_infinite_and_nan_logits_where_nothing_counts_play_no_part():
    logits, label, stored, channels, present = make_batch(3)
    with torch.no_grad():
        logits[0, :, -1] = torch.nan
        logits[0, 1, -2] = torch.inf
    loss = fused_cross_entropy(logits, label, stored, present, mix=Mix(method="geols", channels=channels))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_no_voxel_counts():
    logits, label, *_ = make_batch(3)
    loss = fused_cross_entropy(logits, torch.full_like(label, 255), mix=HARD)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_without_a_gradient_none_is_made():
    logits, label, *_ = make_batch(3)
    with torch.no_grad():
        loss = fused_cross_entropy(logits, label, mix=HARD)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, fused_cross_entropy(logits, label, mix=HARD).detach())


def test_the_gradient_is_given_once():
    logits, label, *_ = make_batch(3)
    loss = fused_cross_entropy(logits, label, mix=HARD)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="given once"):
        loss.backward()


@pytest.mark.parametrize("method", ["ce", "ls", "geols"])
def test_the_host_waits_for_no_value_and_sends_no_index(method):
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            assert operation.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "index", "index_put_")
            return operation(*args, **(kwargs or {}))

    logits, label, stored, channels, present = make_batch(3)
    with Waits():
        fused_cross_entropy(logits, label, stored, present, mix=Mix(method=method, channels=channels)).backward()


def test_autocast_changes_nothing():
    logits, label, stored, channels, present = make_batch(3)
    mix = Mix(method="geols", channels=channels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fused_cross_entropy(logits, label, stored, present, mix=mix)
    assert inside == fused_cross_entropy(logits, label, stored, present, mix=mix)


@pytest.mark.parametrize("way", ["fused", "plain"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_float16_keeps_the_gradients_that_a_scaler_will_multiply(way, alpha):
    logits, label, stored, channels, present = make_batch(3, shape=(40, 48, 40), dtype=torch.float16)
    mix = Mix(method="geols", alpha=alpha, channels=channels)
    target = mix.soft_label(label, stored, present, 3)
    with torch.autocast("cpu", dtype=torch.float16):
        if way == "fused":
            loss = fused_cross_entropy(logits, label, stored, present, mix=mix)
        else:
            loss = soft_cross_entropy(logits, target, label)
    torch.amp.GradScaler("cpu").scale(loss).backward()
    assert logits.grad.dtype == torch.float16
    found = logits.grad.double() / 2**16
    exact = logits.detach().double().requires_grad_()
    soft_cross_entropy_in_float64(exact, target.double(), label).backward()
    assert (found - exact.grad).norm() < 5e-4 * exact.grad.norm()
    lost = (found == 0) & (exact.grad.abs() > 1e-12)
    assert lost.sum() < 1e-4 * lost.numel()


def soft_cross_entropy_in_float64(logits, target, label):
    counted = label != 255
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)[counted].sum() / counted.sum()


def test_logits_in_any_memory_layout():
    logits, label, *_ = make_batch(4)
    other = logits.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    found = [fused_cross_entropy(t, label, mix=HARD) for t in (logits, other)]
    for loss in found:
        loss.backward()
    assert found[0] == found[1]
    torch.testing.assert_close(logits.grad, other.grad)


# --- the public loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 6, 7), (9, 8), (11,), (2, 3, 4, 5)])
@pytest.mark.parametrize("index_type", [torch.uint8, torch.int64])
def test_the_public_loss_is_that_of_the_soft_label_on_any_axes(shape, index_type):
    logits, label, stored, channels, present = make_batch(4, shape=shape)
    loss = SoftCrossEntropy(channels=channels, alpha=0.3, normalize="none")(
        logits, label.to(index_type), stored, present
    )
    soft = Mix(method="geols", alpha=0.3, normalize="none", channels=channels).soft_label(label, stored, present, 4)
    torch.testing.assert_close(loss, soft_cross_entropy(logits, soft, label))
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("background", ["complement", "seeds"])
def test_the_public_loss_of_a_store_takes_its_maps_as_they_come(tmp_path, background):
    out = make_stores(tmp_path, cases=2, absent=(1,), ignore=9, background=background)
    stores = open_fixture(out)
    batch = torch.utils.data.default_collate(list(LabelMaps(stores.labels)))
    label = torch.from_numpy(np.stack([stores.volumes.label(case) for case in stores.volumes]))
    logits = torch.randn(2, 3, *label.shape[1:])
    loss = SoftCrossEntropy.for_store(stores.labels, alpha=0.2)(logits, label, batch["maps"], batch["present"])
    soft = [stores.labels.soft_label(case, stores.volumes.label(case), alpha=0.2) for case in stores.labels]
    torch.testing.assert_close(loss, soft_cross_entropy(logits, torch.from_numpy(np.stack(soft)), label))


def test_what_the_public_loss_refuses():
    logits, label, stored, channels, present = make_batch(4)
    loss = SoftCrossEntropy(channels=channels)
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got 1.5"):
        SoftCrossEntropy(channels=channels, alpha=1.5)
    with pytest.raises(InputError, match=r"label has the shape \(3, 1, 5, 6, 7\); .* ask for \(3, 5, 6, 7\)"):
        loss(logits, label[:, None], stored, present)
    with pytest.raises(InputError, match=r"maps has the shape \(3, 2, 5, 6, 7\); .* ask for \(3, 3, 5, 6, 7\)"):
        loss(logits, label, stored[:, 1:], present)
    with pytest.raises(InputError, match=r"present has the shape \(3, 3\); .* ask for \(3, 4\)"):
        loss(logits, label, stored, present[:, 1:])
    assert "alpha=0.1" in repr(loss)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.is_pointwise])
def test_a_pointwise_method_gives_each_voxel_its_soft_label_whatever_is_beside_it(method):
    _, label, stored, channels, present = make_batch(4)
    mix = Mix(method=method, alpha=0.3, channels=channels)
    if METHODS[method].is_made_on_load:
        stored = functional.one_hot(label.clamp(max=3).long(), 4).movedim(-1, 1) * 0.9 + 0.025
    whole = mix.soft_label(label, stored, present, 4).flatten(2)
    slab = slice(40, 90)
    part = mix.soft_label(label.flatten(1)[:, slab], stored.flatten(2)[:, :, slab], present, 4)
    assert torch.equal(part, whole[:, :, slab])
