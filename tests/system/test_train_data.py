"""Boxes, z-scores, windows with their padding and presence, caches, and the maps of a store alone."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from train_fixtures import make_stores, open_fixture

from geols_train import LabelMaps


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_maps_are_read_by_worker_processes(tmp_path, start_method):
    dataset = LabelMaps(open_fixture(make_stores(tmp_path, cases=4)).labels)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start_method)
    batches = list(loader)
    assert [case for batch in batches for case in batch["case"]] == list(dataset.store.cases)
    assert torch.equal(torch.cat([batch["maps"] for batch in batches]), torch.stack([i["maps"] for i in dataset]))
    assert batches[0]["present"].shape == (2, 3)
