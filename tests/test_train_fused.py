"""The fused loss is the plain one: value and gradient, every method, precision, ignored and padded voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from geols_train import fused
from geols_train.fused import Mix, mixed_cross_entropy
from geols_train.losses import soft_cross_entropy
from geols_train.targets import soft_label

SHAPE = (5, 6, 7)


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
    stored *= present[:, list(channels), None, None, None]
    counted = torch.ones(batch, *shape, dtype=torch.bool)
    counted[0, -2:] = False
    label[2, 0] = 255
    counted[2, 0] = False
    logits = torch.from_numpy(rng.normal(0, 4, (batch, n_classes, *shape)).astype(np.float32)).to(dtype)
    return logits.requires_grad_(), label, counted, stored, channels, present


def mixed(method, alpha, normalize, stored, channels, present) -> Mix:
    if method == "geols":
        return Mix(alpha=alpha, stored=stored, channels=channels, present=present, normalize=normalize)
    return Mix(alpha=alpha if method == "ls" else 0.0)


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
@pytest.mark.parametrize("slab", [17, 2**20])
def test_value_and_gradient_are_those_of_the_plain_form(
    monkeypatch, method, alpha, normalize, n_classes, stored_background, dtype, slab
):
    monkeypatch.setitem(fused.SLAB, "cpu", slab)
    logits, label, counted, stored, channels, present = make_batch(
        n_classes, stored_background=stored_background, dtype=dtype
    )
    loss = mixed_cross_entropy(logits, label, counted, mixed(method, alpha, normalize, stored, channels, present))
    (3 * loss).backward()
    gradient, logits.grad = logits.grad, None
    target = soft_label(
        method, torch.where(counted, label, 255), n_classes=n_classes, alpha=alpha, normalize=normalize,
        stored_BKZYX=stored, channels=channels, present_BC=present,
    )  # fmt: skip
    plain = soft_cross_entropy(logits, target, counted)
    (3 * plain).backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-4}
    torch.testing.assert_close(gradient, logits.grad, **tolerance)
    assert gradient.dtype == dtype
    assert not gradient[(~counted)[:, None].expand_as(gradient)].any()


def test_hard_labels_give_the_cross_entropy_of_torch():
    logits, label, counted, *_ = make_batch(4)
    loss = mixed_cross_entropy(logits, label, counted, Mix())
    index = torch.where(counted, label, 255).long()
    torch.testing.assert_close(loss, functional.cross_entropy(logits, index, ignore_index=255))


def test_the_gradient_by_finite_differences():
    logits, label, counted, stored, channels, present = make_batch(3, shape=(4, 3, 2))
    mix = Mix(alpha=0.3, stored=stored, channels=channels, present=present)
    step = 1e-2
    mixed_cross_entropy(logits, label, counted, mix).backward()
    for place in [(0, 0, 0, 0, 0), (1, 2, 0, 2, 1), (1, 1, 1, 1, 0)]:
        values = []
        for sign in (1, -1):
            moved = logits.detach().clone()
            moved[place] += sign * step
            values.append(mixed_cross_entropy(moved, label, counted, mix))
        assert logits.grad[place] == pytest.approx(float(values[0] - values[1]) / (2 * step), abs=2e-4)


def test_infinite_and_nan_logits_where_nothing_counts_play_no_part():
    logits, label, counted, stored, channels, present = make_batch(3)
    with torch.no_grad():
        logits[0, :, -1] = torch.nan
        logits[0, 1, -2] = torch.inf
    loss = mixed_cross_entropy(
        logits, label, counted, Mix(alpha=0.1, stored=stored, channels=channels, present=present)
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_no_voxel_counts():
    logits, label, counted, *_ = make_batch(3)
    loss = mixed_cross_entropy(logits, label, torch.zeros_like(counted), Mix())
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_without_a_gradient_none_is_made():
    logits, label, counted, *_ = make_batch(3)
    with torch.no_grad():
        loss = mixed_cross_entropy(logits, label, counted, Mix())
    assert not loss.requires_grad
    torch.testing.assert_close(loss, mixed_cross_entropy(logits, label, counted, Mix()).detach())


def test_the_gradient_is_given_once():
    logits, label, counted, *_ = make_batch(3)
    loss = mixed_cross_entropy(logits, label, counted, Mix())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="given once"):
        loss.backward()


@pytest.mark.parametrize("method", ["ce", "ls", "geols"])
def test_the_host_waits_for_no_value_and_sends_no_index(method):
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            assert operation.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "index", "index_put_")
            return operation(*args, **(kwargs or {}))

    logits, label, counted, stored, channels, present = make_batch(3)
    with Waits():
        mixed_cross_entropy(logits, label, counted, mixed(method, 0.1, "sum", stored, channels, present)).backward()


def test_autocast_changes_nothing():
    logits, label, counted, stored, channels, present = make_batch(3)
    mix = Mix(alpha=0.1, stored=stored, channels=channels, present=present)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixed_cross_entropy(logits, label, counted, mix)
    assert inside == mixed_cross_entropy(logits, label, counted, mix)


def test_logits_in_any_memory_layout():
    logits, label, counted, *_ = make_batch(4)
    other = logits.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    losses = [mixed_cross_entropy(t, label, counted, Mix()) for t in (logits, other)]
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    torch.testing.assert_close(logits.grad, other.grad)
