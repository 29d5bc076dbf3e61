"""geols-store reproduce: a store is computed again from the data, and one altered voxel on either side is found."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from commands import digest, error_line, precompute, store
from stores import alter_voxel, contents, reseal

from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.run import finalize
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import write_manifest


@pytest.fixture
def made(nnunet, tmp_path):
    """The data of four cases, and their label store."""
    root = nnunet(cases=4, modalities=2)
    assert precompute("--out", tmp_path / "o", root).exit_code == 0
    return root, tmp_path / "o/labels.zarr"


def reproduce(path, root, *flags):
    return store("reproduce", path, "--data", root, *flags)


def test_every_byte_is_reproduced_and_the_certificate_says_of_what(made):
    root, path = made
    before = contents(path)
    result = reproduce(path, root, "--cases", "4", "--random-seed", "7")
    assert result.exit_code == 0, result.output
    opened = LabelStore.open(path)
    for line in (
        f"digest    {opened.digest}",
        f"recipe    {opened.manifest.recipe_id}",
        "cases     4 of 4, drawn with --random-seed 7",
        "equal     case_02",
        "result    4 cases computed, equal in every byte",
        "machine   this machine reproduces the maps of this recipe",
    ):
        assert line in result.output
    assert f"numpy {np.__version__}" in result.output
    assert re.search(r"^processor \S", result.output, re.MULTILINE)
    assert contents(path) == before


def test_the_same_seed_draws_the_same_cases_and_no_seed_is_said(made):
    root, path = made
    drawn = [
        re.findall("equal     (.*)", reproduce(path, root, "--cases", 2, "--random-seed", s).output) for s in "113"
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2
    said = reproduce(path, root, "--cases", 1).output
    (seed,) = re.findall(r"--random-seed (\d+)", said)
    again = reproduce(path, root, "--cases", 1, "--random-seed", seed).output
    assert re.findall("equal     (.*)", again) == re.findall("equal     (.*)", said)


def test_one_altered_voxel_of_an_image_is_found(made):
    root, path = made
    file = root / "imagesTr/case_01_0001.nii.gz"
    image = sitk.ReadImage(str(file))
    image[3, 4, 5] += 1
    sitk.WriteImage(image, str(file))
    result = reproduce(path, root, "--cases", "4")
    assert result.exit_code == 1
    assert "differs   " in result.output
    assert "is not what case_01 was made from (image differs)" in result.output
    assert result.output.count("equal     ") == 3
    assert "result    1 of 4 cases not reproduced" in result.output


def test_one_altered_voxel_of_the_store_is_found(made):
    root, path = made
    before, after = alter_voxel(path, "case_02", (1, 3, 5, 7))
    assert store("verify", path, "--data", root).exit_code == 0  # every digest fits
    result = reproduce(path, root, "--cases", "4")
    assert result.exit_code == 1
    assert (
        "differs   case_02/maps/c/0/0/0/0: 1 voxel of 5376 differs, the first in the map of organ2 at z 3, y 5, x 7: "
        f"{after} in the store, {before} computed" in result.output
    )


def test_damage_is_found(made):
    root, path = made
    shard = path / "case_02/maps/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    result = reproduce(path, root, "--cases", "4")
    assert result.exit_code == 1
    assert "differs from its digest" in result.output


@pytest.mark.parametrize("key", ["stats", "seeds"])
def test_altered_metadata_are_found(made, key):
    root, path = made
    metadata = path / "case_00/zarr.json"
    document = json.loads(metadata.read_text())
    entry = document["attributes"]["geols"][key]["1"]
    entry["mean_distance" if key == "stats" else "count"] += 1
    metadata.write_bytes(canonical_json(document))
    reseal(LabelStore.open(path))
    result = reproduce(path, root, "--cases", "4")
    assert result.exit_code == 1
    assert f"differs   case_00/zarr.json: {key}\n" in result.output


def test_other_bytes_for_the_same_maps_are_found(made):
    root, path = made
    metadata = path / "case_00/zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()), indent=1))
    write_manifest(path)
    result = reproduce(path, root, "--cases", "4")
    assert result.exit_code == 1
    assert "differs   case_00/zarr.json: other bytes for the same maps" in result.output


def test_renamed_cases_are_found_by_their_data_and_random_seeds_by_their_old_name(nnunet, tmp_path):
    root = nnunet(cases=3)
    assert precompute("--seeds", "random-3", "--out", tmp_path / "o", root).exit_code == 0
    store("pack", "--rename", tmp_path / "o/labels.zarr", "-o", tmp_path / "public.zarr.zip")
    result = reproduce(tmp_path / "public.zarr.zip", root)
    assert result.exit_code == 0, result.output
    (root / "labelsTr/case_00.nii.gz").unlink()
    result = reproduce(tmp_path / "public.zarr.zip", root)
    assert result.exit_code == 1
    assert result.output.count("has no case that ") == 1


def test_what_cannot_be_tried_is_one_line(made, tmp_path):
    root, path = made
    (tmp_path / "empty").mkdir()
    assert "empty" in error_line(reproduce(path, tmp_path / "empty"))
    assert "no such store" in error_line(reproduce(tmp_path / "nothing.zarr", root))
    metadata = path / "zarr.json"
    document = json.loads(metadata.read_text())
    recipe = document["attributes"]["geols"]["recipe"]
    recipe["maps"]["engine"]["version"] = 99
    document["attributes"]["geols"]["recipe_id"] = sha256_hex(canonical_json(recipe))
    metadata.write_bytes(canonical_json(document))
    write_manifest(path)
    result = reproduce(path, root)
    assert result.exit_code == 2
    assert "this release computes other maps (engine.version: 1, store has 99)" in error_line(result)
    assert "machine not known: this release computes other maps" in store("verify", path).output


# --- the check case -----------------------------------------------------------------------------------------------


def check_of(path):
    return LabelStore.open(path).geols.get("check_sha256")


def without_check(path):
    """Make of a store one that an older release has written."""
    metadata = path / "zarr.json"
    document = json.loads(metadata.read_text())
    del document["attributes"]["geols"]["check_sha256"]
    metadata.write_bytes(canonical_json(document))
    write_manifest(path)


def test_verify_says_whether_this_machine_reproduces_the_recipe(made, monkeypatch):
    _, path = made
    assert "machine this machine reproduces the maps of this recipe" in store("verify", path).output
    monkeypatch.setattr("geols_precompute.maps.check._SPACING", (2.5, 1.25, 0.751))
    result = store("verify", path)
    assert "machine this machine does not reproduce the maps of this recipe: the check case has" in result.output
    assert result.exit_code == 0
    assert "machine" not in store("verify", path.parent / "volumes.zarr").output


def test_a_run_again_keeps_the_digest_and_adds_the_check_to_an_older_store(made, tmp_path):
    root, path = made
    whole = LabelStore.open(path).digest
    assert digest(precompute("--out", path.parent, root)) == whole
    without_check(path)
    assert check_of(path) is None
    assert "machine not known" in store("verify", path).output
    assert digest(precompute("--out", path.parent, root)) == whole


def test_parts_have_the_check_once_they_are_finished(nnunet, tmp_path):
    root = nnunet(cases=3)
    assert precompute("--out", tmp_path / "whole", root).exit_code == 0
    for part in ("1/2", "2/2"):
        assert precompute("--part", part, "--out", tmp_path / "parts", root).exit_code == 0
    assert store("finalize", tmp_path / "parts").exit_code == 0
    one, other = (LabelStore.open(tmp_path / name / "labels.zarr") for name in ("whole", "parts"))
    assert one.digest == other.digest
    assert check_of(other.path) == check_of(one.path)


def test_another_recipe_in_an_empty_store_has_a_check_of_its_own(made):
    root, path = made
    first = check_of(path)
    for case in LabelStore.open(path).cases:
        shutil.rmtree(path / case)
    assert precompute("--seeds", "erosion", "--out", path.parent, root).exit_code == 0
    assert check_of(path) != first


def test_a_store_is_finished_where_its_maps_cannot_be_computed(made, monkeypatch):
    _, path = made
    without_check(path)

    def missing(*_):
        raise ModuleNotFoundError("no numba", name="numba")

    monkeypatch.setattr("geols_precompute.maps.check.check_sha256", missing)
    finalize.check_machine(path)
    assert check_of(path) is None


def test_merge_keeps_the_check_and_refuses_two(made, tmp_path):
    _, path = made
    other = tmp_path / "other.zarr"
    shutil.copytree(path, other)
    without_check(other)
    assert store("merge", other, path, "-o", tmp_path / "m.zarr").exit_code == 0
    assert check_of(tmp_path / "m.zarr") == check_of(path)
    metadata = other / "zarr.json"
    document = json.loads(metadata.read_text())
    document["attributes"]["geols"]["check_sha256"] = "0" * 64
    metadata.write_bytes(canonical_json(document))
    write_manifest(other)
    result = store("merge", path, other, "-o", tmp_path / "n.zarr")
    assert "machines that do not give the same maps" in error_line(result)
    document["attributes"]["geols"]["check_sha256"] = "none"
    metadata.write_bytes(canonical_json(document))
    assert "check_sha256 or licence malformed" in error_line(store("finalize", other))
