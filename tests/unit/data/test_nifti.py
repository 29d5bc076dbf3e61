"""Volumes for other programs: whole or not there, and the same bytes whenever they are written."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from geols_precompute.data.formats import nifti
from geols_precompute.data.geometry import Geometry
from geols_precompute.errors import InputError, OutputError

GEOMETRY = Geometry(
    size=(4, 3, 2),
    spacing=(0.5, 1.0, 3.0),
    origin=(-1.0, 2.0, 5.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)
VOXELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("array", [VOXELS, np.stack([VOXELS, -VOXELS])])
def test_what_is_written_is_read(tmp_path, array):
    nifti.write_image(array, GEOMETRY, tmp_path / "new/a.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "new/a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    assert image.GetSpacing()[:3] == GEOMETRY.spacing
    assert image.GetOrigin()[:3] == GEOMETRY.origin
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nii.gz"]


def test_a_compressed_file_holds_neither_its_name_nor_a_time(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "a.nii"):
        nifti.write_image(VOXELS, GEOMETRY, tmp_path / name)
    packed = (tmp_path / "a.nii.gz").read_bytes()
    assert packed == (tmp_path / "b.nii.gz").read_bytes()
    assert packed[3:8] == bytes(5)
    assert gzip.decompress(packed) == (tmp_path / "a.nii").read_bytes()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_a_disk_that_is_full_leaves_the_file_of_before(tmp_path, monkeypatch, name):
    def write_a_part(image, path):
        Path(path).write_bytes(bytes(90))

    (tmp_path / name).write_text("before")
    monkeypatch.setattr(nifti.sitk, "WriteImage", write_a_part)
    with pytest.raises(OutputError, match=rf"{name}: cannot be written \(.*No space left on device\); name another"):
        nifti.write_image(VOXELS, GEOMETRY, tmp_path / name)
    assert (tmp_path / name).read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_or_a_folder_that_will_not_do(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.nii\.gz or \.nii"):
        nifti.write_image(VOXELS, GEOMETRY, tmp_path / "a.mha")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        nifti.write_image(VOXELS, GEOMETRY, tmp_path / "file/a.nii")
