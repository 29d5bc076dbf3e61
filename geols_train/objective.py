"""Objective: what a training minimises, by its configuration."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from geols_precompute.data.prepare import IGNORE_INDEX
from geols_train.batches import Batch
from geols_train.config import TrainConfig
from geols_train.distributed import World
from geols_train.fused import Mix, mixed_cross_entropy
from geols_train.losses import dice_semimetric_loss, focal_loss, soft_cross_entropy
from geols_train.targets import soft_label


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch.

    Attributes:
        config: names the method and its parameters.
        n_classes: background included.
        channels: the class index of each stored map.
        world: the processes that share the batch.
    """

    config: TrainConfig
    n_classes: int
    channels: tuple[int, ...]
    world: World

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of this process's part of the batch, whose mean over processes is the batch's."""
        config = self.config
        if config.method in ("ce", "ls", "geols") and not config.dice_weight:
            return self._share(batch, mixed_cross_entropy(logits, batch.label, batch.counted, self.mix(batch)))
        # the padding is no class: SVLS would smooth it into the voxels beside it
        label_BZYX = torch.where(batch.counted, batch.label, IGNORE_INDEX)
        target = soft_label(
            config.method, label_BZYX, n_classes=self.n_classes, alpha=config.alpha, normalize=config.normalize,
            stored_BKZYX=batch.maps, channels=self.channels, present_BC=batch.present,
        )  # fmt: skip
        if config.method == "fl":
            loss = focal_loss(logits, target, batch.counted, gamma=config.focal_gamma)
        else:
            loss = soft_cross_entropy(logits, target, batch.counted)
        loss = self._share(batch, loss)
        if config.dice_weight:
            loss = loss + config.dice_weight * dice_semimetric_loss(logits, target, batch.counted, self.world.total)
        return loss

    def mix(self, batch: Batch) -> Mix:
        """Return how the labels of a batch are softened."""
        config = self.config
        if config.method != "geols":
            return Mix(alpha=config.alpha if config.method == "ls" else 0.0)
        return Mix(
            alpha=config.alpha, stored=batch.maps, channels=self.channels, present=batch.present,
            normalize=config.normalize,
        )  # fmt: skip

    def _share(self, batch: Batch, mean: torch.Tensor) -> torch.Tensor:
        """Weigh a mean over this process's voxels as the mean over all processes' voxels asks."""
        if self.world.alone:
            return mean
        counted = batch.counted.sum().float()
        return mean * counted * self.world.size / self.world.total(counted).clamp(min=1)
