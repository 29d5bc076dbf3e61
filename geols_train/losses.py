"""Losses over the voxels that count: soft cross-entropy, focal loss, and a Dice term that is right for soft targets.

Shapes: B cases, C classes (background first), then z,y,x. `counted` is false where a voxel is padding or ignored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def soft_cross_entropy(
    logits_BCZYX: torch.Tensor, target_BCZYX: torch.Tensor, counted_BZYX: torch.Tensor
) -> torch.Tensor:
    """Return the mean over counted voxels of -Σ_c y_c log p_c (GeoLS eq. 1); 0 if no voxel counts."""
    log_p_BCZYX = functional.log_softmax(logits_BCZYX.float(), dim=1)
    return _mean(-(target_BCZYX * log_p_BCZYX).sum(dim=1), counted_BZYX)


def focal_loss(
    logits_BCZYX: torch.Tensor, target_BCZYX: torch.Tensor, counted_BZYX: torch.Tensor, *, gamma: float
) -> torch.Tensor:
    """Return the mean over counted voxels of -(1 - p_y)^γ log p_y (Lin et al. 2017); `target` is one-hot."""
    log_p_BZYX = (target_BCZYX * functional.log_softmax(logits_BCZYX.float(), dim=1)).sum(dim=1)
    # where p is 1, as at voxels that do not count, the power has no finite slope for γ < 1
    missing_BZYX = (1 - log_p_BZYX.exp()).clamp(min=torch.finfo(torch.float32).eps)
    return _mean(-(missing_BZYX**gamma) * log_p_BZYX, counted_BZYX)


def dice_semimetric_loss(
    logits_BCZYX: torch.Tensor, target_BCZYX: torch.Tensor, counted_BZYX: torch.Tensor,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
) -> torch.Tensor:  # fmt: skip
    """Return the Dice semimetric loss, DML1 of Wang et al. 2023, averaged over the foreground classes.

    1 - (‖p‖ + ‖y‖ - ‖p - y‖) / (‖p‖ + ‖y‖) with L1 norms over the counted voxels of the batch. On hard targets it
    equals the usual soft Dice loss; unlike that, its one minimum is p = y when y is soft, whereas
    1 - 2Σpy / (Σp + Σy) pulls p to 0 and 1 and so undoes the smoothing. Where other processes have parts of the batch,
    `total` adds their norms to those of this one.
    """
    p_BCZYX = logits_BCZYX.float().softmax(dim=1)[:, 1:]
    y_BCZYX = target_BCZYX[:, 1:]
    counted = counted_BZYX[:, None]
    axes = (0, 2, 3, 4)
    difference_C = total(((p_BCZYX - y_BCZYX).abs() * counted).sum(dim=axes))
    total_C = total(((p_BCZYX + y_BCZYX) * counted).sum(dim=axes))
    # 1 - (total - difference) / total; the softmax is positive, so only a batch without counted voxels has total 0
    return (difference_C / total_C.clamp(min=torch.finfo(torch.float32).tiny)).mean()


def _mean(loss_BZYX: torch.Tensor, counted_BZYX: torch.Tensor) -> torch.Tensor:
    # where, not a product: a voxel that does not count must not spread its NaN or infinity
    return torch.where(counted_BZYX, loss_BZYX, 0).sum() / counted_BZYX.sum().clamp(min=1)
