"""Batches: the same whatever loads them, each once and in order, and on the device."""

from __future__ import annotations

import json

import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_train.batches import EpochBatches, WindowDataset, collate, make_loader, on_device
from geols_train.data import whole_box

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


def test_every_case_once_an_epoch_in_another_order_and_from_the_middle():
    batches = EpochBatches(["a", "b", "c", "d", "e"], 2, seed=1)
    epochs = []
    for batches.epoch in range(4):
        found = list(batches)
        assert len(found) == len(batches) == 3
        assert sorted(case for batch in found for case, _ in batch) == list("abcde")
        epochs.append(found)
        batches.skip = 2
        assert list(batches) == found[2:]
        batches.skip = 0
    assert len({str(epoch) for epoch in epochs}) == 4
    assert len({key for epoch in epochs for batch in epoch for _, key in batch}) == 20


def test_batches_travel_with_the_types_of_the_store(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1))
    stored = collate([reader.window("case_00", whole_box(reader.shape("case_00")))]).to(torch.device("cpu"))
    assert [t.dtype for t in (stored.image, stored.label, stored.maps)] == [torch.int16, torch.uint8, torch.uint8]
    assert [t.dtype for t in stored.normalised().spatial()] == [torch.float32, torch.uint8, torch.uint8]
    assert json.dumps(stored.cases) == '["case_00"]'
