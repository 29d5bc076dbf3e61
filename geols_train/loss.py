"""Losses over the voxels that count: soft cross-entropy, focal loss, and a Dice term that is right for soft targets.

Soft cross-entropy stands here twice, with the same value: plain, from a volume of soft labels, and fused, from class
indices and maps as stored. The fused one goes through the voxels in slabs. In each, the soft label is made, the loss
added up, and, if it will be asked for, its gradient written to where it is wanted: one array of the size of the logits,
all that is kept for the backward pass.

Shapes: B cases, C classes (background first), K stored channels, then z,y,x; V voxels of a slab. A voxel counts if its
class index is not 255.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.softlabel import MethodName, Normalize
from geols_precompute.store.reader import LabelStore
from geols_train.batches import Batch
from geols_train.config import TrainConfig
from geols_train.device import World
from geols_train.targets import METHODS, Mix, one_hot

#: Voxels per slab: what fits a CPU's cache; on other devices, whose memory is not known, what keeps them busy.
CPU_SLAB, OTHER_SLAB = 2**16, 2**21
#: On a GPU a slab may take this share of its memory, so that most batches are one: every launch costs there.
SHARE_OF_MEMORY = 1 / 16
#: What lives at once beside the gradient, in float32 values per voxel and class.
_LIVE = 6


class SoftCrossEntropy(nn.Module):
    """The GeoLS loss: the mean over voxels of -Σ_c y_c log p_c (GeoLS eq. 1), y the soft label of labels and maps.

    No volume of soft labels is built: beside the logits it needs one gradient of their size. Ignored voxels do not
    count. Each call's gradient is given once: call again instead of a second `backward`.

    Args:
        channels: the class index of each channel of the maps; `LabelStore.channels`.
        alpha: share of the geodesic part, in [0, 1].
        normalize: sum divides the maps by their sum over classes (the paper), none does not (the published code).

    Raises:
        InputError: α outside [0, 1].

    Example:
        >>> from geols_precompute import LabelStore
        >>> from geols_train import LabelMaps, SoftCrossEntropy
        >>> store = LabelStore.open("labels.zarr")
        >>> loss = SoftCrossEntropy.for_store(store, alpha=0.1)
        >>> item = LabelMaps(store)[0]
        >>> maps, present = item["maps"][None], item["present"][None]
        >>> label = torch.ones(1, *maps.shape[2:], dtype=torch.uint8)  # class indices
        >>> logits = torch.zeros(1, len(store.classes), *maps.shape[2:], requires_grad=True)
        >>> loss(logits, label, maps, present).backward()
        >>> logits.grad.shape == logits.shape
        True
    """

    def __init__(self, *, channels: Sequence[int], alpha: float = 0.1, normalize: Normalize = "sum") -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], got {alpha}")
        self.mix = Mix(method="geols", channels=tuple(channels), alpha=alpha, normalize=normalize)

    @classmethod
    def for_store(cls, store: LabelStore, *, alpha: float = 0.1, normalize: Normalize = "sum") -> Self:
        """Return the loss for maps of a store."""
        return cls(channels=store.channels, alpha=alpha, normalize=normalize)

    def forward(
        self, logits: torch.Tensor, label: torch.Tensor, maps: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss, a float32 scalar; 0 if no voxel counts.

        Args:
            logits: [b,c,z,y,x] float32, float16 or bfloat16; other axes may stand in place of z,y,x.
            label: class indices [b,z,y,x] of any integer type, 255 where ignored.
            maps: as stored, [b,k,z,y,x] uint8.
            present: [b,c] bool, whether a case's whole volume has the class.

        Raises:
            InputError: shapes that do not fit.
        """
        B, C, *axes = logits.shape
        wanted = {"label": (B, *axes), "maps": (B, len(self.mix.channels), *axes), "present": (B, C)}
        for (name, shape), tensor in zip(wanted.items(), (label, maps, present), strict=True):
            if tensor.shape != shape:
                raise InputError(
                    f"{name} has the shape {tuple(tensor.shape)}; logits of shape {tuple(logits.shape)} ask for {shape}"
                )
        return fused_cross_entropy(logits, label, maps, present, mix=self.mix)

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        return f"channels={self.mix.channels}, alpha={self.mix.alpha}, normalize={self.mix.normalize!r}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training minimises.

    Attributes:
        mix: how labels are softened.
        focal_gamma: γ of the focal loss, if the method has that.
        dice_weight: of a Dice term; 0 leaves it out.
        world: the processes that share the batch.
        penalty: weight of the method's penalty, if it has one.
        margin: of mbls.
    """

    mix: Mix
    focal_gamma: float
    dice_weight: float
    world: World
    penalty: float = 0.0
    margin: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig, channels: tuple[int, ...], world: World) -> Self:
        """Return what a configuration asks for, over maps with these channels."""
        mix = Mix(method=config.method, channels=channels, alpha=config.alpha, normalize=config.normalize)
        return cls(
            mix=mix,
            focal_gamma=config.focal_gamma,
            dice_weight=config.dice_weight,
            world=world,
            penalty=config.penalty or 0.0,
            margin=config.margin or 0.0,
        )

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of this process's part of the batch, whose mean over processes is the batch's."""
        method, label = METHODS[self.mix.method], batch.label
        if method.is_pointwise and not method.is_focal and not self.dice_weight:
            loss = fused_cross_entropy(logits, label, batch.maps, batch.present, mix=self.mix)
            return self._weighted(self._with_penalty(loss, logits, label), label)
        target = self.mix.soft_label(label, batch.maps, batch.present, logits.shape[1])
        if method.is_focal:
            loss = focal_loss(logits, target, label, gamma=self.focal_gamma)
        else:
            loss = soft_cross_entropy(logits, target, label)
        loss = self._weighted(self._with_penalty(loss, logits, label), label)
        if self.dice_weight:
            loss = loss + self.dice_weight * dice_semimetric_loss(logits, target, label, self.world.sum)
        return loss

    def _with_penalty(self, loss: torch.Tensor, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if not METHODS[self.mix.method].has_penalty:
            return loss
        return loss + self.penalty * PENALTIES[self.mix.method](logits, label, self.margin)

    def _weighted(self, mean: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Weigh a mean over this process's voxels as the mean over all processes' voxels asks."""
        if self.world.size == 1:
            return mean
        count = (label != IGNORE_INDEX).sum().float()
        return mean * count * self.world.size / self.world.sum(count).clamp(min=1)


# --- from soft labels -------------------------------------------------------------------------------------------------


def soft_cross_entropy(logits: torch.Tensor, target: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the mean over counted voxels of -Σ_c y_c log p_c (GeoLS eq. 1); 0 if no voxel counts.

    Args:
        logits: [b,c,z,y,x].
        target: soft labels y [b,c,z,y,x].
        label: class indices [b,z,y,x]; a voxel counts where they are not 255.
    """
    log_p = functional.log_softmax(logits.float(), dim=1)
    return _mean(-(target * log_p).sum(dim=1), label)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, label: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Return the mean over counted voxels of -(1 - p_y)^γ log p_y (Lin et al. 2017).

    Args:
        logits: [b,c,z,y,x].
        target: one-hot labels [b,c,z,y,x].
        label: class indices [b,z,y,x]; a voxel counts where they are not 255.
        gamma: γ, 0 or more.
    """
    log_p = (target * functional.log_softmax(logits.float(), dim=1)).sum(dim=1)
    # where p is 1, as at voxels that do not count, the power has no finite slope for γ < 1
    missing = (1 - log_p.exp()).clamp(min=torch.finfo(torch.float32).eps)
    return _mean(-(missing**gamma) * log_p, label)


def dice_semimetric_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    label: torch.Tensor,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda part: part,
) -> torch.Tensor:
    """Return the Dice semimetric loss, DML1 of Wang et al. 2023, averaged over the foreground classes.

    1 - (‖p‖ + ‖y‖ - ‖p - y‖) / (‖p‖ + ‖y‖) with L1 norms over the counted voxels of the batch. On hard targets it
    equals the usual soft Dice loss; unlike that, its one minimum is p = y when y is soft, whereas
    1 - 2Σpy / (Σp + Σy) pulls p to 0 and 1 and so undoes the smoothing.

    Args:
        logits: [b,c,z,y,x].
        target: soft labels y [b,c,z,y,x].
        label: class indices [b,z,y,x]; a voxel counts where they are not 255.
        total: adds the norms of other processes, which have parts of the batch, to those of this one.
    """
    p = logits.float().softmax(dim=1)[:, 1:]
    y = target[:, 1:]
    counted = (label != IGNORE_INDEX)[:, None]
    axes = (0, *range(2, logits.ndim))
    difference_C = total(((p - y).abs() * counted).sum(dim=axes))
    total_C = total(((p + y) * counted).sum(dim=axes))
    # 1 - (total - difference) / total; the softmax is positive, so only a batch without counted voxels has total 0
    return (difference_C / total_C.clamp(min=torch.finfo(torch.float32).tiny)).mean()


def neighbourhood_penalty(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the mean over counted voxels and classes of |l_c - τ_c|, the penalty of NACL (Murugesan et al. 2023).

    Args:
        logits: l [b,c,z,y,x].
        label: class indices [b,z,y,x]; a voxel counts where they are not 255.
    """
    shares = neighbourhood_shares(label, logits.shape[1])
    return _mean((logits.float() - shares).abs().mean(dim=1), label)


def neighbourhood_shares(label: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the shares τ of the classes among the 3×3×3 voxels around each voxel, [b,c,z,y,x].

    Edges are replicated, and ignored voxels left out.
    """
    hard = one_hot(label, n_classes)
    sums = functional.avg_pool3d(functional.pad(hard, (1,) * 6, mode="replicate"), 3, stride=1)
    total = sums.sum(dim=1, keepdim=True)
    return sums / torch.where(total > 0, total, 1)


def margin_penalty(logits: torch.Tensor, label: torch.Tensor, *, margin: float) -> torch.Tensor:
    """Return the mean over counted voxels and classes of max(0, max_k l_k - l_c - margin), of MbLS (Liu et al. 2022).

    Args:
        logits: l [b,c,z,y,x].
        label: class indices [b,z,y,x]; a voxel counts where they are not 255.
        margin: of logits, 0 or more.
    """
    logits = logits.float()
    behind = logits.amax(dim=1, keepdim=True) - logits
    return _mean((behind - margin).clamp(min=0).mean(dim=1), label)


#: (logits, label, margin) -> what a method adds to its loss, times `--penalty`
PENALTIES: dict[MethodName, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "nacl": lambda logits, label, margin: neighbourhood_penalty(logits, label),
    "mbls": lambda logits, label, margin: margin_penalty(logits, label, margin=margin),
}


def _mean(loss: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    counted = label != IGNORE_INDEX
    # where, not a product: a voxel that does not count must not spread its NaN or infinity
    return torch.where(counted, loss, 0).sum() / counted.sum().clamp(min=1)


# --- fused ------------------------------------------------------------------------------------------------------------


def slab_voxels(device: torch.device, n_classes: int) -> int:
    """Return how many voxels go through the fused loss together on a device."""
    if device.type == "cuda":
        return _slab_of_memory(torch.cuda.get_device_properties(device).total_memory, n_classes)
    return CPU_SLAB if device.type == "cpu" else OTHER_SLAB


def _slab_of_memory(total_bytes: int, n_classes: int) -> int:
    return max(OTHER_SLAB, int(total_bytes * SHARE_OF_MEMORY) // (4 * n_classes * _LIVE))


def slabs(cases: int, voxels: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Yield (cases, voxels) that cover a batch, each of at most `most` voxels: several whole cases, or parts of one."""
    together = max(1, most // voxels)
    for case in range(0, cases, together):
        for start in range(0, voxels, most):
            yield slice(case, min(cases, case + together)), slice(start, min(voxels, start + most))


def fused_cross_entropy(
    logits: torch.Tensor,
    label: torch.Tensor,
    maps: torch.Tensor | None = None,
    present: torch.Tensor | None = None,
    *,
    mix: Mix,
) -> torch.Tensor:
    """Return `soft_cross_entropy` of the soft label of `mix`, in a fraction of its memory; for pointwise methods.

    Args:
        logits: [b,c,z,y,x] float32, float16 or bfloat16.
        label: class indices [b,z,y,x], 255 where a voxel does not count; 0 is returned if none does.
        maps: as stored, [b,k,z,y,x] uint8, if the method needs them.
        present: [b,c] bool, whether a case's whole volume has the class; with the maps.
        mix: how the label is softened.
    """
    loss: torch.Tensor = _FusedCrossEntropy.apply(logits, label, maps, present, mix)  # type: ignore[no-untyped-call]
    return loss


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        label: torch.Tensor,
        maps: torch.Tensor | None,
        present: torch.Tensor | None,
        mix: Mix,
    ) -> torch.Tensor:
        B, C = logits.shape[:2]
        logits_BCV, label_BV = logits.flatten(2), label.flatten(1)
        maps_BKV = None if maps is None else maps.flatten(2)
        total = torch.zeros((), device=logits.device)
        count = (label_BV != IGNORE_INDEX).sum().clamp(min=1)
        # a gradient scaler multiplies only later, in the backward pass: until then, what is divided by the number of
        # voxels is too small for float16
        dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient_BCV = torch.empty_like(logits_BCV, dtype=dtype) if ctx.needs_input_grad[0] else None
        most = slab_voxels(logits.device, C)
        with torch.autocast(logits.device.type, enabled=False):
            # from here on B are the cases and V the voxels of a slab
            for cases, voxels in slabs(B, logits_BCV.shape[-1], most):
                slab_label_BV = label_BV[cases, voxels]
                ignored_B1V = slab_label_BV[:, None] == IGNORE_INDEX
                target = mix.soft_label(
                    slab_label_BV,
                    None if maps_BKV is None else maps_BKV[cases, :, voxels],
                    None if present is None else present[cases],
                    C,
                )
                slab = logits_BCV[cases, :, voxels].float()
                normaliser_B1V = slab.logsumexp(dim=1, keepdim=True)
                mass_B1V = target.sum(dim=1, keepdim=True)
                loss_B1V = mass_B1V * normaliser_B1V - (target * slab).sum(dim=1, keepdim=True)
                # filled, not multiplied by 0: a voxel that does not count must not spread its NaN or infinity
                total += loss_B1V.masked_fill_(ignored_B1V, 0).sum()
                if gradient_BCV is not None:
                    slope = (slab - normaliser_B1V).exp_().mul_(mass_B1V).sub_(target)
                    gradient_BCV[cases, :, voxels] = slope.masked_fill_(ignored_B1V, 0).div_(count)
        ctx.gradient, ctx.dtype = None if gradient_BCV is None else gradient_BCV.view_as(logits), logits.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the gradient of this loss is given once; call the loss again for another")
        return gradient.mul_(slope).to(ctx.dtype), None, None, None, None
