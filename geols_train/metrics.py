"""Metrics: Dice, surface Dice and 95 % Hausdorff distance of two masks, and how far probabilities can be trusted.

Empty masks: if both are empty the agreement is 1 and the distance 0; if one is, the agreement is 0 and the distance
is not defined (NaN), so it is counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import edt
import numpy as np
import torch
from scipy import ndimage
from surface_distance import lookup_tables

from geols_precompute.arrays import BoolArray, Float32Array, Float64Array, UInt8Array

#: A surface Dice asks for no more than a voxel can show, and for no less than this.
LEAST_TOLERANCE_MM = 1.0
CALIBRATION_BINS = 15
_ALL_INSIDE = 255


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a predicted mask agrees with the reference.

    Attributes:
        dice: 0 to 1.
        surface_dice: 0 to 1.
        hd95_mm: NaN if one mask is empty and the other is not.
    """

    dice: float
    surface_dice: float
    hd95_mm: float


def agreement(
    predicted_ZYX: BoolArray,
    reference_ZYX: BoolArray,
    spacing: Sequence[float],
    *,
    tolerance_mm: float,
) -> Agreement:
    """Compare two masks [z,y,x] on a grid with `spacing` (z,y,x) in mm.

    - dice: 2|A∩B| / (|A| + |B|).
    - surface_dice: the share, by area, of both surfaces that lies within `tolerance_mm` of the other (Nikolov et al.
      2018, as the surface-distance package has it): the border of each mask meshed half-way between voxels.
    - hd95_mm: the larger of the 95 % quantiles of the distances from one mask's border voxels to the other's, in the
      two directions, as MONAI has it. A border voxel has a 6-neighbour outside of the mask.

    Beyond the grid is outside for both.
    """
    predicted_empty, reference_empty = not predicted_ZYX.any(), not reference_ZYX.any()
    if predicted_empty or reference_empty:
        both = float(predicted_empty and reference_empty)
        return Agreement(dice=both, surface_dice=both, hd95_mm=0.0 if both else math.nan)
    box = ndimage.find_objects((predicted_ZYX | reference_ZYX).astype(np.uint8))[0]
    predicted, reference, spacing = predicted_ZYX[box], reference_ZYX[box], tuple(map(float, spacing))
    return Agreement(
        dice=dice(predicted, reference),
        surface_dice=surface_dice(predicted, reference, spacing, tolerance_mm=tolerance_mm),
        hd95_mm=hausdorff_95(predicted, reference, spacing),
    )


def tolerance_for(longest_mm: Iterable[float]) -> float:
    """Return a tolerance of surface Dice that voxels can show: their longest side, the median over cases, in mm.

    It is at least LEAST_TOLERANCE_MM.
    """
    return max(LEAST_TOLERANCE_MM, round(float(np.median([*longest_mm])), 3))


def surface_dice(a_ZYX: BoolArray, b_ZYX: BoolArray, spacing: Sequence[float], *, tolerance_mm: float) -> float:
    """Return the surface Dice of two masks that are not empty; see `agreement`."""
    areas = _areas_of_elements(tuple(spacing))
    a, b = _surface_codes(a_ZYX), _surface_codes(b_ZYX)
    # a corner where all eight voxels are alike has no surface
    is_a, is_b = ((codes != 0) & (codes != _ALL_INSIDE) for codes in (a, b))
    a_to_b, b_to_a = _distances(is_a, is_b, spacing)
    area_a, area_b = areas[a[is_a]], areas[b[is_b]]
    # distances are of float32
    limit = tolerance_mm * (1 + 1e-6)
    near = area_a[a_to_b <= limit].sum() + area_b[b_to_a <= limit].sum()
    return float(near / (area_a.sum() + area_b.sum()))


@lru_cache(maxsize=32)
def _areas_of_elements(spacing: tuple[float, ...]) -> Float64Array:
    """Return the area in mm² of the surface element of each code of eight voxels."""
    areas: Float64Array = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    return areas


def _surface_codes(mask_ZYX: BoolArray) -> UInt8Array:
    """Return, of each corner of the voxel grid [z+1,y+1,x+1], which of the eight voxels around it are inside."""
    inside = np.pad(mask_ZYX, 1).view(np.uint8)
    codes = np.zeros([n + 1 for n in mask_ZYX.shape], np.uint8)
    for offset, bit in np.ndenumerate(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL):
        around = tuple(slice(o, o + n) for o, n in zip(offset, codes.shape, strict=True))
        codes |= inside[around] * np.uint8(bit)
    return codes


def hausdorff_95(a_ZYX: BoolArray, b_ZYX: BoolArray, spacing: Sequence[float]) -> float:
    """Return the 95 % Hausdorff distance in mm of two masks that are not empty; see `agreement`."""
    return max(float(np.quantile(d, 0.95)) for d in _distances(border(a_ZYX), border(b_ZYX), spacing))


def dice(predicted_ZYX: BoolArray, reference_ZYX: BoolArray) -> float:
    """Return 2|A∩B| / (|A| + |B|), 1 if both are empty."""
    total = np.count_nonzero(predicted_ZYX) + np.count_nonzero(reference_ZYX)
    return float(2 * np.count_nonzero(predicted_ZYX & reference_ZYX) / total) if total else 1.0


def border(mask_ZYX: BoolArray) -> BoolArray:
    """Return the voxels of a mask with a 6-neighbour outside of it, [z,y,x] bool."""
    inner: BoolArray = ndimage.binary_erosion(mask_ZYX)
    return mask_ZYX & ~inner


def _distances(a_ZYX: BoolArray, b_ZYX: BoolArray, spacing: Sequence[float]) -> tuple[Float32Array, Float32Array]:
    """Return the distances in mm from each voxel of A to the nearest of B, and from each of B to the nearest of A."""
    to_a, to_b = (edt.edt(~mask, anisotropy=tuple(spacing), black_border=False) for mask in (a_ZYX, b_ZYX))
    return to_b[a_ZYX], to_a[b_ZYX]


def structure_dice(
    predicted: torch.Tensor,
    label: torch.Tensor,
    counted: torch.Tensor,
    structures: Iterable[Sequence[int]],
    *,
    n_classes: int,
) -> list[float]:
    """Return the Dice of structures, each some classes together, over the counted voxels; 1 where both are empty.

    All is counted where the tensors are; only n_classes² numbers leave the device.

    Args:
        predicted: class indices [z,y,x].
        label: class indices [z,y,x].
        counted: [z,y,x] bool.
        structures: class indices of each.
        n_classes: background included.
    """
    pairs = predicted[counted].long() * n_classes + label[counted].long()
    voxels_PL = torch.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).cpu().numpy()
    found = []
    for indices in map(list, structures):
        total = voxels_PL[indices].sum() + voxels_PL[:, indices].sum()
        found.append(float(2 * voxels_PL[np.ix_(indices, indices)].sum() / total) if total else 1.0)
    return found


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far probabilities can be trusted over some voxels; NaN if there are none.

    Attributes:
        ece: expected calibration error of the winning class, 0 to 1 (Guo et al. 2017).
        brier: mean of Σ_c (p_c - y_c)², y the one-hot label, 0 to 2 (Brier 1950).
        nll: mean of -log p of the labelled class, in nats; p is taken as at least 1.2e-38.
    """

    ece: float
    brier: float
    nll: float


def calibration(probabilities_CZYX: torch.Tensor, label_ZYX: torch.Tensor, counted_ZYX: torch.Tensor) -> Calibration:
    """Measure probabilities [c,z,y,x] against class indices [z,y,x], over the counted voxels [z,y,x] bool."""
    p_CV = probabilities_CZYX[:, counted_ZYX].double()
    label_V = label_ZYX[counted_ZYX].long()
    if not len(label_V):
        return Calibration(ece=math.nan, brier=math.nan, nll=math.nan)
    right_V = p_CV.gather(0, label_V[None])[0]
    return Calibration(
        ece=calibration_error(probabilities_CZYX, label_ZYX, counted_ZYX),
        # Σ (p - y)² = Σ p² - 2 p_y + 1
        brier=float(((p_CV**2).sum(dim=0) - 2 * right_V + 1).mean()),
        nll=float(-right_V.clamp(min=torch.finfo(torch.float32).tiny).log().mean()),
    )


def border_band(
    label_ZYX: UInt8Array, counted_ZYX: BoolArray, spacing: Sequence[float], *, width_mm: float
) -> BoolArray:
    """Return the counted voxels with a voxel of another class within `width_mm`, between voxel centres, [z,y,x] bool.

    What does not count is taken as the class of the nearest voxel that does: the rim of an ignored area is no border.
    """
    if not counted_ZYX.any():
        return np.zeros(label_ZYX.shape, bool)
    filled = label_ZYX
    if not counted_ZYX.all():
        nearest = ndimage.distance_transform_edt(
            ~counted_ZYX, sampling=spacing, return_distances=False, return_indices=True
        )
        filled = label_ZYX[tuple(nearest)]
    # 0 would be outside of all classes to edt, which measures to the nearest voxel of another number
    apart = edt.edt(filled.astype(np.uint16) + 1, anisotropy=tuple(map(float, spacing)), black_border=False)
    band: BoolArray = (apart <= width_mm * (1 + 1e-6)) & counted_ZYX
    return band


def calibration_error(probabilities_CZYX: torch.Tensor, label_ZYX: torch.Tensor, counted_ZYX: torch.Tensor) -> float:
    """Return the expected calibration error of the winning class over the counted voxels (Guo et al. 2017).

    It is the mean over voxels of the gap between the accuracy and the mean probability of a voxel's bin; 0 if no voxel
    counts.
    """
    voxels, confidence, right = calibration_bins(probabilities_CZYX, label_ZYX, counted_ZYX)
    return float((right - confidence).abs().sum() / voxels.sum().clamp(min=1))


def calibration_bins(
    probabilities_CZYX: torch.Tensor, label_ZYX: torch.Tensor, counted_ZYX: torch.Tensor
) -> torch.Tensor:
    """Return [3,bin] float64: voxels, the sum of their winning probabilities, and how many winners are right.

    The counted voxels are sorted into 15 equal bins by the probability of the winning class.
    """
    confidence, winner = probabilities_CZYX.max(dim=0)
    right = (winner == label_ZYX)[counted_ZYX].double()
    confidence = confidence[counted_ZYX].double()
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    sums = torch.zeros((3, CALIBRATION_BINS), dtype=torch.float64, device=bins.device)
    return sums.index_add_(1, bins, torch.stack([torch.ones_like(right), confidence, right]))
