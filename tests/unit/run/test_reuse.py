"""--reuse: maps that another lab computed are taken for the same data and recipe, and for nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import digest, error_line, precompute, store
from datasets import ball_case, write

from geols_precompute.run import task
from geols_precompute.store.reader import LabelStore, VolumeStore


@pytest.fixture
def computed(monkeypatch):
    """The ids of the cases whose maps are computed from here on."""
    ids, compute = [], task.MapStream

    def counted(*args, case, **rest):
        ids.append(case)
        return compute(*args, case=case, **rest)

    monkeypatch.setattr(task, "MapStream", counted)
    return ids


@pytest.fixture
def lab_a(nnunet, tmp_path):
    """The data of four cases, and the output folder of the lab that computed their maps."""
    root = nnunet(cases=4)
    assert precompute("--out", tmp_path / "a", root).exit_code == 0
    return root, tmp_path / "a"


def same_maps(store, case, other, other_case):
    np.testing.assert_array_equal(store.maps(case), other.maps(other_case))
    assert store.metadata(case).geols == other.metadata(other_case).geols


def test_a_full_match_computes_nothing_and_ends_with_the_same_digest(lab_a, tmp_path, computed):
    root, a = lab_a
    reference = LabelStore.open(a / "labels.zarr").digest
    result = precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert result.exit_code == 0, result.output
    assert f"0 cases computed, 4 taken from {a / 'labels.zarr'}, 0 unchanged, 0 failed" in result.output
    assert computed == []
    assert digest(result) == reference
    for name in ("labels.zarr", "volumes.zarr"):
        assert "0 findings" in store("verify", "--data", root, tmp_path / "b" / name).output
    volumes = VolumeStore.open(tmp_path / "b/volumes.zarr")
    assert volumes.digest == VolumeStore.open(a / "volumes.zarr").digest
    again = precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert "0 cases computed, 0 taken from" in again.output
    assert "4 unchanged" in again.output


def test_cases_are_found_by_their_data_whatever_they_are_called(lab_a, tmp_path, computed):
    root, a = lab_a
    packed = tmp_path / "public.zarr.zip"
    assert store("pack", "--rename", a / "labels.zarr", "-o", packed).exit_code == 0
    assert "case_00" not in LabelStore.open(packed).cases
    result = precompute("--reuse", packed, "--out", tmp_path / "b", root)
    assert "4 taken from" in result.output
    assert computed == []
    assert digest(result) == LabelStore.open(a / "labels.zarr").digest


def test_two_cases_that_swapped_their_names_get_their_own_maps(lab_a, tmp_path, computed):
    root, a = lab_a
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        one, two, aside = (root / folder / f"{c}{suffix}.nii.gz" for c in ("case_01", "case_02", "aside"))
        one.rename(aside)
        two.rename(one)
        aside.rename(two)
    precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert computed == []
    mine, theirs = LabelStore.open(tmp_path / "b/labels.zarr"), LabelStore.open(a / "labels.zarr")
    same_maps(mine, "case_01", theirs, "case_02")
    same_maps(mine, "case_02", theirs, "case_01")
    assert not np.array_equal(mine.maps("case_01"), mine.maps("case_02"))


def test_what_does_not_match_is_computed(lab_a, tmp_path, computed):
    root, a = lab_a
    image, _ = ball_case(77)
    write(image[0].astype(np.int16), root / "imagesTr/case_01_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    _, label = ball_case(3)
    label[0, 0, 0] = 1
    write(label, root / "labelsTr/case_03.nii.gz", spacing=(1.0, 1.5, 2.0))
    image, label = ball_case(9)
    write(image[0].astype(np.int16), root / "imagesTr/new_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    write(label, root / "labelsTr/new.nii.gz", spacing=(1.0, 1.5, 2.0))
    result = precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert "3 cases computed, 2 taken from" in result.output
    assert sorted(computed) == ["case_01", "case_03", "new"]
    undisturbed = precompute("--out", tmp_path / "c", root)
    assert digest(result) == digest(undisturbed)


def test_another_spacing_of_the_same_voxels_is_other_data(lab_a, tmp_path, computed):
    root, a = lab_a
    image, label = ball_case(0)
    write(image[0].astype(np.int16), root / "imagesTr/case_00_0000.nii.gz", spacing=(1.0, 1.5, 2.5))
    write(label, root / "labelsTr/case_00.nii.gz", spacing=(1.0, 1.5, 2.5))
    assert "3 taken" in precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root).output
    assert computed == ["case_00"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--seeds", "boundary"], "maps.seeds"),
        (["--lam", "0.5"], "maps.lam"),
        (["--iterations", "exact"], "maps.iterations"),
        (["--clip", "1", "99"], "preprocessing.clip"),
    ],
)
def test_another_recipe_is_refused_and_the_difference_named(lab_a, tmp_path, flags, named):
    root, a = lab_a
    result = precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", *flags, root)
    assert result.exit_code == 2
    line = error_line(result)
    assert f"--reuse {a / 'labels.zarr'}: its maps were made with other parameters ({named}" in line
    assert not (tmp_path / "b").exists()


def test_other_classes_are_refused_but_other_names_of_them_are_not(lab_a, tmp_path, computed):
    root, a = lab_a
    described = json.loads((root / "dataset.json").read_text())
    described["labels"] = {"background": 0, "organ1": 1, "organ2": 2, "organ3": 3}
    (root / "dataset.json").write_text(json.dumps(described))
    line = error_line(precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root))
    assert "class values" in line
    described["labels"] = {"background": 0, "liver": 1, "spleen": 2}
    (root / "dataset.json").write_text(json.dumps(described))
    assert "4 taken" in precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root).output
    assert computed == []
    assert [label.name for label in LabelStore.open(tmp_path / "b/labels.zarr").classes][1:] == ["liver", "spleen"]


def test_random_seeds_depend_on_the_name_so_maps_are_taken_under_that_name_only(nnunet, tmp_path, computed):
    root = nnunet(cases=2)
    precompute("--seeds", "random-5", "--out", tmp_path / "a", root)
    for path in root.rglob("case_01*"):
        path.rename(path.with_name(path.name.replace("case_01", "other")))
    computed.clear()
    result = precompute("--seeds", "random-5", "--reuse", tmp_path / "a/labels.zarr", "--out", tmp_path / "b", root)
    assert computed == ["other"]
    assert "1 taken from" in result.output
    assert digest(result) == digest(precompute("--seeds", "random-5", "--out", tmp_path / "c", root))


@pytest.mark.parametrize("file", ["maps/c/0/0/0/0", "maps/zarr.json", "zarr.json"])
def test_a_damaged_case_is_computed_instead_and_the_note_says_why(lab_a, tmp_path, computed, file):
    root, a = lab_a
    reference = LabelStore.open(a / "labels.zarr").digest
    path = a / "labels.zarr/case_02" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = precompute("--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert result.exit_code == 0
    assert computed == ["case_02"]
    assert f"note: case_02: its maps could not be taken and were computed: {path}: " in result.output
    assert digest(result) == reference


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_take_maps_too(lab_a, tmp_path, workers):
    root, a = lab_a
    result = precompute("--workers", workers, "--reuse", a / "labels.zarr", "--out", tmp_path / "b", root)
    assert "0 cases computed, 4 taken from" in result.output
    assert digest(result) == LabelStore.open(a / "labels.zarr").digest


def test_a_store_to_reuse_that_is_none(lab_a, tmp_path):
    root, a = lab_a
    assert "volumes.zarr" in error_line(precompute("--reuse", a / "volumes.zarr", "--out", tmp_path / "b", root))
    assert "nothing.zarr" in error_line(precompute("--reuse", a / "nothing.zarr", "--out", tmp_path / "b", root))


def test_verify_data_recognises_renamed_cases(lab_a, tmp_path):
    root, a = lab_a
    packed, public = tmp_path / "public.zarr.zip", tmp_path / "public.zarr"
    store("pack", "--rename", a / "labels.zarr", "-o", packed)
    store("unpack", packed, "-o", public)
    for path in (packed, public):
        result = store("verify", "--data", root, path)
        assert result.exit_code == 0, result.output
        assert "4 same (4 cases under other names in the store)" in result.output
    image, _ = ball_case(77)
    write(image[0].astype(np.int16), root / "imagesTr/case_01_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    result = store("verify", "--data", root, packed)
    assert result.exit_code == 1
    assert "extra: case_01" in result.output
    assert "1 extra, 1 missing, 3 same" in result.output
