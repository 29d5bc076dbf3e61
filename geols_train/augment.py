"""Augmentation, on the device that trains.

In space: elements of the cube's symmetry group, so that image, label and maps move together, bit for bit. Of
intensities: what differs between scanners and scans, of the image alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from geols_train.config import Augment

_AXES = "zyx"


def augment(
    tensors: Sequence[torch.Tensor], kind: Augment, rng: np.random.Generator, *, flip_axes: str = _AXES
) -> list[torch.Tensor]:
    """Return the tensors [...,z,y,x] of one batch, all moved in the same way.

    paper: with probability 0.5, two random spatial axes transposed, then one random axis flipped; the shape of the
    batch may change with it. flips: each axis in `flip_axes` flipped with probability 0.5.

    Labels that know left from right, or front from back, suffer from flips along that axis: leave it out.
    """
    if kind == "paper":
        return _transpose_and_flip(tensors, rng) if rng.random() < 0.5 else list(tensors)
    if kind == "flips":
        dims = [_AXES.index(axis) - 3 for axis in flip_axes if rng.random() < 0.5]
        return [torch.flip(tensor, dims) for tensor in tensors] if dims else list(tensors)
    return list(tensors)


def _transpose_and_flip(tensors: Sequence[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
    first, second = (int(axis) - 3 for axis in rng.choice(3, size=2, replace=False))
    flipped = int(rng.integers(3)) - 3
    return [torch.flip(tensor.transpose(first, second), [flipped]) for tensor in tensors]


def vary_intensities(image_BMZYX: torch.Tensor, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
    """Return z-scores as other scanners might have given them: noise, brightness, contrast, gamma.

    Kinds, probabilities and ranges are those of nnU-Net (Isensee et al. 2021): Gaussian noise of a variance up to 0.1
    (in 1 of 10 cases), a factor and a contrast of 0.75 to 1.25 (0.15 each), and a gamma of 0.7 to 1.5 (0.3), every
    modality for itself.

    Args:
        image_BMZYX: z-scores, float32.
        rngs: one for each case, so that a case does not depend on those beside it.
    """
    return torch.stack(
        [
            torch.stack([_varied(modality_ZYX, rng) for modality_ZYX in image_MZYX])
            for image_MZYX, rng in zip(image_BMZYX, rngs, strict=True)
        ]
    )


def _varied(image_ZYX: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    chance, noise_seed = rng.random(4), int(rng.integers(2**63))
    variance, factor, contrast, gamma = rng.uniform((0, 0.75, 0.75, 0.7), (0.1, 1.25, 1.25, 1.5))
    if chance[0] < 0.1:
        generator = torch.Generator(image_ZYX.device).manual_seed(noise_seed)
        noise_ZYX = torch.randn(image_ZYX.shape, generator=generator, device=image_ZYX.device)
        image_ZYX = image_ZYX + noise_ZYX * float(variance) ** 0.5
    if chance[1] < 0.15:
        image_ZYX = image_ZYX * float(factor)
    if chance[2] < 0.15:
        mean = image_ZYX.mean()
        image_ZYX = ((image_ZYX - mean) * float(contrast) + mean).clamp(image_ZYX.min(), image_ZYX.max())
    if chance[3] < 0.3:
        image_ZYX = _with_gamma(image_ZYX, float(gamma))
    return image_ZYX


def _with_gamma(image_ZYX: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the image with its range bent by a power, and its mean and standard deviation as they were."""
    least, mean, std = image_ZYX.min(), image_ZYX.mean(), image_ZYX.std()
    bent_ZYX = ((image_ZYX - least) / (image_ZYX.max() - least).clamp(min=1e-7)) ** gamma
    return (bent_ZYX - bent_ZYX.mean()) / bent_ZYX.std().clamp(min=1e-7) * std + mean
