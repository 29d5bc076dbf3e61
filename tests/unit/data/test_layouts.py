from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import write

from geols_precompute.data.layouts import discover
from geols_precompute.errors import InputError

VOXELS = np.ones((2, 2, 2), np.uint8)


def touch(root, *names):
    for name in names:
        write(VOXELS, root / name)
    return root


def ids(dataset):
    return [case.id for case in dataset.cases]


def reasons(dataset):
    return {problem.case_id: problem.reason for problem in dataset.problems}


def describe(root, **document):
    root.mkdir(parents=True, exist_ok=True)
    base = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(base | document))
    return root


def test_nnunet(nnunet):
    data = discover(nnunet(cases=3, modalities=2))
    assert (data.layout, data.modalities, ids(data)) == ("nnU-Net", ("m0", "m1"), ["case_00", "case_01", "case_02"])
    assert data.classes == {0: "background", 1: "organ1", 2: "organ2"}
    assert [path.name for path in data.cases[1].images] == ["case_01_0000.nii.gz", "case_01_0001.nii.gz"]
    assert data.licence == "CC-BY 4.0"
    assert not data.problems


def test_nnunet_channels_beyond_nine_keep_their_order(tmp_path):
    root = describe(tmp_path, channel_names={str(c): f"c{c}" for c in range(12)})
    touch(root, "labelsTr/a.nii.gz", *(f"imagesTr/a_{c:04d}.nii.gz" for c in range(12)))
    assert discover(root).modalities == tuple(f"c{c}" for c in range(12))


def test_nnunet_ignore_label_and_other_endings(tmp_path):
    root = describe(tmp_path, labels={"background": 0, "x": 1, "ignore": 2}, file_ending=".nrrd")
    touch(root, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
    data = discover(root)
    assert (data.ignore, data.classes, ids(data)) == (2, {0: "background", 1: "x"}, ["a"])


def test_nnunet_explicit_file_list(tmp_path):
    root = touch(tmp_path, "far/i.nii.gz", "far/l.nii.gz")
    describe(root, dataset={"a": {"images": ["far/i.nii.gz"], "label": "far/l.nii.gz"}})
    assert ids(discover(root)) == ["a"]


def test_nnunet_missing_image_channel_or_label_costs_that_case_only(nnunet):
    root = nnunet(cases=4, modalities=2)
    (root / "imagesTr/case_00_0000.nii.gz").unlink()
    (root / "imagesTr/case_00_0001.nii.gz").unlink()
    (root / "imagesTr/case_01_0001.nii.gz").unlink()
    (root / "labelsTr/case_02.nii.gz").unlink()
    data = discover(root)
    assert ids(data) == ["case_03"]
    assert "case_00_0000.nii.gz does not exist" in reasons(data)["case_00"]
    assert "case_01_0001.nii.gz does not exist" in reasons(data)["case_01"]
    assert "has no label" in reasons(data)["case_02"]


def test_nnunet_regions_without_cases_are_no_data_set(tmp_path):
    root = describe(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(InputError, match="no folder imagesTr"):
        discover(root)


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": {}}', '{"channel_names": {"0": "CT"}, "labels": {"a": "b"}}'])
def test_a_broken_dataset_json_is_named(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        discover(tmp_path)


def test_modalities_are_chosen_by_name_or_renamed(nnunet):
    root = nnunet(cases=1, modalities=2)
    assert [p.name for p in discover(root, modalities=("M1",)).cases[0].images] == ["case_00_0001.nii.gz"]
    assert discover(root, modalities=("flair", "t2")).modalities == ("flair", "t2")
    with pytest.raises(InputError, match="has the modalities m0, m1, but a, b, c"):
        discover(root, modalities=("a", "b", "c"))


def test_msd(tmp_path):
    entry = {"image": "./imagesTr/la_003.nii.gz", "label": "./labelsTr/la_003.nii.gz"}
    root = touch(tmp_path, entry["image"], entry["label"], "imagesTr/._la_003.nii.gz")
    (root / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "atrium"}, "training": [entry]})
    )
    data = discover(root)
    assert (data.layout, ids(data), data.classes) == ("MSD", ["la_003"], {0: "background", 1: "atrium"})


def test_msd_entry_without_its_label_file(tmp_path):
    entries = [{"image": f"i/{n}.nii.gz", "label": f"l/{n}.nii.gz"} for n in "ab"]
    root = touch(tmp_path, "i/a.nii.gz", "l/a.nii.gz", "i/b.nii.gz")
    (root / "dataset.json").write_text(
        json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}, "training": entries})
    )
    data = discover(root)
    assert ids(data) == ["a"]
    assert "label" in reasons(data)["b"]


@pytest.mark.parametrize(
    "suffixes", [("_flair", "_t1", "_t1ce", "_t2", "_seg"), ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")]
)
def test_brats_old_and_new_names(tmp_path, suffixes):
    for case in ("HGG/B_001", "LGG/B_002"):
        touch(tmp_path, *(f"{case}/{case[4:]}{suffix}.nii.gz" for suffix in suffixes))
    data = discover(tmp_path)
    assert (data.layout, ids(data)) == ("BraTS", ["B_001", "B_002"])
    assert data.modalities == ("flair", "t1", "t1ce", "t2")
    assert data.cases[0].images[2].name == f"B_001{suffixes[2]}.nii.gz"
    assert data.classes is None


def test_brats_single_case_folder_and_missing_modality(tmp_path):
    touch(tmp_path, "c1/c1_flair.nii.gz", "c1/c1_t1ce.nii.gz", "c1/c1_seg.nii.gz", "c2/c2_flair.nii.gz")
    assert ids(discover(tmp_path / "c1")) == ["c1"]
    data = discover(tmp_path, modalities=("flair", "t1ce"))
    assert ids(data) == ["c1"]
    assert "no modality t1ce and no label seg; it has flair" in reasons(data)["c2"]
    with pytest.raises(InputError, match="not pd"):
        discover(tmp_path, modalities=("flair", "pd"))


def test_flare_folders_and_flat(tmp_path):
    touch(tmp_path / "a", "c1/c1_img.nii.gz", "c1/c1_seg.nii.gz", "c2/c2_img.nii.gz")
    data = discover(tmp_path / "a")
    assert (data.layout, ids(data), data.modalities) == ("FLARE", ["c1"], ("ct",))
    assert "no file *_seg" in reasons(data)["c2"]
    assert ids(discover(tmp_path / "a" / "c1")) == ["c1"]
    touch(tmp_path / "b", "TrainingImg/train_1_0000.nii.gz", "TrainingMask/train_1.nii.gz", "TrainingMask/x.nii.gz")
    data = discover(tmp_path / "b")
    assert (data.layout, ids(data), list(reasons(data))) == ("FLARE", ["train_1"], ["x"])


def test_csv_manifest_with_classes(tmp_path):
    touch(tmp_path, "v/a.mha", "v/b.mha")
    (tmp_path / "cases.csv").write_text("case,label,ct\np1,v/b.mha,v/a.mha\np2,,v/a.mha\np3,v/none.mha,v/a.mha\n")
    data = discover(tmp_path)
    assert (data.layout, ids(data), data.classes) == ("CSV", ["p1"], None)
    assert "nothing in column label" in reasons(data)["p2"]
    assert "v/none.mha does not exist" in reasons(data)["p3"]
    (tmp_path / "classes.csv").write_text("value,name\n1,liver\n")
    assert discover(tmp_path / "cases.csv").classes == {1: "liver"}


@pytest.mark.parametrize("text", ["", "case,label\na,b\n", "id,label,ct\n1,2,3\n", "case,label,ct\n"])
def test_a_csv_without_its_columns_or_rows(tmp_path, text):
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError, match=r"cases\.csv"):
        discover(tmp_path)


def test_ids_that_no_file_system_or_reader_should_meet(tmp_path):
    touch(tmp_path, "v/a.mha", "v/b.mha")
    (tmp_path / "cases.csv").write_text(
        "case,label,ct\n" + "".join(f"{name},v/b.mha,v/a.mha\n" for name in ("../x", "A", "a", "ok", ".h", "x" * 101))
    )
    data = discover(tmp_path)
    assert ids(data) == ["ok"]
    assert "'../x' is not allowed" in reasons(data)["../x"]
    assert "letter case aside" in reasons(data)["A"]
    assert "letter case aside" in reasons(data)["a"]


def test_unknown_layout_missing_folder_and_empty(tmp_path):
    with pytest.raises(InputError, match="no known layout: it holds no file; known are: nnU-Net"):
        discover(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        discover(tmp_path / "nowhere")
    describe(tmp_path / "d")
    (tmp_path / "d/imagesTr").mkdir()
    (tmp_path / "d/labelsTr").mkdir()
    with pytest.raises(InputError, match="holds no case"):
        discover(tmp_path / "d")


def test_the_output_folder_inside_the_data_is_no_case(tmp_path):
    touch(tmp_path, "c1/c1_img.nii.gz", "c1/c1_seg.nii.gz", "geols/volumes.zarr/c9/c9_img.nii.gz")
    assert ids(discover(tmp_path)) == ["c1"]


def msd(root, modalities=("T2", "ADC"), entries=("a",), write_images=True):
    listed = [{"image": f"i/{n}.nii.gz", "label": f"l/{n}.nii.gz"} for n in entries]
    if write_images:
        touch(root, *(name for entry in listed for name in entry.values()))
    root.mkdir(exist_ok=True)
    document = {"modality": dict(enumerate(modalities)), "labels": {"0": "background", "1": "x"}, "training": listed}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def test_msd_channels_lie_in_one_file_so_a_recipe_cannot_reorder_them(tmp_path):
    assert discover(msd(tmp_path), modalities=("T2", "ADC")).modalities == ("T2", "ADC")
    with pytest.raises(InputError, match="each image holds T2, ADC; a recipe must name them in this order"):
        discover(tmp_path, modalities=("ADC", "T2"))


def test_msd_with_its_first_image_missing_is_still_msd(tmp_path):
    root = msd(tmp_path, entries=("a", "b"))
    (root / "i/a.nii.gz").unlink()
    data = discover(root)
    assert (data.layout, ids(data), list(reasons(data))) == ("MSD", ["b"], ["a"])


def test_some_equal_names_are_no_renaming(nnunet):
    with pytest.raises(InputError, match="has the modalities m0, m1, but other, m0 are asked for"):
        discover(nnunet(cases=1, modalities=2), modalities=("other", "m0"))


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"c": {"images": [], "label": "x"}}},
        {"dataset": {"c": 5}},
        {"dataset": {"c": {"images": ["x"]}}},
        {"labels": {"background": 0, "a": 1.5}},
        {"labels": {"background": 0, "a": 1, "b": 1}},
        {"training": 5},
    ],
)
def test_malformed_entries_of_dataset_json_are_one_line(tmp_path, change):
    with pytest.raises(InputError, match=r"dataset\.json|no folder imagesTr"):
        discover(describe(tmp_path, **change))


def test_two_files_for_one_volume_are_refused(tmp_path):
    touch(tmp_path / "f", "c1/c1_img.nii.gz", "c1/c1_img.nii", "c1/c1_seg.nii.gz")
    with pytest.raises(InputError, match="are the same volume of one case; remove one"):
        discover(tmp_path / "f")
    touch(tmp_path / "g", "TrainingImg/t_0000.nii.gz", "TrainingImg/t_0000.mha", "TrainingMask/t.nii.gz")
    with pytest.raises(InputError, match="are the same volume of one case"):
        discover(tmp_path / "g")


def test_csv_as_excel_writes_it_and_rows_that_are_too_long(tmp_path):
    touch(tmp_path, "a.mha", "b.mha")
    (tmp_path / "cases.csv").write_bytes(b"\xef\xbb\xbfcase,label,ct\r\np1,b.mha,a.mha\r\n")
    assert ids(discover(tmp_path)) == ["p1"]
    (tmp_path / "cases.csv").write_text("case,label,ct\np1,b.mha,a.mha,more\n")
    with pytest.raises(InputError, match="line 2 has more fields than the header"):
        discover(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_csv_in_the_encodings_of_spreadsheets(tmp_path, encoding):
    touch(tmp_path, "größe.mha", "l.mha")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "cases.csv").write_bytes(f"{mark}case,label,ct\r\na,l.mha,größe.mha\r\n".encode(encoding))
    (case,) = discover(tmp_path).cases
    assert case.images == (tmp_path / "größe.mha",)
    (tmp_path / "cases.csv").write_bytes("case,label,ct\na,l.mha,größe.mha\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as CSV"):
        discover(tmp_path)


def test_paths_that_are_not_utf8_are_refused_before_any_library_sees_them(tmp_path):
    import os

    touch(tmp_path, "c1/c1_img.nii.gz", "c1/c1_seg.nii.gz")
    os.rename(os.fsencode(tmp_path / "c1"), os.fsencode(tmp_path) + b"/d\xff")
    touch(tmp_path, "c2/c2_img.nii.gz", "c2/c2_seg.nii.gz")
    data = discover(tmp_path)
    assert ids(data) == ["c2"]
    assert "not valid UTF-8" in reasons(data)["c1"]
    assert reasons(data)["c1"].encode()


def test_ids_that_are_files_of_a_store_are_refused(tmp_path):
    touch(tmp_path, "v/a.mha", "v/b.mha")
    (tmp_path / "cases.csv").write_text("case,label,ct\nzarr.json,v/b.mha,v/a.mha\nok,v/b.mha,v/a.mha\n")
    assert ids(discover(tmp_path)) == ["ok"]
