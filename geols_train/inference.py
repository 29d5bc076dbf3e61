"""Inference: class probabilities of a whole volume from overlapping windows with Gaussian weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from geols_train.hardware import Precision, autocast
from geols_train.windows import Box, Size, covering_boxes

#: As in nnU-Net (Isensee et al. 2021): standard deviation of the weights as a share of the window.
GAUSSIAN_SIGMA = 1 / 8


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module, image_MZYX: torch.Tensor, *, window: Size, overlap: float, precision: Precision = "auto"
) -> torch.Tensor:
    """Return class probabilities [c,z,y,x] float32 of a volume, on the device of the network.

    Where windows overlap, each counts by a Gaussian weight that is largest in its middle. A volume smaller than the
    window is padded with zeros, as in training.

    Args:
        network: from [1,modality,z,y,x] to logits [1,c,z,y,x].
        image_MZYX: z-scores, float32.
        window: (z,y,x) voxels.
        overlap: share of a window that its neighbour covers too.
        precision: of the network; the average is float32.
    """
    device = next(network.parameters()).device
    image_MZYX = image_MZYX.to(device)
    shape = image_MZYX.shape[1:]
    weights_ZYX = gaussian_weights(window).to(device)
    total_ZYX = torch.zeros(shape, device=device)
    sum_CZYX: torch.Tensor | None = None
    for box in covering_boxes(shape, window, overlap=overlap):
        with autocast(device, precision):
            logits_CZYX = network(_cut(image_MZYX, box)[None])[0]
        weighted = logits_CZYX.float().softmax(dim=0) * weights_ZYX
        if sum_CZYX is None:
            sum_CZYX = torch.zeros((len(weighted), *shape), device=device)
        (z, y, x), (wz, wy, wx) = box.inside(shape), box.placed(shape)
        sum_CZYX[:, z, y, x] += weighted[:, wz, wy, wx]
        total_ZYX[z, y, x] += weights_ZYX[wz, wy, wx]
    assert sum_CZYX is not None
    return sum_CZYX / total_ZYX


def gaussian_weights(size: Sequence[int]) -> torch.Tensor:
    """Return weights [z,y,x] float32, about 1 in the middle of a window, above 1e-11 at its corners."""
    weights_ZYX = torch.ones(())
    for n in size:
        distance = torch.arange(n) - (n - 1) / 2
        axis = torch.exp(-0.5 * (distance / (GAUSSIAN_SIGMA * n)) ** 2)
        weights_ZYX = weights_ZYX[..., None] * axis
    return weights_ZYX


def _cut(image_MZYX: torch.Tensor, box: Box) -> torch.Tensor:
    """Return the voxels of a box, 0 where it reaches beyond the volume."""
    shape = image_MZYX.shape[1:]
    z, y, x = box.inside(shape)
    pads = [
        n
        for placed, size in zip(reversed(box.placed(shape)), reversed(box.size), strict=True)
        for n in (placed.start, size - placed.stop)
    ]
    return functional.pad(image_MZYX[:, z, y, x], pads)
