"""geols-store export: what another program reads is the store's maps, or the soft label, where the image is."""

from __future__ import annotations

import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from commands import error_line, precompute, store
from datasets import ball_case, write

from geols_precompute import softlabel
from geols_precompute.store.reader import LabelStore, VolumeStore

DIRECTION = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
GEOMETRY = {"spacing": (0.8, 1.25, 3.0), "origin": (-11.0, 20.5, 7.0), "direction": DIRECTION}


@pytest.fixture
def made(nnunet, tmp_path):
    """Source data of one case, obliquely placed, and both its stores."""
    root = nnunet(cases=1)
    image, label = ball_case(0)
    write(image[0].astype(np.int16), root / "imagesTr/case_00_0000.nii.gz", **GEOMETRY)
    write(label, root / "labelsTr/case_00.nii.gz", **GEOMETRY)
    assert precompute("--out", tmp_path / "o", root).exit_code == 0
    return root, LabelStore.open(tmp_path / "o/labels.zarr"), VolumeStore.open(tmp_path / "o/volumes.zarr")


def exported(labels, out, *flags):
    result = store("export", labels.path, "--case", "case_00", *flags, "-o", out)
    assert result.exit_code == 0, result.output
    assert f"file    {out}" in result.output
    return sitk.ReadImage(str(out))


def assert_lies_on(image, path):
    """A volume has the place, spacing and direction of the file at `path`."""
    source = sitk.ReadImage(str(path))
    for read in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin):
        np.testing.assert_allclose(read(image)[:3], read(source), rtol=1e-6)
    n = image.GetDimension()
    turned = np.reshape(image.GetDirection(), (n, n))[:3, :3]
    np.testing.assert_allclose(turned, np.reshape(source.GetDirection(), (3, 3)), atol=1e-6)


def test_a_file_of_others_is_not_replaced(made, tmp_path):
    root, labels, _ = made
    image = root / "imagesTr/case_00_0000.nii.gz"
    before = image.read_bytes()
    flags = ("export", labels.path, "--case", "case_00", "-o")
    result = store(*flags, image)
    assert result.exit_code == 2
    assert f"{image}: is there, and was not written by geols" in error_line(result)
    assert image.read_bytes() == before
    (tmp_path / "half.nii.gz").write_bytes(before[:30])
    assert store(*flags, tmp_path / "half.nii.gz").exit_code == 2
    for name in ("maps.nii", "maps.nii.gz"):
        assert [store(*flags, tmp_path / name).exit_code for _ in range(2)] == [0, 0]
        assert nibabel.load(tmp_path / name).header["descrip"] == b"GeoLS"


def test_maps_of_all_classes(made, tmp_path):
    root, labels, _ = made
    image = exported(labels, tmp_path / "maps.nii.gz")
    assert_lies_on(image, root / "imagesTr/case_00_0000.nii.gz")
    maps = sitk.GetArrayFromImage(image)
    assert maps.shape[0] == 3
    np.testing.assert_array_equal(maps[1:], labels.maps("case_00").astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(maps[0], 1 - maps[1:].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("named", ["organ2", "2"])
def test_one_class_by_name_or_value_is_a_plain_volume(made, tmp_path, named):
    root, labels, _ = made
    image = exported(labels, tmp_path / "one.nii.gz", "--class", named)
    assert image.GetDimension() == 3
    assert_lies_on(image, root / "labelsTr/case_00.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), labels.maps("case_00")[1].astype(np.float32) / 255)
    # another reader, with axes and handedness of its own, agrees
    other = nibabel.load(tmp_path / "one.nii.gz")
    source = nibabel.load(root / "labelsTr/case_00.nii.gz")
    np.testing.assert_allclose(other.affine, source.affine, atol=1e-5)
    assert other.shape == source.shape


@pytest.mark.parametrize(("alpha", "normalize"), [(0.1, "sum"), (0.5, "none"), (0.0, "sum")])
def test_the_soft_label(made, tmp_path, alpha, normalize):
    root, labels, volumes = made
    image = exported(labels, tmp_path / "s.nii.gz", "--soft", "--alpha", alpha, "--normalize", normalize)
    assert_lies_on(image, root / "labelsTr/case_00.nii.gz")
    maps = softlabel.class_maps(labels.maps("case_00"), channels=(1, 2), present=(0, 1, 2), n_classes=3)
    wanted = softlabel.soft_label(volumes.label("case_00"), maps, alpha=alpha, normalize=normalize)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), wanted, atol=1e-6)
    if alpha == 0:
        source = sitk.GetArrayFromImage(sitk.ReadImage(str(root / "labelsTr/case_00.nii.gz")))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).argmax(axis=0), source)


def test_a_packed_store_and_volumes_elsewhere(made, tmp_path):
    _, labels, volumes = made
    packed = tmp_path / "p/labels.zarr.zip"
    packed.parent.mkdir()
    store("pack", labels.path, "-o", packed)
    line = error_line(store("export", packed, "--case", "case_00", "--soft", "-o", tmp_path / "s.nii.gz"))
    assert f"no {tmp_path / 'p/volumes.zarr'}" in line
    assert "--volumes" in line
    for flags in ((), ("--soft", "--volumes", volumes.path)):
        image = exported(LabelStore.open(packed), tmp_path / "x.nii.gz", *flags)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(image),
            sitk.GetArrayFromImage(exported(labels, tmp_path / "y.nii.gz", *flags)),
        )


def test_volumes_of_other_data_are_refused(made, nnunet, tmp_path):
    _, labels, _ = made
    precompute("--out", tmp_path / "other", nnunet("second", cases=1))
    flags = ("--case", "case_00", "--soft", "--volumes", tmp_path / "other/volumes.zarr", "-o", tmp_path / "s.nii.gz")
    line = error_line(store("export", labels.path, *flags))
    assert "its maps were made from other data than" in line
    assert not (tmp_path / "s.nii.gz").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--case", "nobody"), r"no case 'nobody'"),
        (("--case", "case_00", "--class", "liver"), r"no class 'liver'; there are 0 background, 1 organ1, 2 organ2"),
        (("--case", "case_00", "--soft", "--alpha", "2"), "--alpha must be a number from 0 to 1, got 2.0"),
    ],
)
def test_what_is_not_there(made, tmp_path, flags, says):
    _, labels, _ = made
    result = store("export", labels.path, *flags, "-o", tmp_path / "s.nii.gz")
    assert result.exit_code == 2
    assert re.search(says, result.output)
    assert not (tmp_path / "s.nii.gz").exists()


@pytest.mark.parametrize("name", ["maps.txt", "maps", "data/dataset.json/maps.nii.gz"])
def test_an_output_that_cannot_be_written(made, tmp_path, name):
    _, labels, _ = made
    result = store("export", labels.path, "--case", "case_00", "-o", f"{tmp_path}/{name}")
    assert result.exit_code == 2
    assert "unexpected" not in result.output
