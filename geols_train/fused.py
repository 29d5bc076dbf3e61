"""Fused: soft cross-entropy from class indices and maps as stored; no volume of one-hot labels or floats is built.

The voxels are gone through in slabs. In each, the soft label is made, the loss added up, and, if it will be asked for,
its gradient written to where it is wanted: one array of the size of the logits, all that is kept for the backward pass.

Shapes: B cases, C classes (background first), K stored channels, then z,y,x; V voxels of a slab.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from geols_precompute.softlabel import Normalize
from geols_train.targets import class_maps

#: Voxels per slab and device type: what fits a CPU's cache, and what keeps a GPU busy.
SLAB = {"cpu": 2**16}
LARGE_SLAB = 2**21


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How a soft label is mixed, for any of the methods that only need class indices and maps.

    Attributes:
        alpha: share of the smooth part.
        stored: maps [b,k,z,y,x] uint8, which are the smooth part; None smooths uniformly over all classes.
        channels: the class index of each stored channel.
        present: [b,c] bool, whether a case's whole volume has the class.
        normalize: of the maps; see `targets.geols`.
    """

    alpha: float = 0.0
    stored: torch.Tensor | None = None
    channels: Sequence[int] = ()
    present: torch.Tensor | None = None
    normalize: Normalize = "sum"

    def target(self, case: int, voxels: slice, label_V: torch.Tensor, n_classes: int) -> torch.Tensor:
        """Return the soft label [c,v] float32 of some voxels of a case."""
        label_1V = label_V[None].long()
        if self.stored is None:
            smooth_CV = torch.full((n_classes, len(label_V)), self.alpha / n_classes, device=label_V.device)
            return smooth_CV.scatter_add_(0, label_1V, torch.full_like(smooth_CV[:1], 1 - self.alpha))
        assert self.present is not None
        maps_CV = class_maps(
            self.stored[case].flatten(1)[None, :, voxels, None, None], channels=self.channels,
            present_BC=self.present[case : case + 1], n_classes=n_classes,
        )[0, :, :, 0, 0]  # fmt: skip
        total_1V = maps_CV.sum(dim=0, keepdim=True)
        empty_1V = total_1V == 0
        share_1V = self.alpha / torch.where(empty_1V, 1, total_1V) if self.normalize == "sum" else self.alpha
        hard_1V = torch.where(empty_1V, 1.0, 1 - self.alpha)
        return (maps_CV * share_1V).scatter_add_(0, label_1V, hard_1V)


def mixed_cross_entropy(
    logits_BCZYX: torch.Tensor, label_BZYX: torch.Tensor, counted_BZYX: torch.Tensor, mix: Mix
) -> torch.Tensor:
    """Return the mean over counted voxels of -Σ_c y_c log p_c (GeoLS eq. 1) for the soft label y of `mix`.

    It equals `losses.soft_cross_entropy` of `targets.soft_label`, in a fraction of its memory.

    Args:
        logits_BCZYX: float32 or bfloat16.
        label_BZYX: class indices, uint8; what they are where voxels do not count plays no part.
        counted_BZYX: bool; 0 is returned if no voxel counts.
        mix: how the label is softened.
    """
    loss: torch.Tensor = _MixedCrossEntropy.apply(logits_BCZYX, label_BZYX, counted_BZYX, mix)  # type: ignore[no-untyped-call]
    return loss


class _MixedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BCZYX: torch.Tensor, label_BZYX: torch.Tensor, counted_BZYX: torch.Tensor, mix: Mix
    ) -> torch.Tensor:
        B, C = logits_BCZYX.shape[:2]
        logits_BCV, label_BV, counted_BV = (t.flatten(-3) for t in (logits_BCZYX, label_BZYX, counted_BZYX))
        total = torch.zeros((), device=logits_BCZYX.device)
        count = counted_BV.sum().clamp(min=1)
        wanted = ctx.needs_input_grad[0]
        gradient_BCV = torch.empty_like(logits_BCV) if wanted else None
        V = logits_BCV.shape[-1]
        size = SLAB.get(logits_BCZYX.device.type, LARGE_SLAB)
        with torch.autocast(logits_BCZYX.device.type, enabled=False):
            for case in range(B):
                for start in range(0, V, size):
                    voxels = slice(start, min(V, start + size))
                    counted_V = counted_BV[case, voxels]
                    label_V = torch.where(counted_V, label_BV[case, voxels], 0)
                    target_CV = mix.target(case, voxels, label_V, C)
                    logits_CV = logits_BCV[case, :, voxels].float()
                    normaliser_V = logits_CV.logsumexp(dim=0)
                    mass_V = target_CV.sum(dim=0)
                    loss_V = mass_V * normaliser_V - (target_CV * logits_CV).sum(dim=0)
                    # where, not a product: a voxel that does not count must not spread its NaN or infinity
                    total += torch.where(counted_V, loss_V, 0).sum()
                    if gradient_BCV is not None:
                        slope_CV = (logits_CV - normaliser_V).exp_().mul_(mass_V).sub_(target_CV)
                        gradient_BCV[case, :, voxels] = torch.where(counted_V, slope_CV, 0).div_(count)
        ctx.gradient = gradient_BCV.view_as(logits_BCZYX) if gradient_BCV is not None else None
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the gradient of this loss is given once; call the loss again for another")
        return gradient.mul_(slope), None, None, None
