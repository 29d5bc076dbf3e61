"""Soft labels in torch, on any device: the twin of `geols_precompute.softlabel`, and the table of methods.

What has a width in mm, or needs all raters, is made in NumPy when a case is read: the crop's border must not change it,
and an augmentation turns the axes. It comes as the `maps` of its method.

Shapes: B cases, C classes (background first), K stored channels, then the axes of the volume: z,y,x, or any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.softlabel import MethodName, Normalize, svls_kernel


def soft_label(
    label: torch.Tensor,
    maps: torch.Tensor | None = None,
    *,
    method: MethodName = "geols",
    n_classes: int | None = None,
    alpha: float = 0.1,
    normalize: Normalize = "sum",
) -> torch.Tensor:
    """Return what a method trains on, [b,c,z,y,x] float32 on the label's device; ignored voxels are zero.

    - geols: (1-α)·onehot + α·g̃ (GeoLS eq. 6). Where every map is zero it is the one-hot label.
    - ls: (1-α)·onehot + α/C (Szegedy et al. 2016).
    - svls: the one-hot label convolved with `svls_kernel`, edges replicated (Islam and Glocker 2021).
    - gauss, sdf, dilate, bls, nuls, raters: what `geols_precompute.soft_label` made, given as `maps`.
    - ce, fl, nacl, mbls: the one-hot label.

    Args:
        label: class indices [b,z,y,x] of any integer type, 255 where ignored. Any axes may follow the first, except
            for svls.
        maps: [b,c,z,y,x] float32; of geols: g of every class, as `class_maps` gives it.
        method: of the training.
        n_classes: background included; the number of maps if there are any.
        alpha: of ls and geols: share of the smooth part, in [0, 1].
        normalize: of geols: sum for g̃ = g / Σ_c g (the paper), none for g̃ = g (the published code).

    Raises:
        InputError: α outside [0, 1], maps that do not fit the label, or none for a method that needs them.

    Example:
        >>> label = torch.tensor([[[[0, 1]]]])
        >>> maps = torch.tensor([[[[[0.75, 0.25]]], [[[0.25, 0.75]]]]])
        >>> soft_label(label, maps, alpha=0.2)[0, 1]
        tensor([[[0.0500, 0.9500]]])
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha}")
    if n_classes is None:
        if maps is None:
            raise InputError("n_classes is needed where there are no maps")
        n_classes = maps.shape[1]
    if maps is not None and maps.shape != (label.shape[0], n_classes, *label.shape[1:]):
        raise InputError(
            f"maps of shape {tuple(maps.shape)} do not fit {n_classes} classes and a label of shape "
            f"{tuple(label.shape)}"
        )
    return METHODS[method].target(label, maps, n_classes, alpha, normalize)


def class_maps(stored: torch.Tensor, *, channels: Sequence[int], present: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the geodesic maps g of all classes, [b,c,z,y,x] float32, from what a store holds.

    A background that is not stored is 1 - mean of the maps of the present foreground classes, 1 where none is.

    Args:
        stored: g·255, [b,k,z,y,x] uint8; any axes may follow the first two.
        channels: the class index of each stored channel.
        present: [b,c] bool, whether the whole volume of a case has the class.
        n_classes: background included.

    Example:
        >>> stored = torch.tensor([[[[[51, 255]]]]], dtype=torch.uint8)
        >>> maps = class_maps(stored, channels=(1,), present=torch.tensor([[True, True]]), n_classes=2)
        >>> maps.flatten()
        tensor([0.8000, 0.0000, 0.2000, 1.0000])
    """
    B, _, *axes = stored.shape
    ones = [1] * len(axes)
    maps = torch.zeros((B, n_classes, *axes), device=stored.device)
    first = channels[0] if channels else 0
    if tuple(channels) == tuple(range(first, first + len(channels))):
        maps[:, first : first + len(channels)] = stored
    else:
        for place, channel in enumerate(channels):  # a list as index would be sent to the device, and waited for
            maps[:, channel] = stored[:, place]
    maps /= 255
    maps *= present.reshape(B, n_classes, *ones)
    if 0 not in channels:
        count = present[:, 1:].sum(dim=1).reshape(B, *ones)
        maps[:, 0] = 1 - maps[:, 1:].sum(dim=1) / count.clamp(min=1)
    return maps


def one_hot(label: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the one-hot label [b,c,z,y,x] float32 of class indices [b,z,y,x]; ignored voxels are zero."""
    counted = _counted(label)
    hard = torch.zeros((label.shape[0], n_classes, *label.shape[1:]), device=label.device)
    return _add_hard_label(hard, label, counted.float())


# --- methods ----------------------------------------------------------------------------------------------------------

#: (label, maps, n_classes, alpha, normalize) -> soft label
Target = Callable[[torch.Tensor, torch.Tensor | None, int, float, Normalize], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        target: makes the soft label; see `soft_label`.
        needs_maps: whether it reads a label store.
        uses_alpha: whether α changes it.
        is_pointwise: whether the soft label of a voxel depends on nothing beside it.
        is_made_on_load: whether it is made when a case is read, by NumPy.
        is_focal: whether its loss is the focal loss, not soft cross-entropy.
        has_penalty: whether a term that is in `loss.PENALTIES` is added to its loss.
    """

    target: Target
    needs_maps: bool = False
    uses_alpha: bool = False
    is_pointwise: bool = True
    is_made_on_load: bool = False
    is_focal: bool = False
    has_penalty: bool = False


def _geols(
    label: torch.Tensor, maps: torch.Tensor | None, n_classes: int, alpha: float, normalize: Normalize
) -> torch.Tensor:
    if maps is None:
        raise InputError("method geols needs the maps of every class")
    counted = _counted(label)
    total = maps.sum(dim=1, keepdim=True)
    empty = total == 0
    share = alpha / torch.where(empty, 1, total) if normalize == "sum" else alpha
    smooth = maps * torch.where(counted, share, 0)
    return _add_hard_label(smooth, label, torch.where(counted, torch.where(empty, 1.0, 1 - alpha), 0))


def _label_smoothing(
    label: torch.Tensor, maps: torch.Tensor | None, n_classes: int, alpha: float, normalize: Normalize
) -> torch.Tensor:
    counted = _counted(label)
    shape = (label.shape[0], n_classes, *label.shape[1:])
    smooth = torch.where(counted, alpha / n_classes, 0.0).expand(shape).contiguous()
    return _add_hard_label(smooth, label, torch.where(counted, 1 - alpha, 0.0))


def _svls(
    label: torch.Tensor, maps: torch.Tensor | None, n_classes: int, alpha: float, normalize: Normalize
) -> torch.Tensor:
    if label.ndim != 4:
        raise InputError(f"method svls needs a label [b,z,y,x], got the shape {tuple(label.shape)}")
    hard = one_hot(label, n_classes)
    kernel = _kernel_on(hard.device).expand(n_classes, 1, 3, 3, 3)
    padded = functional.pad(hard, (1,) * 6, mode="replicate")
    # no autocast: the target must not depend on the precision of the network
    with torch.autocast(label.device.type, enabled=False):
        soft = functional.conv3d(padded, kernel, groups=n_classes)
    total = soft.sum(dim=1, keepdim=True)
    # beside ignored voxels the sum is brought back to 1
    return soft * (hard.sum(dim=1, keepdim=True) / torch.where(total > 0, total, 1))


@cache
def _kernel_on(device: torch.device) -> torch.Tensor:
    """Return SVLS's kernel on a device, where it stays: an upload in every step would be waited for."""
    return torch.from_numpy(svls_kernel()).to(device)


def _hard(
    label: torch.Tensor, maps: torch.Tensor | None, n_classes: int, alpha: float, normalize: Normalize
) -> torch.Tensor:
    return one_hot(label, n_classes)


def _as_made(
    label: torch.Tensor, maps: torch.Tensor | None, n_classes: int, alpha: float, normalize: Normalize
) -> torch.Tensor:
    if maps is None:
        raise InputError(
            "this method's soft label is made from the volume by geols_precompute.soft_label: give it as maps"
        )
    return maps * _counted(label)


def _counted(label: torch.Tensor) -> torch.Tensor:
    """Return whether voxels are not ignored, [b,1,z,y,x] bool."""
    return label[:, None] != IGNORE_INDEX


def _add_hard_label(smooth: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Add `weight` [b,1,z,y,x], 0 where ignored, to the class of each voxel, in place."""
    index = torch.where(label != IGNORE_INDEX, label, 0)[:, None].long()
    return smooth.scatter_add_(1, index, weight)


METHODS: dict[MethodName, Method] = {
    "geols": Method(target=_geols, needs_maps=True, uses_alpha=True),
    "ce": Method(target=_hard),
    "ls": Method(target=_label_smoothing, uses_alpha=True),
    "fl": Method(target=_hard, is_focal=True),
    "svls": Method(target=_svls, is_pointwise=False),
    "gauss": Method(target=_as_made, is_made_on_load=True),
    "sdf": Method(target=_as_made, is_made_on_load=True),
    "dilate": Method(target=_as_made, is_made_on_load=True, uses_alpha=True),
    "bls": Method(target=_as_made, is_made_on_load=True, uses_alpha=True),
    "nuls": Method(target=_as_made, is_made_on_load=True),
    "raters": Method(target=_as_made, is_made_on_load=True),
    "nacl": Method(target=_hard, has_penalty=True),
    "mbls": Method(target=_hard, has_penalty=True),
}


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The settings under which class indices and stored maps become a soft label.

    Attributes:
        method: of the training.
        channels: the class index of each stored channel.
        alpha: share of the smooth part.
        normalize: of the maps; see `soft_label`.
    """

    method: MethodName
    channels: tuple[int, ...] = ()
    alpha: float = 0.1
    normalize: Normalize = "sum"

    def soft_label(
        self, label: torch.Tensor, stored: torch.Tensor | None, present: torch.Tensor | None, n_classes: int
    ) -> torch.Tensor:
        """Return the soft label [b,c,...] of class indices [b,...], uint8 maps [b,k,...] and presence [b,c].

        The maps of a method that is made on load are its soft label, [b,c,...] float32.
        """
        maps = stored if METHODS[self.method].is_made_on_load else None
        if METHODS[self.method].needs_maps and stored is not None and present is not None:
            maps = class_maps(stored, channels=self.channels, present=present, n_classes=n_classes)
        return soft_label(
            label, maps, method=self.method, n_classes=n_classes, alpha=self.alpha, normalize=self.normalize
        )
