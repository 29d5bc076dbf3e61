"""geols-store export --bids: what another program finds is the soft label and the label map, named as BIDS asks."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
from commands import error_line, precompute, store

from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.share.bids import _file_values, subject_names
from geols_precompute.store.reader import LabelStore, VolumeStore


@pytest.fixture
def made(nnunet, tmp_path):
    """The data of three cases and their label store."""
    root = nnunet(cases=3)
    assert precompute("--out", tmp_path / "o", root).exit_code == 0
    return root, LabelStore.open(tmp_path / "o/labels.zarr")


def exported(labels, out, *flags):
    result = store("export", labels.path, "--bids", *flags, "-o", out)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_case_is_there_as_nibabel_reads_it(made, tmp_path):
    root, labels = made
    out = tmp_path / "bids"
    assert "3 cases written, 0 failed" in exported(labels, out, "--alpha", "0.3")
    volumes = VolumeStore.open(labels.path.parent / "volumes.zarr")
    for case in labels.cases:
        name = "sub-" + case.replace("_", "")
        source = nibabel.load(root / f"labelsTr/{case}.nii.gz")
        dseg = nibabel.load(out / name / f"anat/{name}_dseg.nii.gz")
        probseg = nibabel.load(out / name / f"anat/{name}_probseg.nii.gz")
        np.testing.assert_array_equal(dseg.dataobj, source.dataobj)
        assert dseg.get_data_dtype() == np.uint8
        for image in (dseg, probseg):
            np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        soft_CZYX = labels.soft_label(case, volumes.label(case), alpha=0.3)
        np.testing.assert_array_equal(np.asarray(probseg.dataobj).T, soft_CZYX)
        np.testing.assert_allclose(np.asarray(probseg.dataobj).sum(axis=3), 1, atol=1e-6)
    assert json.loads((out / "probseg.json").read_text())["LabelMap"] == ["background", "organ1", "organ2"]
    with (out / "dseg.tsv").open() as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows == [["index", "name"], ["0", "background"], ["1", "organ1"], ["2", "organ2"]]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["License"] == "CC-BY 4.0"
    assert labels.digest in description["GeneratedBy"][0]["Description"]


def test_one_case_and_again(made, tmp_path):
    _, labels = made
    out = tmp_path / "bids"
    assert "1 case written" in exported(labels, out, "--case", "case_01")
    assert [path.name for path in sorted(out.glob("sub-*"))] == ["sub-case01"]
    before = (out / "sub-case01/anat/sub-case01_probseg.nii.gz").read_bytes()
    exported(labels, out)
    assert len(list(out.glob("sub-*"))) == 3
    assert (out / "sub-case01/anat/sub-case01_probseg.nii.gz").read_bytes() == before


def test_a_case_that_cannot_be_exported_is_named_and_the_others_are(made, tmp_path):
    _, labels = made
    shard = labels.path / "case_01/maps/c/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    result = store("export", labels.path, "--bids", "-o", tmp_path / "bids")
    assert result.exit_code == 1
    assert "failed: case_01: " in result.output
    assert "2 cases written, 1 failed" in result.output
    assert len(list((tmp_path / "bids").rglob("*_dseg.nii.gz"))) == 2
    assert not (tmp_path / "bids/sub-case01").exists()


def test_a_folder_of_others_is_left_alone(made, tmp_path):
    root, labels = made
    before = sorted(root.rglob("*"))
    for folder in (root, labels.path):
        result = store("export", labels.path, "--bids", "-o", folder)
        assert result.exit_code == 2
        error_line(result)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    result = store("export", labels.path, "--bids", "-o", tmp_path / "theirs")
    assert "holds something that was not written by geols" in error_line(result)
    (tmp_path / "file").write_text("mine")
    assert "is a file" in error_line(store("export", labels.path, "--bids", "-o", tmp_path / "file"))
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--bids", "--soft"), "--soft has no effect with --bids"),
        (("--bids", "--class", "organ1"), "--class has no effect with --bids"),
        ((), "name a case with --case, or export all with --bids"),
        (("--case", "case_00", "--alpha", "0.2"), "--alpha belongs to --soft or --bids"),
        (("--bids", "--case", "nothing"), "no case 'nothing'"),
    ],
)
def test_wrong_usage(made, tmp_path, flags, says):
    _, labels = made
    assert says in error_line(store("export", labels.path, *flags, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_names_are_those_that_bids_allows():
    names = subject_names(["sub-01", "sub-02_ses-a", "ct_001", "BraTS-GLI-00001-000"])
    assert list(names.values()) == ["sub-01", "sub-02_ses-a", "sub-ct001", "sub-BraTSGLI00001000"]
    with pytest.raises(InputError, match="ct_1 and ct-1 would both be sub-ct1"):
        subject_names(["ct_1", "ct-1"])
    with pytest.raises(InputError, match="a and sub-A would both be"):
        subject_names(["a", "sub-A"])


@pytest.mark.parametrize(("values", "ignore", "dtype"), [((1, 7), 9, np.uint8), ((1, 300), None, np.uint16)])
def test_label_maps_have_the_values_of_files(values, ignore, dtype):
    classes = ClassTable.from_names(dict(zip(values, "ab", strict=True)), ignore=ignore)
    label = np.array([[[0, 1, 2, 255]]], np.uint8)
    found = _file_values(label, classes)
    assert found.dtype == dtype
    assert found.tolist() == [[[0, *values, ignore or 0]]]
