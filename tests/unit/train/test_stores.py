"""Finding the stores, and refusing labels that do not fit the volumes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from train_fixtures import make_stores, open_fixture

from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.share.pack import pack as write_packed
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import write_manifest
from geols_train.stores import open_stores, require_fit


def edit(store, relative, change):
    """Change a metadata document, and the digests over it: a store that is whole, but another."""
    path = store / relative
    document = json.loads(path.read_text())
    geols = document["attributes"]["geols"]
    change(geols)
    if "recipe" in geols:
        geols["recipe_id"] = sha256_hex(canonical_json(geols["recipe"]))
    path.write_bytes(canonical_json(document))
    (store / "manifest.json").unlink()
    write_manifest(store)


def test_the_stores_are_found_below_the_data_or_in_the_folder_itself(tmp_path):
    make_stores(tmp_path / "data/geols", cases=2)
    for data in (tmp_path / "data", tmp_path / "data/geols"):
        stores = open_stores(data, "labels", maps_needed=True)
        assert stores.cases == ("case_00", "case_01")
        assert stores.labels is not None
    path = str(tmp_path / "data/geols/labels.zarr")
    assert open_stores(tmp_path / "data", path, maps_needed=True).labels.digest == stores.labels.digest


def test_a_packed_label_store_by_name_or_path(tmp_path):
    out = make_stores(tmp_path / "data/geols", cases=2)
    unpacked = LabelStore.open(out / "labels.zarr")
    write_packed(unpacked, out / "public.zarr.zip", {}, lambda case, error: None)
    for labels in ("public", "public.zarr.zip", str(out / "public.zarr.zip")):
        stores = open_stores(tmp_path / "data", labels, maps_needed=True)
        assert stores.labels.digest == unpacked.digest
        require_fit(stores, stores.cases)
        np.testing.assert_array_equal(stores.labels.maps("case_01"), unpacked.maps("case_01"))
    with pytest.raises(StoreError, match="--labels takes one of labels, public, or a path"):
        open_stores(tmp_path / "data", "other", maps_needed=True)


def test_what_the_stores_say(tmp_path):
    hints = TrainingHints(regions={"all": (2, 5)}, crop=(8, 8, 8), skull_stripped=True)
    stores = open_fixture(make_stores(tmp_path, cases=1, hints=hints, modalities=2, ignore=9))
    assert stores.hints == hints
    assert stores.preprocessing.modalities == ("m0", "m1")
    assert stores.classes.ignore == 9
    assert [c.value for c in stores.classes] == [0, 2, 5]


def test_no_volumes(tmp_path):
    with pytest.raises(StoreError, match=r"no volumes\.zarr in .*; run geols-precompute .* first"):
        open_stores(tmp_path, "labels", maps_needed=True)


def test_no_label_store_names_those_there_are_and_only_geols_needs_one(tmp_path):
    make_stores(tmp_path, cases=1)
    with pytest.raises(StoreError, match=r"no label store .*other\.zarr; --labels takes one of labels"):
        open_stores(tmp_path, "other", maps_needed=True)
    assert open_stores(tmp_path, "other", maps_needed=False).labels is None


def test_cases_that_only_one_store_has_are_left_out_for_every_method(tmp_path):
    make_stores(tmp_path, cases=3)
    (tmp_path / "labels.zarr/case_01").rename(tmp_path / "gone")
    write_manifest(tmp_path / "labels.zarr")
    for needed in (True, False):
        assert open_stores(tmp_path, "labels", maps_needed=needed).cases == ("case_00", "case_02")


def test_another_preprocessing_is_named(tmp_path):
    make_stores(tmp_path, cases=1)
    edit(tmp_path / "labels.zarr", "zarr.json", lambda g: g["recipe"]["preprocessing"].update(clip=[1, 99]))
    with pytest.raises(StoreError, match=r"does not fit .*preprocessing\.clip: null, store has \[1, 99\]"):
        open_stores(tmp_path, "labels", maps_needed=True)


def test_another_class_table_is_named(tmp_path):
    make_stores(tmp_path, cases=1)
    edit(tmp_path / "labels.zarr", "zarr.json", lambda g: g["classes"].__setitem__(1, {"value": 1, "name": "liver"}))
    with pytest.raises(StoreError, match=r"0 background, 1 liver, 5 outer, but .* has 0 background, 2 inner"):
        open_stores(tmp_path, "labels", maps_needed=True)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ({"image_sha256": ["0" * 64]}, "image differs"),
        ({"label_sha256": "0" * 64}, "label differs"),
        ({"geometry_sha256": "0" * 64}, "geometry differs"),
    ],
)
def test_maps_of_other_data_are_refused_by_case(tmp_path, source, status):
    make_stores(tmp_path, cases=2)
    edit(tmp_path / "labels.zarr", "case_01/zarr.json", lambda g: g["source"].update(source))
    stores = open_fixture(tmp_path)
    require_fit(stores, ["case_00"])
    with pytest.raises(StoreError, match=rf"case_01: its maps were made from other data than .* \({status}\)"):
        require_fit(stores, stores.cases)
