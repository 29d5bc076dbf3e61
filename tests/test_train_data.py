"""Windows and batches: padding, presence, caches, and the same batches whatever loads them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_precompute.errors import StoreError
from geols_precompute.store.layout import IMAGE, LABEL, MAPS
from geols_train.data import CaseReader, EpochBatches, WindowDataset, collate, make_loader
from geols_train.windows import centre_box, whole_box


def test_a_whole_case(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=2, absent=(1,), modalities=2))
    stores = reader.stores
    sample = reader.read("case_01", whole_box(reader.shape("case_01")))
    np.testing.assert_array_equal(sample.label, stores.volumes.label("case_01"))
    np.testing.assert_array_equal(sample.maps, stores.labels.maps("case_01"))
    assert sample.counted.all()
    assert sample.present.tolist() == [False, True, False]
    np.testing.assert_allclose(sample.image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(sample.image.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_presence_is_of_the_volume_and_not_of_the_window(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1))
    corner = reader.read("case_00", centre_box((2, 2, 2), (2, 2, 2)))
    assert not corner.label.any()
    assert corner.present.tolist() == [False, True, True]


def test_padding_is_zero_and_does_not_count(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1, shape=(4, 12, 11)))
    sample = reader.read("case_00", centre_box((4, 12, 11), (8, 6, 11)))
    assert sample.image.shape == (1, 8, 6, 11)
    for padding in (slice(0, 2), slice(6, 8)):
        assert not sample.image[:, padding].any()
        assert not sample.label[padding].any()
        assert not sample.maps[:, padding].any()
        assert not sample.counted[padding].any()
    assert sample.counted[2:6].all()
    np.testing.assert_array_equal(sample.label[2:6], reader.stores.volumes.label("case_00")[:, 3:9])


def test_ignored_voxels_do_not_count(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1, ignore=9))
    sample = reader.read("case_00", whole_box(reader.shape("case_00")))
    assert (sample.label[0] == 255).all()
    assert not sample.counted[0].any()
    assert sample.counted[1:].all()


def test_methods_without_maps_read_none(tmp_path):
    full = make_fixture_reader(make_stores(tmp_path, cases=1))
    reader = CaseReader(stores=full.stores, zscores=full.zscores, maps_needed=False)
    sample = reader.read("case_00", whole_box(reader.shape("case_00")))
    assert sample.maps is None
    assert collate([sample]).maps is None


def test_the_cache_changes_nothing(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=2))
    cached = reader.cached(reader.stores.cases)
    assert set(cached.cache) == {"case_00", "case_01"}
    for case in reader.stores.cases:
        box = centre_box(reader.shape(case), (14, 6, 8))
        for name in ("image", "label", "maps", "counted", "present"):
            np.testing.assert_array_equal(getattr(cached.read(case, box), name), getattr(reader.read(case, box), name))


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


def loaded(reader, workers, start_method=None):
    batches = EpochBatches(reader.stores.cases, 2, seed=5)
    dataset = WindowDataset(reader, (6, 8, 8), place="random")
    loader = make_loader(dataset, batches, workers=workers, start_method=start_method)
    found = []
    for batches.epoch in range(2):
        found += list(loader)
    return found


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_batches_are_the_same_for_every_kind_of_worker(tmp_path, start_method):
    reader = make_fixture_reader(make_stores(tmp_path, cases=5))
    expected = loaded(reader, 0)  # the parent has read before the workers start
    assert len(expected) == 6
    for ours, theirs in zip(loaded(reader, 2, start_method), expected, strict=True):
        assert ours.cases == theirs.cases
        assert all(torch.equal(a, b) for a, b in zip(ours.spatial(), theirs.spatial(), strict=True))
        assert torch.equal(ours.present, theirs.present)
        assert ours.maps.dtype == torch.uint8


@pytest.mark.parametrize(("store", "kind"), [("volumes", IMAGE), ("volumes", LABEL), ("labels", MAPS)])
def test_a_damaged_case_is_found_when_it_is_examined(tmp_path, store, kind):
    reader = make_fixture_reader(make_stores(tmp_path, cases=2))
    shard = tmp_path / f"{store}.zarr/case_01" / kind.shard_path
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    reader.examined("case_00")
    with pytest.raises(StoreError, match="case_01"):
        reader.examined("case_01")


def test_batches_travel_with_the_types_of_the_store(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1))
    batch = collate([reader.read("case_00", whole_box(reader.shape("case_00")))]).to(torch.device("cpu"))
    assert [t.dtype for t in batch.spatial()] == [torch.float32, torch.uint8, torch.bool, torch.uint8]
    assert json.dumps(batch.cases) == '["case_00"]'
