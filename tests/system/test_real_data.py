"""Real volumes, by the commands that a user would type."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from commands import precompute
from stores import alter_voxel

from geols_precompute.cli import store as store_cli
from geols_precompute.store.reader import LabelStore, VolumeStore

BRATS_2013 = """
modalities = ["flair", "t1ce"]
skull_stripped = true
[classes]
1 = "necrosis"
2 = "oedema"
3 = "nonenhancing"
4 = "enhancing"
"""


def assert_sound(out, cases):
    """The stores verify, every present class has a map up to 1, and soft labels sum to 1."""
    for name in ("labels", "volumes"):
        result = CliRunner().invoke(store_cli.store, ["verify", str(out / f"{name}.zarr")])
        assert result.exit_code == 0, result.output
    labels, volumes = LabelStore.open(out / "labels.zarr"), VolumeStore.open(out / "volumes.zarr")
    assert len(labels.cases) == cases
    for case in labels.cases[:3]:
        stored, label = labels.maps(case), volumes.label(case)
        present = labels.present(case)
        assert sorted(np.unique(label)) == list(present)
        for index in present[1:]:
            assert stored[labels.channels.index(index)].max() >= 250
        soft = labels.soft_label(case, label)
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-6)
        np.testing.assert_array_equal(soft.argmax(axis=0), label)


def test_all_of_hippocampus(real_data, tmp_path):
    folder = real_data("hippocampus")
    result = precompute("--seeds", "skeleton", "--out", tmp_path, folder)
    assert result.exit_code == 0, result.output
    assert "200 cases computed, 0 unchanged, 0 failed" in result.output
    assert_sound(tmp_path, 200)
    compared = CliRunner().invoke(store_cli.store, ["verify", str(tmp_path / "labels.zarr"), "--data", str(folder)])
    assert "200 same" in compared.output


@pytest.mark.slow
def test_hippocampus_ends_with_one_digest_whatever_the_workers(real_data, tmp_path):
    digests = set()
    for workers in (0, 1, 2, 2):
        out = tmp_path / f"{workers}-{len(list(tmp_path.iterdir()))}"
        command = [sys.executable, "-m", "geols_precompute", "--workers", str(workers), "--out", str(out)]
        done = subprocess.run([*command, real_data("hippocampus")], capture_output=True, text=True, check=True)
        digests.add(re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1])
    assert len(digests) == 1


@pytest.mark.parametrize("folder", ["flare", "flare/ct_001"])
def test_flare(real_data, tmp_path, folder):
    classes = "1=liver,2=kidney,3=spleen,4=pancreas"
    result = precompute("--classes", classes, "--out", tmp_path, real_data(folder))
    assert result.exit_code == 0, result.output
    assert_sound(tmp_path, 1)


def reproduce(out, folder, *flags):
    return CliRunner().invoke(store_cli.store, ["reproduce", str(out / "labels.zarr"), "--data", str(folder), *flags])


def test_hippocampus_is_reproduced_and_one_altered_voxel_of_it_is_not(real_data, tmp_path):
    data = tmp_path / "data"
    names = ("hippocampus_001", "hippocampus_003", "hippocampus_004")
    for name in names:
        for file in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz"):
            (data / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(real_data("hippocampus") / file, data / file)
    shutil.copy(real_data("hippocampus") / "dataset.json", data)
    assert precompute("--out", tmp_path / "o", data).exit_code == 0
    result = reproduce(tmp_path / "o", data)
    assert result.exit_code == 0, result.output
    assert "3 cases computed, equal in every byte" in result.output
    file = data / "imagesTr/hippocampus_003_0000.nii.gz"
    image = sitk.ReadImage(str(file))
    image[10, 20, 15] += 1
    sitk.WriteImage(image, str(file))
    result = reproduce(tmp_path / "o", data)
    assert result.exit_code == 1
    assert "is not what hippocampus_003 was made from (image differs)" in result.output
    assert "1 of 3 cases not reproduced" in result.output


@pytest.mark.parametrize("flags", [("--recipe", "flare2021"), ("--classes", "1=liver,2=kidney,3=spleen,4=pancreas")])
def test_a_ct_is_reproduced_with_its_preprocessing_and_one_altered_voxel_of_the_store_is_not(
    real_data, tmp_path, flags
):
    assert precompute(*flags, "--out", tmp_path, real_data("flare")).exit_code == 0
    result = reproduce(tmp_path, real_data("flare"))
    assert result.exit_code == 0, result.output
    assert "1 case computed, equal in every byte" in result.output
    after, before = alter_voxel(tmp_path / "labels.zarr", "ct_001", (2, 10, 50, 60))[::-1]
    result = reproduce(tmp_path, real_data("flare"))
    assert result.exit_code == 1
    assert "1 voxel of " in result.output
    assert f"in the map of spleen at z 10, y 50, x 60: {after} in the store, {before} computed" in result.output


def test_flare_resampled_and_clipped_by_its_recipe(real_data, tmp_path):
    result = precompute("--recipe", "flare2021", "--out", tmp_path, real_data("flare"))
    assert result.exit_code == 0, result.output
    geometry = VolumeStore.open(tmp_path / "volumes.zarr").metadata("ct_001").geometry
    assert geometry.spacing_zyx == (2.5, 2.0, 2.0)
    assert geometry.shape_zyx == (36, 152, 183)
    assert_sound(tmp_path, 1)


def test_brats_2023(real_data, tmp_path):
    folder = real_data("brats/BraTS-GLI-00001-000")
    result = precompute("--recipe", "brats2023", "--out", tmp_path / "a", folder)
    assert result.exit_code == 0, result.output
    assert_sound(tmp_path / "a", 1)
    refused = precompute("--recipe", "brats2019", "--out", tmp_path / "b", folder)
    assert refused.exit_code == 1
    assert "label values without a class: 3 (23327 voxels); named are 0, 1, 2, 4" in refused.output


def test_brats_2013_with_two_modalities_and_its_own_recipe(real_data, tmp_path):
    folder = real_data("brats/brats_2013_pat0001_1")
    (tmp_path / "brats2013.toml").write_text(BRATS_2013)
    result = precompute("--recipe", tmp_path / "brats2013.toml", "--out", tmp_path / "a", folder)
    assert result.exit_code == 0, result.output
    assert_sound(tmp_path / "a", 1)
    refused = precompute("--recipe", "brats2019", "--out", tmp_path / "b", folder)
    assert refused.exit_code == 1
    assert "no modality t1, t2; it has flair, t1ce; --channels flair,t1ce takes what it has" in refused.output
