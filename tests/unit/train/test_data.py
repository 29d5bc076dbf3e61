"""Boxes, z-scores, windows with their padding and presence, caches, and the maps of a store alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_fixtures import make_fixture_reader, make_stores, open_fixture

from geols_precompute.data.prepare import to_int16
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.store.layout import IMAGE, LABEL, MAPS
from geols_train import LabelMaps
from geols_train.batches import collate
from geols_train.data import CaseReader, ZScore, centre_box, covering_boxes, random_box, whole_box


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
    counted = batch.label != 255
    for padding in (slice(0, 2), slice(6, 8)):
        assert not sample.image[:, padding].any()
        assert not sample.label[padding].any()
        assert not sample.counted[padding].any()
        assert not batch.image[0, :, padding].any()
        assert not batch.maps[0, :, padding].any()
        assert not counted[0, padding].any()
    assert sample.counted[2:6].all()
    assert counted[0, 2:6].all()
    np.testing.assert_array_equal(sample.label[2:6], reader.stores.volumes.label("case_00")[:, 3:9])


def test_ignored_voxels_do_not_count_but_have_intensities(tmp_path):
    reader = make_fixture_reader(make_stores(tmp_path, cases=1, ignore=9))
    box = whole_box(reader.shape("case_00"))
    sample, batch = reader.read("case_00", box), ready(reader, "case_00", box)
    assert (sample.label[0] == 255).all()
    assert not sample.counted[0].any()
    assert sample.counted[1:].all()
    np.testing.assert_array_equal(batch.label[0] != 255, sample.counted)
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


sizes = st.tuples(*[st.integers(1, 30)] * 3)


@given(shape=sizes, size=sizes, seed=st.integers(0, 99))
def test_what_lies_inside_the_volume_lands_at_its_place_in_the_box(shape, size, seed):
    for box in (centre_box(shape, size), random_box(shape, size, np.random.default_rng(seed)), whole_box(shape)):
        for inside, placed, start, n, s in zip(
            box.inside(shape), box.placed(shape), box.start, shape, box.size, strict=True
        ):
            assert 0 <= inside.start < inside.stop <= n
            assert 0 <= placed.start < placed.stop <= s
            assert inside.stop - inside.start == placed.stop - placed.start == min(n, s)
            assert inside.start - placed.start == start


@given(shape=sizes, size=sizes, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_cover_every_voxel_with_the_overlap_asked_for(shape, size, overlap):
    for n, s, axis in zip(shape, size, range(3), strict=True):
        starts = sorted({box.start[axis] for box in covering_boxes(shape, size, overlap=overlap)})
        if n <= s:
            assert starts == [(n - s) // 2]
            continue
        assert (starts[0], starts[-1]) == (0, n - s)
        assert all(b - a <= max(1, np.ceil(s * (1 - overlap))) for a, b in itertools.pairwise(starts))


def test_random_boxes_reach_both_ends():
    starts = {random_box((5, 9, 3), (3, 9, 4), np.random.default_rng(s)).start for s in range(50)}
    assert {start[0] for start in starts} == {0, 1, 2}
    assert {start[1:] for start in starts} == {(0, -1)}


@pytest.mark.parametrize(("n", "size", "start"), [(10, 4, 3), (9, 4, 2), (4, 8, -2), (5, 8, -2)])
def test_centre(n, size, start):
    assert centre_box((n,) * 3, (size,) * 3).start == (start,) * 3


def scored(image, *, skull_stripped=False):
    stored, scale, offset = to_int16(image)
    return ZScore.measure(stored, scale, offset, skull_stripped=skull_stripped).apply(stored)


@pytest.mark.parametrize("factor", [1, 1e-3, 1e4])
def test_mean_zero_and_deviation_one_whatever_the_scale(factor):
    image = (np.random.default_rng(0).normal(5, 3, (2, 4, 5, 6)) * factor).astype(np.float32)
    result = scored(image)
    assert result.dtype == np.float32
    expected = (image - image.mean(axis=(1, 2, 3), keepdims=True)) / image.std(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize("low", [0.0, -3.7])
def test_skull_stripped_takes_only_voxels_that_are_not_zero(low):
    image = np.zeros((1, 4, 4, 4), np.float32)
    inside = np.linspace(low, 9.3, 32, dtype=np.float32).reshape(2, 4, 4) + np.float32(0.013)
    image[0, :2] = inside
    result = scored(image, skull_stripped=True)
    assert (result[0, 2:] == 0).all()
    np.testing.assert_allclose(result[0, :2], (inside - inside.mean()) / inside.std(), atol=2e-3)


def test_constant_and_empty_modalities_give_zero():
    assert (scored(np.full((1, 2, 2, 2), 7.0, np.float32)) == 0).all()
    assert (scored(np.zeros((1, 2, 2, 2), np.float32), skull_stripped=True) == 0).all()


@pytest.mark.parametrize("background", ["complement", "seeds"])
def test_the_maps_of_a_store_case_by_case(tmp_path, background):
    store = open_fixture(make_stores(tmp_path, cases=3, absent=(1,), background=background)).labels
    dataset = LabelMaps(store)
    assert len(dataset) == 3
    for index, case in enumerate(store.cases):
        item = dataset[index]
        assert item["case"] == case
        assert item["maps"].dtype == torch.uint8
        np.testing.assert_array_equal(item["maps"], store.maps(case))
        assert item["present"].dtype == torch.bool
        assert np.flatnonzero(item["present"]).tolist() == list(store.present(case))
    with pytest.raises(IndexError):
        dataset[3]
    assert [item["case"] for item in dataset] == list(store.cases)


def test_a_window_of_the_maps(tmp_path):
    store = open_fixture(make_stores(tmp_path, cases=2)).labels
    window = (slice(2, 6), slice(0, 5), slice(3, 11))
    item = LabelMaps(store, window=window)[1]
    np.testing.assert_array_equal(item["maps"], store.maps("case_01")[(slice(None), *window)])
    np.testing.assert_array_equal(LabelMaps(store).read("case_01", window)["maps"], item["maps"])
    with pytest.raises(InputError, match="is not three slices"):
        LabelMaps(store, window=(slice(0, 99),) * 3)[0]
    with pytest.raises(InputError, match="no case"):
        LabelMaps(store).read("nobody")
