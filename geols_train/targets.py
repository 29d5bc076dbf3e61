"""Targets: the soft label of a batch, made on the device. This is the torch twin of `geols_precompute.softlabel`.

Shapes: B cases, C classes (background first), K stored channels, then z,y,x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from geols_precompute.softlabel import Method, Normalize, svls_kernel


def soft_label(
    method: Method,
    label_BZYX: torch.Tensor,
    *,
    n_classes: int,
    alpha: float = 0.1,
    normalize: Normalize = "sum",
    stored_BKZYX: torch.Tensor | None = None,
    channels: Sequence[int] = (),
    present_BC: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what a method trains on, [b,c,z,y,x] float32; ignored voxels are zero.

    Args:
        method: ce and fl give the one-hot label.
        label_BZYX: class indices, 255 where ignored.
        n_classes: background included.
        alpha: of ls and geols, in [0, 1].
        normalize: of geols; see `geols`.
        stored_BKZYX: geols only: the maps as stored, uint8.
        channels: geols only: the class index of each stored channel.
        present_BC: geols only: whether the whole volume of a case has the class, bool.
    """
    if method == "ls":
        return label_smoothing(label_BZYX, n_classes, alpha)
    if method == "svls":
        return svls(label_BZYX, n_classes)
    if method == "geols":
        assert stored_BKZYX is not None
        assert present_BC is not None
        maps_BCZYX = class_maps(stored_BKZYX, channels=channels, present_BC=present_BC, n_classes=n_classes)
        return geols(label_BZYX, maps_BCZYX, alpha=alpha, normalize=normalize)
    return one_hot(label_BZYX, n_classes)


def one_hot(label_BZYX: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the one-hot label [b,c,z,y,x] float32; indices beyond `n_classes` (ignore) give zeros."""
    classes_C = torch.arange(n_classes, dtype=label_BZYX.dtype, device=label_BZYX.device)
    return (label_BZYX[:, None] == classes_C[:, None, None, None]).float()


def label_smoothing(label_BZYX: torch.Tensor, n_classes: int, alpha: float) -> torch.Tensor:
    """Return (1-α)·onehot + α/C, [b,c,z,y,x] (Szegedy et al. 2016)."""
    hard_BCZYX = one_hot(label_BZYX, n_classes)
    return (1 - alpha) * hard_BCZYX + (alpha / n_classes) * hard_BCZYX.sum(dim=1, keepdim=True)


def svls(label_BZYX: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return spatially varying label smoothing, [b,c,z,y,x] (Islam and Glocker 2021); see `softlabel.svls`."""
    hard_BCZYX = one_hot(label_BZYX, n_classes)
    kernel = torch.from_numpy(svls_kernel()).to(hard_BCZYX.device).expand(n_classes, 1, 3, 3, 3)
    padded = functional.pad(hard_BCZYX, (1,) * 6, mode="replicate")
    # no autocast: the target must not depend on the precision of the network
    with torch.autocast(label_BZYX.device.type, enabled=False):
        soft_BCZYX = functional.conv3d(padded, kernel, groups=n_classes)
    total = soft_BCZYX.sum(dim=1, keepdim=True)
    labelled = hard_BCZYX.sum(dim=1, keepdim=True)
    return soft_BCZYX * (labelled / torch.where(total > 0, total, 1))


def class_maps(
    stored_BKZYX: torch.Tensor, *, channels: Sequence[int], present_BC: torch.Tensor, n_classes: int
) -> torch.Tensor:
    """Return the geodesic maps g of all classes, [b,c,z,y,x] float32, from uint8 as stored.

    A background that is not stored is 1 - mean of the maps of the present foreground classes, 1 where none is.
    """
    B, _, *zyx = stored_BKZYX.shape
    maps_BCZYX = torch.zeros((B, n_classes, *zyx), device=stored_BKZYX.device)
    for place, channel in enumerate(channels):  # a list as index would be sent to the device, which the host waits for
        maps_BCZYX[:, channel] = stored_BKZYX[:, place]
    maps_BCZYX /= 255
    maps_BCZYX *= present_BC[:, :, None, None, None]
    if 0 not in channels:
        count_B = present_BC[:, 1:].sum(dim=1)[:, None, None, None]
        mean_BZYX = maps_BCZYX[:, 1:].sum(dim=1) / count_B.clamp(min=1)
        maps_BCZYX[:, 0] = 1 - mean_BZYX
    return maps_BCZYX


def geols(
    label_BZYX: torch.Tensor, maps_BCZYX: torch.Tensor, *, alpha: float = 0.1, normalize: Normalize = "sum"
) -> torch.Tensor:
    """Return the GeoLS soft label (1-α)·onehot + α·g̃, [b,c,z,y,x] float32 (GeoLS eq. 6).

    `normalize` sum is g̃ = g / Σ_c g (the paper), none is g̃ = g (the published code). Where every map is zero the
    soft label is the one-hot label.
    """
    hard_BCZYX = one_hot(label_BZYX, maps_BCZYX.shape[1])
    total = maps_BCZYX.sum(dim=1, keepdim=True)
    empty = total == 0
    smooth_BCZYX = maps_BCZYX / torch.where(empty, 1, total) if normalize == "sum" else maps_BCZYX
    soft_BCZYX = torch.where(empty, hard_BCZYX, (1 - alpha) * hard_BCZYX + alpha * smooth_BCZYX)
    return soft_BCZYX * hard_BCZYX.sum(dim=1, keepdim=True)
