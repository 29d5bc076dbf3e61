"""Images without labels, grouped in every layout."""

from __future__ import annotations

import json

import pytest

from geols_precompute.data.formats import dicom
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.errors import InputError

BRATS = ("flair", "t1", "t1ce", "t2")


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root, modalities):
    cases, problems = find_images(root, modalities)
    assert all(case.label is None for case in cases)
    listed = {case.id: [p.relative_to(root).as_posix() for p in case.images] for case in cases}
    return listed, {p.case_id: p.reason for p in problems}


def test_nnunet_files(tmp_path):
    touch(
        tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz", "b_0000.nii.gz", "c_0001.nii.gz", ".x_0000.nii.gz"
    )
    cases, problems = found(tmp_path, ("ct", "pet"))
    assert cases == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"], "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}
    assert "no file of modality ct beside c_0001.nii.gz" in problems["c"]


def test_a_whole_nnunet_data_set_gives_its_test_images_by_channel_name(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTs/t_0000.nii.gz", "imagesTs/t_0001.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT", "1": "PET"}}))
    assert found(tmp_path, ("pet",))[0] == {"t": ["imagesTs/t_0001.nii.gz"]}


def test_training_images_where_there_are_no_others(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert found(tmp_path, ("ct",))[0] == {"a": ["imagesTr/a_0000.nii.gz"]}


@pytest.mark.parametrize("scheme", [("flair", "t1", "t1ce", "t2"), ("t2f", "t1n", "t1c", "t2w")])
def test_brats_folders(tmp_path, scheme):
    touch(tmp_path, *(f"HGG/P-1/P-1-{s}.nii.gz" for s in (*scheme, "seg")), *(f"P_2/P_2_{s}.nii" for s in scheme[:3]))
    cases, problems = found(tmp_path, BRATS)
    assert cases == {"P-1": [f"HGG/P-1/P-1-{s}.nii.gz" for s in scheme]}
    assert "no file of modality t2" in problems["P_2"]


def test_flare_folders_and_flat(tmp_path):
    touch(tmp_path / "f", "x/x_img.nii.gz", "x/x_seg.nii.gz", "y/y_img.nii.gz")
    assert found(tmp_path / "f", ("ct",))[0] == {"x": ["x/x_img.nii.gz"], "y": ["y/y_img.nii.gz"]}
    touch(tmp_path / "g", "TrainingImg/tr_001_0000.nii.gz", "TrainingMask/tr_001.nii.gz")
    assert found(tmp_path / "g", ("ct",))[0] == {"tr_001": ["TrainingImg/tr_001_0000.nii.gz"]}


def test_single_files_hold_all_modalities(tmp_path):
    touch(tmp_path, "BRATS_001.nii.gz", "scan 2.mha", "FLARE22_0007.nii.gz")
    cases, problems = found(tmp_path, ("a",))
    assert cases == {"BRATS_001": ["BRATS_001.nii.gz"], "FLARE22_0007": ["FLARE22_0007.nii.gz"]}
    assert "is not allowed" in problems["scan 2"]


def test_one_image(tmp_path):
    touch(tmp_path, "a_0000.nii.gz")
    (case,), problems = find_images(tmp_path / "a_0000.nii.gz", ("ct",))
    assert (case.id, problems) == ("a", ())


def test_a_manifest(tmp_path):
    touch(tmp_path, "x.nii.gz", "y.nii.gz")
    (tmp_path / "cases.csv").write_text("case,label,adc,dwi\np1,,x.nii.gz,y.nii.gz\np2,,x.nii.gz,z.nii.gz\n")
    cases, problems = found(tmp_path, ("dwi", "adc"))
    assert cases == {"p1": ["y.nii.gz", "x.nii.gz"]}
    assert "does not exist" in problems["p2"]
    with pytest.raises(InputError, match="has the modalities adc, dwi; not flair"):
        find_images(tmp_path, ("flair",))


def test_channels_that_the_run_has_renamed_keep_their_order(tmp_path):
    touch(tmp_path, "imagesTs/t_0000.nii.gz", "imagesTs/t_0001.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT", "1": "PET"}}))
    assert found(tmp_path, ("a", "b"))[0] == {"t": ["imagesTs/t_0000.nii.gz", "imagesTs/t_0001.nii.gz"]}
    with pytest.raises(InputError, match="names the channels CT, PET; the network takes a"):
        find_images(tmp_path, ("a",))


def test_a_file_of_all_channels_has_them_in_the_order_of_the_network(tmp_path):
    touch(tmp_path, "imagesTs/a.nii.gz")
    for channels, wanted in (({"0": "T2", "1": "FLAIR"}, ("flair", "t2w")), ({"0": "T1"}, ("ct",))):
        (tmp_path / "dataset.json").write_text(json.dumps({"modality": channels}))
        listed = f"{', '.join(channels.values())}; the network takes {', '.join(wanted)}, in this order"
        for images in (tmp_path, tmp_path / "imagesTs/a.nii.gz"):
            cases, (problem,) = find_images(images, wanted)
            assert (cases, problem.case_id) == ((), "a")
            assert listed in problem.reason
        assert found(tmp_path, tuple(channels.values())) == ({"a": ["imagesTs/a.nii.gz"]}, {})


def test_channels_of_one_file_that_only_their_order_names_are_said(tmp_path):
    touch(tmp_path, "imagesTs/a.nii.gz")
    notes = []
    find_images(tmp_path, ("flair", "t2"), on_note=notes.append)
    assert "no dataset.json names the channels; taken by their order: 0000 as flair, 0001 as t2" in notes.pop()
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    find_images(tmp_path, ("ct",), on_note=notes.append)
    assert "taken by their order: MRI as ct" in notes.pop()


def test_a_file_named_by_itself_has_the_channel_of_its_number(tmp_path):
    touch(tmp_path, "imagesTs/a_0000.nii.gz", "imagesTs/a_0001.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T2", "1": "FLAIR"}}))
    ((case,), _) = find_images(tmp_path / "imagesTs/a_0001.nii.gz", ("flair",))
    assert case.id == "a"
    with pytest.raises(InputError, match="names the channels T2, FLAIR; the network takes flair"):
        find_images(tmp_path / "imagesTs/a_0000.nii.gz", ("flair",))


@pytest.mark.parametrize(
    "names", [("a.nii.gz", "a.mha"), ("a_0000.nii.gz", "a_0000.nii"), ("a.nii.gz", "a_0000.nii.gz")]
)
def test_two_files_for_one_volume(tmp_path, names):
    touch(tmp_path, *names)
    cases, problems = found(tmp_path, ("ct",))
    assert not cases
    assert "are the same volume of one case" in problems["a"]


def test_two_files_of_one_id(tmp_path):
    touch(tmp_path, "u/a.nii.gz", "v/a.nii.gz", "v/b.nii.gz")
    _, problems = found(tmp_path, ("ct",))
    assert "another case has the id 'a'" in problems["a"]


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ("image.nii.gz", "label.nii.gz"),
        ("ct.nii.gz", "segmentations/liver.nii.gz"),
        ("image", "label.nii.gz"),
        ("scan.nii.gz", "label.nii.gz"),
    ],
)
def test_folders_of_one_image_each_give_their_names(tmp_path, files, labels, monkeypatch):
    # the network's modality is called otherwise
    monkeypatch.setattr(dicom, "is_series", lambda folder: True)
    for case in ("p1", "p2"):
        slices = [f"{files}/{n}.dcm" for n in (1, 2)] if files == "image" else [files]
        touch(tmp_path, f"{case}/{labels}", *(f"{case}/{name}" for name in slices))
    assert found(tmp_path, ("MRI",)) == ({case: [f"{case}/{files}"] for case in ("p1", "p2")}, {})


def test_one_case_folder_is_called_after_it(tmp_path):
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz")
    assert found(tmp_path, ("MRI",)) == ({"p1": ["p1/image.nii.gz"]}, {})


def test_nothing_to_predict(tmp_path):
    with pytest.raises(InputError, match="no image of a known format"):
        find_images(tmp_path, ("ct",))
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "none", ("ct",))
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="not a valid data set description"):
        find_images(tmp_path, ("ct",))


def test_predictions_of_before_are_no_inputs(tmp_path):
    touch(tmp_path, "a.nii.gz", "out/a.nii.gz")
    cases, problems = find_images(tmp_path, ("ct",), leave_out=tmp_path / "out")
    assert ([case.id for case in cases], problems) == (["a"], ())


def test_an_empty_folder_of_test_images_does_not_hide_the_others(tmp_path):
    (tmp_path / "imagesTs").mkdir()
    touch(tmp_path, "imagesTr/a_0000.nii.gz")
    assert [case.id for case in find_images(tmp_path, ("ct",))[0]] == ["a"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"], "a_0000.nii.gz, a_0001.nii.gz look like"),
        (["P/P_flair.nii.gz", "P/P_t1.nii.gz", "P/P_seg.nii.gz"], "P_flair.nii.gz, P_t1.nii.gz look like"),
        (["a_0000.nii.gz", "b_0000.nii.gz"], ""),
        (["scan_1.nii.gz", "scan_2.nii.gz"], ""),
    ],
)
def test_several_modalities_for_a_network_of_one_are_noted(tmp_path, names, shown):
    notes = []
    find_images(touch(tmp_path, *names), ("ct",), on_note=notes.append)
    assert len(notes) == bool(shown)
    assert not shown or (shown in notes[0] and "the network takes one, ct" in notes[0])
