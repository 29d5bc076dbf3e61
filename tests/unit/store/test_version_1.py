"""Stores that were published as version 1: they must be read for ever. The archive was written by release 0.1.0.

It holds two cases of two modalities, classes 1 and 7, ignored voxels, regions and a crop. The numbers below were read
from it with zarr-python.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from geols_precompute import LabelStore, VolumeStore
from geols_precompute.errors import StoreError
from geols_precompute.run.reuse import Reuse
from geols_precompute.share.copy import copy_cases, filling
from geols_precompute.share.merge import merge
from geols_precompute.share.pack import pack
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.verify import verify_case
from geols_precompute.store.writer import commit_case, create_store, write_manifest

ARCHIVE = Path(__file__).parents[2] / "data" / "stores-version-1.zip"
LABELS = "4296e014988be1d6c1468b75f54df13106838809afe367caf5fd3714115f5ad6"
VOLUMES = "05770ad3654f868f9708a828cd39bd47a4705405e49c975a47969497c70feee7"


@pytest.fixture
def folder(tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


def test_the_digests_are_those_that_were_published(folder):
    assert LabelStore.open(folder / "labels.zarr").digest == LABELS
    assert VolumeStore.open(folder / "volumes.zarr").digest == VOLUMES


def test_every_byte_is_as_its_digests_say(folder):
    for store in (LabelStore.open(folder / "labels.zarr"), VolumeStore.open(folder / "volumes.zarr")):
        assert [verify_case(store, case) for case in store] == [None, None]


def test_metadata(folder):
    labels, volumes = LabelStore.open(folder / "labels.zarr"), VolumeStore.open(folder / "volumes.zarr")
    assert str(labels.classes) == str(volumes.classes) == "0 background, 1 liver, 7 kidney"
    assert labels.classes.ignore == volumes.classes.ignore == 9
    assert volumes.modalities == ("t1", "t2")
    assert volumes.hints.regions == {"organs": (1, 7)}
    assert volumes.hints.crop == (8, 8, 64)
    assert volumes.hints.skull_stripped
    assert labels.present("case_0") == (0, 1, 2)
    assert labels.metadata("case_0").geometry.spacing == (1.0, 1.5, 2.0)
    assert labels.metadata("case_0").geometry.origin == (3.0, -4.0, 5.5)


def test_arrays_equal_what_zarr_reads(folder):
    labels, volumes = LabelStore.open(folder / "labels.zarr"), VolumeStore.open(folder / "volumes.zarr")
    for case in labels:
        np.testing.assert_array_equal(labels.maps(case), zarr.open(folder / f"labels.zarr/{case}/maps", mode="r")[:])
        np.testing.assert_array_equal(
            volumes.image(case), zarr.open(folder / f"volumes.zarr/{case}/image", mode="r")[:]
        )
        np.testing.assert_array_equal(
            volumes.label(case), zarr.open(folder / f"volumes.zarr/{case}/label", mode="r")[:]
        )


def test_numbers(folder):
    labels, volumes = LabelStore.open(folder / "labels.zarr"), VolumeStore.open(folder / "volumes.zarr")
    maps = labels.maps("case_0")
    assert maps.shape == (2, 9, 10, 70)
    assert int(maps.sum()) == 902265
    assert maps[0, 4, 5, 30:34].tolist() == [103, 101, 107, 101]
    label = volumes.label("case_0")
    assert np.unique(label, return_counts=True)[1].tolist() == [6234, 29, 34, 3]
    stored = volumes.image("case_0").astype(int)
    assert stored.sum(axis=(1, 2, 3)).tolist() == [9691, -121002079]
    expected = stored * np.array([1.0, 0.0019082932993559321])[:, None, None, None]
    expected += np.array([0.0, 37.370954985883074])[:, None, None, None]
    np.testing.assert_allclose(volumes.intensities("case_0"), expected, rtol=1e-6, atol=1e-5)


def test_packing_it_keeps_the_digest(folder, tmp_path):
    store = LabelStore.open(folder / "labels.zarr")
    assert pack(store, tmp_path / "packed.zarr.zip", {}, lambda case, error: None) == LABELS
    assert LabelStore.open(tmp_path / "packed.zarr.zip").digest == LABELS


def test_a_part_of_it_is_pulled_as_version_1(folder, tmp_path):
    store = LabelStore.open(folder / "labels.zarr")
    with filling(tmp_path / "part.zarr", store.root_content) as check:
        copy_cases(store, tmp_path / "part.zarr", ["case_0"], lambda case, error: None, check=check)
    write_manifest(tmp_path / "part.zarr")
    part = LabelStore.open(tmp_path / "part.zarr")
    assert (part.cases, part.root.version) == (("case_0",), 1)
    assert part.manifest.cases["case_0"] == store.manifest.cases["case_0"]
    assert verify_case(part, "case_0") is None


def renewed(store: LabelStore, path: Path) -> LabelStore:
    """The store as version 2: its maps taken as a run with --reuse takes them."""
    create_store(path, root_metadata(store.format, store.recipe, store.classes, {}))
    reuse = Reuse(path=store.path, digest=store.digest, by_name=False)
    for case in store:
        metadata = store.metadata(case)
        assert reuse.take(case, metadata.geols["source"], metadata.geometry, path, check=lambda: None, readers=0o444)
    write_manifest(path)
    return LabelStore.open(path)


def test_its_maps_are_taken_into_a_store_of_version_2(folder, tmp_path):
    old = LabelStore.open(folder / "labels.zarr")
    new = renewed(old, tmp_path / "new.zarr")
    assert new.root.version == 2
    for case in old:
        np.testing.assert_array_equal(new.maps(case), old.maps(case))
        np.testing.assert_array_equal(zarr.open(new.path / case / "maps", mode="r")[:], old.maps(case))
        assert new.metadata(case).geols["maps_sha256"] == old.metadata(case).geols["maps_sha256"]
        assert verify_case(new, case) is None


def test_it_is_never_filled_or_united_with_version_2(folder, tmp_path):
    old = LabelStore.open(folder / "labels.zarr")
    before = sorted((p, p.read_bytes()) for p in folder.rglob("*") if p.is_file())
    metadata = root_metadata(old.format, old.recipe, old.classes, {})
    with pytest.raises(StoreError, match=r"version 1 .* another --out, where --reuse .* takes maps"):
        create_store(old.path, metadata)
    with pytest.raises(StoreError, match="version 1"):
        commit_case(old.path, "case_2", {"maps": old.maps("case_0")}, old.metadata("case_0").geometry, {})
    new = renewed(old, tmp_path / "new.zarr")
    with pytest.raises(StoreError, match="version"):
        merge([old, new], tmp_path / "both.zarr", lambda case, error: None)
    assert sorted((p, p.read_bytes()) for p in folder.rglob("*") if p.is_file()) == before


def test_a_manifest_of_another_version_than_the_root_is_refused(folder):
    path = folder / "labels.zarr/manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    assert json.loads(path.read_bytes())["version"] == 2
    with pytest.raises(StoreError, match=r"version of manifest\.json and zarr\.json differ"):
        LabelStore.open(folder / "labels.zarr")
