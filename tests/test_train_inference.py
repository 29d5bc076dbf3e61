"""Windows over whole volumes: a network without context predicts the same in windows and at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geols_train.inference import gaussian_weights, predict_probabilities


class Pointwise(nn.Module):
    """Logits that depend on a voxel alone."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.sizes = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape[2:]))
        return torch.cat([-self.scale * image, self.scale * image], dim=1)


@pytest.mark.parametrize("shape", [(7, 9, 8), (4, 5, 6), (13, 3, 21)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_windows_agree_with_the_whole(shape, overlap):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32))
    network = Pointwise()
    found = predict_probabilities(network, image, window=(5, 5, 6), overlap=overlap, precision="float32")
    expected = torch.cat([-3 * image, 3 * image]).softmax(dim=0)
    torch.testing.assert_close(found, expected)
    assert set(network.sizes) == {(5, 5, 6)}


def test_the_middle_of_a_window_counts_more_than_its_border():
    class Border(Pointwise):
        def forward(self, image):
            logits = torch.zeros(1, 2, *image.shape[2:])
            logits[:, 1, :, :, :2] = 20  # wrong near one border
            return logits * self.scale

    found = predict_probabilities(
        Border(), torch.zeros(1, 4, 4, 12), window=(4, 4, 8), overlap=0.5, precision="float32"
    )
    # the left border of the second window is the middle of the first
    assert (found[1, :, :, 4:6] < 0.6).all()
    assert (found[1, :, :, :2] > 0.99).all()


def test_weights_are_symmetric_and_never_vanish():
    weights = gaussian_weights((4, 5, 6))
    assert weights.shape == (4, 5, 6)
    torch.testing.assert_close(weights, weights.flip(0, 1, 2))
    assert weights.min() > 1e-12
    assert weights[1, 2, 2] == weights.max()
