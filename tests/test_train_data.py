"""Windows and batches: padding, presence, caches, and the same batches whatever loads them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_fixtures import make_fixture_reader, make_stores

from geols_precompute.errors import StoreError
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.store.layout import IMAGE, LABEL, MAPS
from geols_train.batches import collate
from geols_train.data import CaseReader, EpochBatches, WindowDataset, make_loader
from geols_train.windows import centre_box, whole_box


def ready(reader, case, box):
    """A window of one case as the network gets it."""
    return collate([reader.window(case, box)]).normalised()


def test_a_whole_case(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=2, absent=(1,), modalities=2))
    stores = reader.stores
    window = reader.window("case_01", whole_box(reader.shape("case_01")))
    np.testing.assert_array_equal(window.image, stores.volumes.image("case_01"))
    np.testing.assert_array_equal(window.label, stores.volumes.label("case_01"))
    np.testing.assert_array_equal(window.maps, stores.labels.maps("case_01"))
    assert window.present.tolist() == [False, True, False]
    sample = reader.read("case_01", whole_box(reader.shape("case_01")))
    np.testing.assert_array_equal(sample.label, stores.volumes.label("case_01"))
    assert sample.counted.all()
    np.testing.assert_allclose(sample.image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(sample.image.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_presence_is_of_the_volume_and_not_of_the_window(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1))
    corner = reader.window("case_00", centre_box((2, 2, 2), (2, 2, 2)))
    assert not corner.label.any()
    assert corner.present.tolist() == [False, True, True]


def test_padding_is_zero_and_does_not_count(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1, shape=(4, 12, 11)))
    box = centre_box((4, 12, 11), (8, 6, 11))
    sample, batch = reader.read("case_00", box), ready(reader, "case_00", box)
    assert sample.image.shape == (1, 8, 6, 11)
    for padding in (slice(0, 2), slice(6, 8)):
        assert not sample.image[:, padding].any()
        assert not sample.label[padding].any()
        assert not sample.counted[padding].any()
        assert not batch.image[0, :, padding].any()
        assert not batch.maps[0, :, padding].any()
        assert not batch.counted[0, padding].any()
    assert sample.counted[2:6].all()
    assert batch.counted[0, 2:6].all()
    np.testing.assert_array_equal(sample.label[2:6], reader.stores.volumes.label("case_00")[:, 3:9])


def test_ignored_voxels_do_not_count_but_have_intensities(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1, ignore=9))
    box = whole_box(reader.shape("case_00"))
    sample, batch = reader.read("case_00", box), ready(reader, "case_00", box)
    assert (sample.label[0] == 255).all()
    assert not sample.counted[0].any()
    assert sample.counted[1:].all()
    np.testing.assert_array_equal(batch.counted[0], sample.counted)
    assert sample.image[0, 0].any()


@pytest.mark.parametrize("stripped", [False, True])
def test_normalising_a_batch_gives_the_numbers_of_the_z_score_itself(tmp_path, stripped):
    hints = TrainingHints(skull_stripped=stripped)
    reader = make_fixture_reader(make_stores(tmp_path, cases=3, modalities=2, hints=hints))
    windows = [reader.window(case, centre_box(reader.shape(case), (14, 9, 11))) for case in reader.stores.cases]
    batch = collate(windows)
    assert (batch.empty is not None) == stripped
    image = batch.normalised().image.numpy()
    for case, mine in zip(reader.stores.cases, image, strict=True):
        expected = np.zeros((2, 14, 9, 11), np.float32)
        box = centre_box(reader.shape(case), (14, 9, 11))
        whole = reader.zscores[case].apply(reader.stores.volumes.image(case))
        expected[(slice(None), *box.placed(whole.shape[1:]))] = whole[(slice(None), *box.inside(whole.shape[1:]))]
        np.testing.assert_array_equal(mine, expected)
        np.testing.assert_array_equal(reader.read(case, box).image, expected)


def test_methods_without_maps_read_none(tmp_path):
    full = make_fixture_reader(make_stores(tmp_path, cases=1))
    reader = CaseReader(stores=full.stores, zscores=full.zscores, maps_needed=False)
    window = reader.window("case_00", whole_box(reader.shape("case_00")))
    assert window.maps is None
    assert collate([window]).to(torch.device("cpu")).normalised().maps is None


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
@pytest.mark.parametrize("size", [(14, 6, 8), (4, 4, 4)])
def test_the_cache_changes_nothing(tmp_path, device, size):
    reader = make_fixture_reader(make_stores(tmp_path, cases=2))
    cached = reader.cached(reader.stores.cases, device)
    assert set(cached.cache) == {"case_00", "case_01"}
    boxes = {case: centre_box(reader.shape(case), size) for case in reader.stores.cases}
    ours, theirs = (collate([r.window(case, box) for case, box in boxes.items()]) for r in (cached, reader))
    for name in ("image", "label", "maps", "present", "inside", "mean", "std"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


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
        for name in ("image", "label", "maps", "present", "inside", "mean", "std"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.maps.dtype == torch.uint8


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_signal_to_every_process_leaves_the_workers_at_work(tmp_path, start_method):
    reader = make_fixture_reader(make_stores(tmp_path, cases=10))
    dataset, batches = WindowDataset(reader, (6, 8, 8), place="random"), EpochBatches(reader.stores.cases, 1, seed=0)
    loader = make_loader(dataset, batches, workers=2, start_method=start_method)
    cases = []
    for number, batch in enumerate(loader):
        cases += batch.cases
        if number == 1:  # both work
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
                os.kill(worker.pid, signal.SIGINT)
    assert sorted(cases) == sorted(reader.stores.cases)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    del loader
    for worker in workers:
        worker.join(10)
        assert worker.exitcode == 0


HOLDS_A_LOADER = """
import sys, time
from pathlib import Path
from train_fixtures import make_fixture_reader
from geols_train.data import EpochBatches, WindowDataset, make_loader
reader = make_fixture_reader(Path(sys.argv[1]))
batches = EpochBatches(reader.stores.cases, 1, seed=0)
dataset = WindowDataset(reader, (6, 8, 8), place="random")
"""
TO_THE_END = """
loader = make_loader(dataset, batches, workers=2)
cycle = [loader]
cycle.append(cycle)
print(len(list(loader)))
"""
STUCK = """
WindowDataset.__getitem__ = lambda self, item: time.sleep(1000)
windows = iter(make_loader(dataset, batches, workers=1))
time.sleep(1)
print("4")
"""


@pytest.mark.parametrize("script", [TO_THE_END, STUCK])
def test_a_script_with_a_loader_ends(tmp_path, script):
    make_stores(tmp_path, cases=4)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_A_LOADER + script, str(tmp_path)], env=environment, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


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
    stored = collate([reader.window("case_00", whole_box(reader.shape("case_00")))]).to(torch.device("cpu"))
    assert [t.dtype for t in (stored.image, stored.label, stored.maps)] == [torch.int16, torch.uint8, torch.uint8]
    assert [t.dtype for t in stored.normalised().spatial()] == [torch.float32, torch.uint8, torch.bool, torch.uint8]
    assert json.dumps(stored.cases) == '["case_00"]'
