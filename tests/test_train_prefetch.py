"""Batches arrive on the device, each once and in order."""

from __future__ import annotations

import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_train.data import EpochBatches, WindowDataset, make_loader
from geols_train.prefetch import on_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cases", [1, 2, 7])
def test_batches_arrive_as_they_were(tmp_path, device, cases):
    reader = make_fixture_reader(make_stores(tmp_path, cases=cases))
    batches = EpochBatches(reader.stores.cases, 2, seed=0)
    loader = make_loader(WindowDataset(reader, (6, 8, 6), place="random"), batches, workers=0, pin=device == "cuda")
    expected = list(loader)
    found = list(on_device(loader, torch.device(device)))
    assert [batch.cases for batch in found] == [batch.cases for batch in expected]
    for one, other in zip(found, expected, strict=True):
        for moved, tensor in zip(one.tensors(), other.tensors(), strict=True):
            assert moved.device.type == device
            assert torch.equal(moved.cpu(), tensor)
