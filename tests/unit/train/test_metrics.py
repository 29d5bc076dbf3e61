"""Metrics against surface-distance and MONAI, and the rule for empty masks."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import surface_distance
import torch
from scipy import ndimage

from geols_train.metrics import (
    agreement,
    border,
    border_band,
    calibration,
    calibration_error,
    dice,
    structure_dice,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

# MONAI and surface-distance warn about NumPy and SciPy of the future
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SPACING = (2.5, 1.0, 0.8)


def blob(seed, shape=(9, 14, 13), level=0.5):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return field > np.quantile(field, level)


PAIRS = {
    **{f"blobs {seed}": (blob(seed, level=0.8), blob(seed + 50, level=0.7)) for seed in range(4)},
    "noise": (blob(1, level=0.5), np.random.default_rng(0).random((9, 14, 13)) < 0.3),
    "equal": (blob(2), blob(2)),
    "everything": (np.ones((9, 14, 13), bool), blob(3)),
    "scattered, one voxel": (np.indices((9, 14, 13)).sum(axis=0) % 7 == 0, np.arange(1638).reshape(9, 14, 13) == 7),
    "far apart": (np.indices((9, 14, 13))[1] < 2, np.indices((9, 14, 13))[1] > 11),
}


def tensor(mask):
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("name", PAIRS)
def test_against_monai(name):
    predicted, reference = PAIRS[name]
    ours = agreement(predicted, reference, SPACING, tolerance_mm=2.0)
    p, r = tensor(predicted), tensor(reference)
    assert ours.dice == pytest.approx(compute_dice(p, r).item(), abs=1e-6)
    expected = compute_surface_dice(
        p, r, class_thresholds=[2.0], include_background=True, spacing=SPACING, use_subvoxels=True
    ).item()
    assert ours.surface_dice == pytest.approx(expected, abs=1e-6)
    expected = compute_hausdorff_distance(p, r, include_background=True, percentile=95, spacing=SPACING).item()
    assert ours.hd95_mm == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_against_surface_distance(name):
    predicted, reference = PAIRS[name]
    ours = agreement(predicted, reference, SPACING, tolerance_mm=1.5)
    assert ours.dice == pytest.approx(surface_distance.compute_dice_coefficient(reference, predicted), abs=1e-12)
    theirs = surface_distance.compute_surface_distances(reference, predicted, SPACING)
    expected = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.5)
    assert ours.surface_dice == pytest.approx(expected, abs=1e-9)


def test_empty_masks():
    empty, full = np.zeros((4, 5, 6), bool), blob(0, (4, 5, 6))
    both = agreement(empty, empty, SPACING, tolerance_mm=1.0)
    assert (both.dice, both.surface_dice, both.hd95_mm) == (1, 1, 0)
    for pair in ((empty, full), (full, empty)):
        one = agreement(*pair, SPACING, tolerance_mm=1.0)
        assert (one.dice, one.surface_dice) == (0, 0)
        assert math.isnan(one.hd95_mm)


def test_by_hand_in_millimetres():
    a, b = np.zeros((2, 3, 9, 5), bool)
    a[1, 1, 1], b[1, 7, 1] = True, True
    found = agreement(a, b, SPACING, tolerance_mm=2.0)
    assert found.hd95_mm == pytest.approx(6.0)
    assert (found.dice, found.surface_dice) == (0, 0)
    assert agreement(a, b, SPACING, tolerance_mm=6.0).surface_dice == 1


def test_the_edge_of_the_grid_is_border():
    mask = np.ones((3, 3, 3), bool)
    assert border(mask).sum() == 26
    # and it does not matter how far the grid goes on
    a, b = blob(5), blob(6)
    wide = [np.pad(m, 4) for m in (a, b)]
    assert agreement(a, b, SPACING, tolerance_mm=2.0) == agreement(*wide, SPACING, tolerance_mm=2.0)


def test_dice_counts_only_what_counts():
    rng = np.random.default_rng(0)
    predicted, label = (torch.from_numpy(rng.integers(0, 3, (4, 5, 6))) for _ in range(2))
    counted = torch.from_numpy(rng.random((4, 5, 6)) < 0.7)
    label[~counted] = 255
    structures = [[1], [2], [3], [1, 2], [2, 3]]
    ours = structure_dice(predicted, label.to(torch.uint8), counted, structures, n_classes=4)
    for indices, found in zip(structures, ours, strict=True):
        masks = (np.isin(volume.numpy(), indices) & counted.numpy() for volume in (predicted, label))
        assert found == pytest.approx(dice(*masks))
    assert ours[2] == 1  # absent from both


def test_calibration_against_numpy():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.4, 0.3, 0.2, 0.1], size=(6, 7, 8)).astype(np.float32)
    label, counted = rng.integers(0, 4, (6, 7, 8)), rng.random((6, 7, 8)) < 0.7
    label[~counted] = 255
    found = calibration(torch.from_numpy(p).movedim(-1, 0), torch.from_numpy(label), torch.from_numpy(counted))
    brier, nll, bins = [], [], {}
    for q, y in zip(p[counted], label[counted], strict=True):
        q = q.astype(float)
        brier.append(((q - np.eye(4)[y]) ** 2).sum())
        nll.append(-np.log(q[y]))
        # bin k has the confidences above (k - 1) / 15 and up to k / 15
        bins.setdefault(math.ceil(q.max() * 15), []).append(q.max() - (q.argmax() == y))
    assert found.brier == pytest.approx(np.mean(brier), rel=1e-6)
    assert found.nll == pytest.approx(np.mean(nll), rel=1e-6)
    assert found.ece == pytest.approx(sum(abs(sum(gaps)) for gaps in bins.values()) / counted.sum(), rel=1e-6)
    none = calibration(torch.from_numpy(p).movedim(-1, 0), torch.from_numpy(label), torch.zeros(6, 7, 8, dtype=bool))
    assert math.isnan(none.ece)
    assert math.isnan(none.brier)
    assert math.isnan(none.nll)


def test_a_certain_mistake_has_a_finite_loss():
    probabilities = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
    one = torch.ones(1, 1, 1, dtype=torch.long)
    found = calibration(probabilities, one, one.bool())
    assert (found.ece, found.brier) == (1, 2)
    assert found.nll == pytest.approx(87.3, abs=0.1)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.5, 3.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_the_border_band_by_brute_force(width, ignored):
    label = np.digitize(ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(6, 9, 8)), 2), [-0.02, 0.05])
    counted = np.ones(label.shape, bool)
    if ignored:
        counted[0] = counted[:, 3:5, 2:4] = False
    seen = np.where(counted, label, 255).astype(np.uint8)
    places = np.argwhere(np.ones(label.shape, bool)) * SPACING
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    # an ignored voxel is what the nearest voxel is that counts
    filled = seen.ravel()[np.where(counted.ravel()[None], apart, np.inf).argmin(axis=1)]
    near = (np.where(filled[:, None] != filled[None], apart, np.inf).min(axis=1) <= width + 1e-6).reshape(label.shape)
    assert near.any() == (width >= 0.8)
    found = border_band(seen, counted, SPACING, width_mm=width)
    # where two voxels are equally near to an ignored one, either may be taken
    assert (found != (near & counted)).sum() <= (4 if ignored else 0)
    assert not found[~counted].any()


def test_calibration_error_by_hand():
    # three voxels at 0.9, one of them wrong; one at 0.6, right; one that does not count
    p = torch.tensor([0.9, 0.9, 0.9, 0.6, 1.0])
    probabilities = torch.stack([1 - p, p]).reshape(2, 1, 1, 5)
    label = torch.tensor([[[1, 1, 0, 1, 0]]])
    counted = torch.tensor([[[True, True, True, True, False]]])
    expected = (abs(2 - 2.7) + abs(1 - 0.6)) / 4
    assert calibration_error(probabilities, label, counted) == pytest.approx(expected, abs=1e-6)
    assert calibration_error(probabilities, label, torch.zeros_like(counted)) == 0
    perfect = torch.stack([1 - label.float(), label.float()])
    assert calibration_error(perfect, label, counted) == 0
