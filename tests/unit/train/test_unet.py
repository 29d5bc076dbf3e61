"""The network is the paper's, and takes any size that its levels allow."""

from __future__ import annotations

import pytest
import torch

from geols_precompute.errors import RecipeError
from geols_train.config import require_size, smallest_size
from geols_train.unet import UNet3D, require_normalisable


def test_parameters_of_the_paper():
    network = UNet3D(4, 4)
    assert sum(p.numel() for p in network.parameters()) == 16_508_340


def test_every_convolution_but_the_head_is_without_bias_and_followed_by_relu_and_group_norm():
    network = UNet3D(1, 2, (4, 8, 12))
    for level in [*network.encoder, *network.decoder]:
        for block in level:
            convolution, relu, norm = block
            assert convolution.bias is None
            assert isinstance(relu, torch.nn.ReLU)
            assert isinstance(norm, torch.nn.GroupNorm)
            assert norm.num_groups == {2: 2, 4: 4, 8: 8, 12: 6}[norm.num_channels]
    assert network.head.bias is not None
    # the first convolution of an encoder level gives max(out / 2, in) channels
    assert [level[0][0].out_channels for level in network.encoder] == [2, 4, 8]


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 7, 9), (4, 11, 6)])
def test_any_size_of_at_least_two_to_the_levels(size):
    logits = UNet3D(2, 3, (8, 16, 32))(torch.randn(1, 2, *size))
    assert logits.shape == (1, 3, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("size", "modalities", "features"),
    [
        ((8, 8, 8), 1, (4, 8, 8, 8)),
        ((8, 8, 15), 1, (4, 8, 8, 8)),
        ((8, 8, 16), 1, (4, 8, 8, 8)),
        ((4, 4, 4), 1, (4, 8, 16)),  # 8 channels between the two convolutions
        ((4, 4, 4), 1, (4, 8, 18)),
        ((4, 4, 4), 1, (4, 9, 9)),
        ((4, 4, 4), 1, (4, 9, 4)),
        ((1, 1, 1), 9, (9,)),
        ((1, 1, 1), 8, (9,)),
        ((2, 2, 2), 1, (2, 11)),  # one group of 11
    ],
)
def test_a_last_level_of_one_voxel_is_refused_where_torch_cannot_normalise_it(size, modalities, features):
    network = UNet3D(modalities, 2, features)
    try:
        network(torch.zeros(1, modalities, *size))
    except ValueError:
        with pytest.raises(RecipeError, match=r"--crop .* is 1 voxel in the last of \d levels"):
            require_normalisable(size, modalities, features, "--crop")
    else:
        require_normalisable(size, modalities, features, "--crop")


def test_a_size_that_vanishes_on_the_way_down_is_refused():
    assert smallest_size((2, 4, 8)) == 4
    require_size((4, 4, 4), (2, 4, 8), "--crop")
    with pytest.raises(RecipeError, match=r"--crop 4 3 4 is too small: 3 levels \(--features\) need at least 4 voxels"):
        require_size((4, 3, 4), (2, 4, 8), "--crop")
