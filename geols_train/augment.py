"""Augmentation: elements of the cube's symmetry group, so that image, label and maps move together, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

Augment = Literal["paper", "flips", "none"]
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
