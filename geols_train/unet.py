"""3D U-Net: the network of the GeoLS and SVLS papers, for any number of levels and any volume size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from geols_precompute.errors import RecipeError
from geols_train.config import PAPER_FEATURES, smallest_size


class UNet3D(nn.Module):
    """A 3D U-Net (Çiçek et al. 2016) with group normalisation after each ReLU.

    Any size of at least 2^(levels - 1) voxels per axis is accepted: up-sampling goes to the size of the skip.

    Args:
        in_channels: modalities.
        n_classes: output channels, background included.
        features: channels of each level, the finest first.

    Example:
        logits = UNet3D(in_channels=1, n_classes=3, features=(8, 16))(torch.zeros(1, 1, 9, 10, 11))  # [1,3,9,10,11]
    """

    def __init__(self, in_channels: int, n_classes: int, features: Sequence[int] = PAPER_FEATURES) -> None:
        super().__init__()
        inputs = (in_channels, *features[:-1])
        self.encoder = nn.ModuleList(
            _level(before, _between(before, after), after) for before, after in zip(inputs, features, strict=True)
        )
        finest_last = tuple(reversed(features))
        self.decoder = nn.ModuleList(
            _level(below + skip, skip, skip) for below, skip in itertools.pairwise(finest_last)
        )
        self.head = nn.Conv3d(features[0], n_classes, kernel_size=1)

    def forward(self, image_BMZYX: torch.Tensor) -> torch.Tensor:
        """Return logits [b,c,z,y,x] of normalised images [b,modality,z,y,x]."""
        skips: list[torch.Tensor] = []
        x = image_BMZYX
        for level in self.encoder:
            x = level(functional.max_pool3d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for level in self.decoder:
            skip = skips.pop()
            x = level(torch.cat([skip, functional.interpolate(x, size=skip.shape[2:], mode="nearest")], dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


def require_normalisable(size_ZYX: Sequence[int], in_channels: int, features: Sequence[int], what: str) -> None:
    """Refuse a crop or window of which the last level is a single voxel, and a group of its channels a single one.

    Group normalisation then makes 0 of every value, and torch refuses to.

    Raises:
        RecipeError: it is so; the message says what helps.
    """
    inputs = (in_channels, *features)
    last = (_between(*inputs[-2:]), features[-1])
    if max(size_ZYX) < 2 * smallest_size(features) and any(_groups(channels) == channels for channels in last):
        raise RecipeError(
            f"{what} {' '.join(map(str, size_ZYX))} is 1 voxel in the last of {len(features)} levels (--features "
            f"{','.join(map(str, features))}), with too few channels to normalise one voxel; take a larger {what}, "
            "fewer levels, or more than 8 channels in the last two"
        )


def _between(before: int, after: int) -> int:
    """Channels after the first convolution of an encoder level, which go half of the way to grow in two steps."""
    return max(after // 2, before)


def _level(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(_convolution(before, between), _convolution(between, after))


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, kernel_size=3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.GroupNorm(_groups(after), after),
    )


def _groups(channels: int) -> int:
    """The paper's min(8, channels), lowered until it divides the channels, as GroupNorm asks."""
    return max(groups for groups in range(1, min(8, channels) + 1) if channels % groups == 0)
