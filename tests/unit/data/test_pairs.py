"""Pairs of image and label: two folders with equal names, a folder per case; and label values for --classes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from commands import error_line, precompute
from datasets import ball_case, series, write

from geols_precompute.data.headers import read_header
from geols_precompute.data.layouts import discover
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.errors import InputError
from geols_precompute.store.reader import LabelStore, VolumeStore


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root, wanted=None):
    dataset = discover(root, modalities=wanted)
    cases = {
        c.id: ([p.relative_to(root).as_posix() for p in c.images], c.label.relative_to(root).as_posix())
        for c in dataset.cases
    }
    return dataset.modalities, cases, {p.case_id: p.reason for p in dataset.problems}


@pytest.mark.parametrize("labels", ["masks", "labels"])
def test_two_folders_of_equal_names_whatever_the_endings(tmp_path, labels):
    touch(tmp_path, "images/a.nii.gz", f"{labels}/a.nrrd", "images/b.mha", f"{labels}/c.nii")
    modalities, cases, problems = found(tmp_path)
    assert (modalities, cases) == (("image",), {"a": (["images/a.nii.gz"], f"{labels}/a.nrrd")})
    assert set(problems) == {"b", "c"}
    assert "has no label of its name" in problems["b"]
    assert [case.id for case in find_images(tmp_path, ("image",))[0]] == ["a", "b"]


def test_masks_and_labels_are_not_chosen_between(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "masks/a.nii.gz", "labels/a.nii.gz")
    with pytest.raises(InputError, match="has masks and labels; move away"):
        discover(tmp_path)


def test_a_folder_per_case(tmp_path):
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz", "p2/image.nii.gz", "p2/mask.mha", "p3/image.nii.gz")
    modalities, cases, problems = found(tmp_path)
    assert modalities == ("image",)
    assert cases == {
        "p1": (["p1/image.nii.gz"], "p1/label.nii.gz"),
        "p2": (["p2/image.nii.gz"], "p2/mask.mha"),
    }
    assert "no label map" in problems["p3"]
    assert list(found(tmp_path / "p1")[1]) == ["p1"]


def test_modalities_of_case_folders_are_named_by_their_files(tmp_path):
    touch(tmp_path, "p1/t1.nii.gz", "p1/flair.nii.gz", "p1/seg.nii.gz", "p2/t1.nii.gz", "p2/label.nii.gz")
    _, cases, _ = found(tmp_path, ("flair", "t1"))
    assert cases == {"p1": (["p1/flair.nii.gz", "p1/t1.nii.gz"], "p1/seg.nii.gz")}
    assert found(tmp_path)[0] == ("t1",)


def test_the_command_lists_the_values_ready_for_classes_and_then_computes(tmp_path):
    image, label = ball_case(0)
    write(image[0].astype(np.int16), tmp_path / "images/a.nii.gz")
    write(label, tmp_path / "masks/a.nii.gz")
    line = error_line(precompute(tmp_path))
    counts = [int(np.count_nonzero(label == value)) for value in (1, 2)]
    assert f"has 1 ({counts[0]} voxels), 2 ({counts[1]} voxels): give --classes 1=NAME,2=NAME, with" in line
    assert precompute("--classes", "1=a,2=b", tmp_path).exit_code == 0
    assert LabelStore.open(tmp_path / "geols/labels.zarr").cases == ("a",)


def test_channels_are_chosen_by_name_without_a_recipe_file(nnunet, tmp_path):
    root = nnunet(modalities=3, cases=1)
    assert precompute("--channels", "m2,m0", root).exit_code == 0
    assert VolumeStore.open(root / "geols/volumes.zarr").preprocessing.modalities == ("m2", "m0")
    line = error_line(precompute("--channels", "m2,t9", "--out", tmp_path / "o", root))
    assert "has the modalities m0, m1, m2, but m2, t9 are asked for" in line
    assert "names nothing, or a modality twice" in error_line(precompute("--channels", "m2,m2", root))


@pytest.mark.parametrize(("modalities", "typed"), [(1, "T9"), (2, "T9,T8")])
def test_names_in_channels_must_be_there_but_a_recipe_may_give_others(nnunet, tmp_path, modalities, typed):
    root = nnunet(modalities=modalities, cases=1)
    there = ", ".join(f"m{number}" for number in range(modalities))
    line = error_line(precompute("--channels", typed, root))
    assert f"{root} has the modalities {there}, but {typed.replace(',', ', ')} are asked for; --channels takes" in line
    assert not (root / "geols").exists()
    (tmp_path / "r.toml").write_text(f"modalities = {typed.split(',')}")
    result = precompute("--recipe", tmp_path / "r.toml", root)
    assert result.exit_code == 0, result.output
    assert "taken by their order: m0 as T9" in result.output


@pytest.mark.parametrize(("image", "code"), [("t1", 2), ("image", 0)])
def test_a_file_of_raters_that_is_named_after_a_modality_is_no_other_one(tmp_path, image, code):
    voxels, label = ball_case(0)
    write(voxels[0], tmp_path / f"a/{image}.nii.gz")
    write(label, tmp_path / "a/annotation_1.nii.gz")
    result = precompute("--channels", "T9", "--rater", "1", "--classes", "1=x,2=y", tmp_path)
    assert result.exit_code == code, result.output
    assert ("has the modalities t1, but T9 are asked for" in result.output) == (code == 2)


def test_a_brats_case_without_some_modalities_names_the_flag_that_takes_the_others(tmp_path):
    images, label = ball_case(0, modalities=2)
    for name, array in (("flair", images[0]), ("t1ce", images[1]), ("seg", label)):
        write(array, tmp_path / f"c/c_{name}.nii.gz")
    result = precompute("--recipe", "brats2019", tmp_path)
    assert result.exit_code == 1
    flag = "--channels flair,t1ce"
    assert f"no modality t1, t2; it has flair, t1ce; {flag} takes what it has\n" in result.output
    result = precompute("--classes", "1=x,2=y", *flag.split(), tmp_path)
    assert "1 case computed" in result.output


def test_joint_over_one_modality_is_noted(nnunet, tmp_path):
    for modalities in (1, 2):
        result = precompute("--modalities", "joint", nnunet(str(modalities), modalities=modalities, cases=1))
        assert result.exit_code == 0, result.output
        noted = "note: --modalities joint makes no difference: there is one modality, m0" in result.output
        assert noted == (modalities == 1)


def test_no_zero_of_a_grid_is_negative(tmp_path):
    image, label = ball_case(0)
    write(image[0], tmp_path / "images/a.nii.gz")
    write(label, tmp_path / "masks/a.nii.gz", direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    result = precompute("--classes", "1=x,2=y", tmp_path)
    assert "direction (-1, 0, 0, 0, -1, 0, 0, 0, 1) (x,y,z) differs from (1, 0, 0, 0, 1, 0, 0, 0, 1)" in result.output


def test_prediction_takes_the_images_of_case_folders_and_no_label(tmp_path):
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz", "p2/image.nii.gz", "p2/annotation_1.nii.gz")
    cases, problems = find_images(tmp_path, ("image",))
    assert ([(c.id, c.images[0].name) for c in cases], problems) == (
        [("p1", "image.nii.gz"), ("p2", "image.nii.gz")],
        (),
    )
    assert [c.id for c in find_images(tmp_path / "p1", ("image",))[0]] == ["p1"]
    # a file that is named is the case
    assert [c.id for c in find_images(tmp_path / "p1/image.nii.gz", ("image",))[0]] == ["image"]
    touch(tmp_path / "two", "p1/t1.nii.gz", "p1/flair.nii.gz", "p1/seg.nii.gz")
    ((case,), problems) = find_images(tmp_path / "two", ("flair", "t1"))
    assert (case.id, [p.name for p in case.images], problems) == ("p1", ["flair.nii.gz", "t1.nii.gz"], ())


def test_a_dicom_series_is_an_image_in_both_layouts(tmp_path):
    volume, label = ball_case(0, (6, 12, 14))
    for image, mask in (("a/images/p1", "a/masks/p1.nii.gz"), ("b/p1/image", "b/p1/label.nii.gz")):
        series(tmp_path / image, volume[0])
        write(label, tmp_path / mask, spacing=(0.8, 0.9, 2.0), origin=(1.5, 0, -7))
    for name in ("a", "b"):
        result = precompute("--classes", "1=x,2=y", tmp_path / name)
        assert result.exit_code == 0, result.output
        volumes = VolumeStore.open(tmp_path / name / "geols/volumes.zarr")
        assert volumes.cases == ("p1",)
        np.testing.assert_allclose(volumes.intensities("p1")[0], volume[0], atol=0.01)
        np.testing.assert_array_equal(volumes.label("p1"), label)
        assert [c.id for c in find_images(tmp_path / name, ("image",))[0]] == ["p1"]


def test_a_folder_of_no_layout_is_described_with_a_cases_csv_that_fits(tmp_path):
    image, label = ball_case(0)
    for number in (1, 2, 3):
        write(image[0], tmp_path / f"scans/Patient {number}.nii.gz")
        write(label, tmp_path / f"drawn/Patient {number}_roi.nii.gz")
    (tmp_path / "notes.txt").touch()
    result = precompute("--classes", "1=a,2=b", tmp_path)
    line = error_line(result)
    assert "it holds 6 .nii.gz, 1 .txt, such as drawn/Patient 1_roi.nii.gz, scans/Patient 1.nii.gz; known are" in line
    lines = [text.strip() for text in result.output.splitlines()[-3:]]
    assert lines == [
        "case,label,image",
        "Patient_1,drawn/Patient 1_roi.nii.gz,scans/Patient 1.nii.gz",
        "Patient_2,drawn/Patient 2_roi.nii.gz,scans/Patient 2.nii.gz",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    assert "2 cases computed" in precompute("--classes", "1=a,2=b", tmp_path).output


@pytest.mark.parametrize("flags", [(), ("--classes", "1=a,2=b")])
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("scans/p{}-T1", "drawn/p{}-truth"),
        ("p{}_T1", "p{}_mask"),
        ("p{}_img", "drawn/p{}_seg"),
        ("images/p{}_img", "labels/p{}_seg"),
        ("images/scan_{}", "masks/mask_{}"),
        ("TrainingImg/p{}", "TrainingMask/p{}"),
    ],
)
def test_a_layout_in_which_no_case_has_image_and_label_is_unknown(tmp_path, flags, image, label):
    voxels, labelled = ball_case(0)
    for number in ("001", "002", "003"):
        write(voxels[0], tmp_path / f"{image.format(number)}.nii.gz")
        write(labelled, tmp_path / f"{label.format(number)}.nii.gz")
    result = precompute(*flags, tmp_path)
    assert result.exit_code == 2
    assert "has no known layout: it holds 6 .nii.gz, such as " in error_line(result)
    header, *rows = [text.strip() for text in result.output.splitlines()[-3:]]
    assert header == "case,label,image"
    for row, number in zip(rows, ("001", "002"), strict=True):
        assert row.endswith(f",{label.format(number)}.nii.gz,{image.format(number)}.nii.gz")
    assert not (tmp_path / "geols").exists()


def test_that_no_case_can_be_used_comes_before_the_names_of_label_values(tmp_path):
    touch(tmp_path, "c/c_flair.nii.gz", "c/c_seg.nii.gz")
    line = error_line(precompute("--channels", "flair,t1", tmp_path))
    assert f"recognised as BraTS, but no case can be used: c: {tmp_path}/c: no modality t1" in line


@pytest.mark.parametrize("names", [(), ("a.png", "b.png")])
def test_a_folder_without_volumes_says_so(tmp_path, names):
    line = error_line(precompute(touch(tmp_path, *names)))
    assert ("it holds 2 .png, such as a.png, b.png" if names else "it holds no file") in line


def test_a_damaged_slice_of_a_series_is_named_without_the_words_of_a_library(tmp_path):
    volume, label = ball_case(0, (6, 12, 14))
    write(label, tmp_path / "masks/p1.nii.gz", spacing=(0.8, 0.9, 2.0), origin=(1.5, 0, -7))
    folder = series(tmp_path / "images/p1", volume[0])
    (folder / "zz.dcm").write_bytes(bytes(400))
    write(label, tmp_path / "masks/p2.nii.gz")
    (tmp_path / "images/p2.dcm").write_bytes(bytes(400))
    result = precompute("--classes", "1=x,2=y", tmp_path)
    assert f"failed: p1: {folder}/zz.dcm: cannot be read as a slice of the DICOM series" in result.output
    assert f"failed: p2: {tmp_path}/images/p2.dcm: cannot be read as DICOM; is the file damaged?" in result.output


@pytest.mark.parametrize(
    "ending", ["nii", "nii.gz", "mha", "mhd", "nrrd", "nhdr", "gipl", "mnc", "mgz", "vtk", "tif", "hdr"]
)
def test_no_library_dumps_its_own_words(tmp_path, ending, capfd):
    is_read = ending not in ("mnc", "mgz")
    for content, says in (
        (b"", "is empty; copy it again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "is an HDF5 file, not "),
        (b"CDF\x01" + bytes(500), "is a NetCDF or MINC file, not "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS, not "),
        (b"\x01", ""),
        (bytes(5000), ""),
        (b"# vtk DataFile Version 3.0\nx\n", ""),
    ):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images/a.img").touch()  # the other half of a.hdr
        (tmp_path / "images" / f"a.{ending}").write_bytes(content)
        write(np.ones((4, 4, 4), np.uint8), tmp_path / "masks/a.nii.gz")
        result = precompute("--classes", "1=x", tmp_path)
        assert result.exit_code == 1
        assert f"failed: a: {tmp_path}/images/a." in result.output
        assert not is_read or says in result.output
        assert not re.search(r"ITK|sitk|Error|unpack|b'", result.output)
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tif", b"II*\0" + (132846).to_bytes(4, "little") + bytes(200)),
        ("a.tif", b"a text with the name of an image"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 3 3 3\nElementType = MET_FOO\nElementDataFile = LOCAL\n"),
    ],
)
def test_a_look_at_headers_is_as_quiet(tmp_path, name, content, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_header(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_names_may_begin_with_that_of_the_case(tmp_path):
    touch(tmp_path, *(f"p{n}/p{n}{end}" for n in (1, 2) for end in ("_image.nii.gz", "-label.nii.gz")))
    dataset = discover(tmp_path)
    assert [(c.id, c.images[0].name, c.label.name) for c in dataset.cases] == [
        (f"p{n}", f"p{n}_image.nii.gz", f"p{n}-label.nii.gz") for n in (1, 2)
    ]
    assert dataset.modalities == ("image",)
    cases, problems = find_images(tmp_path, ("image",))
    assert ([(c.id, c.images[0].name) for c in cases], problems) == (
        [("p1", "p1_image.nii.gz"), ("p2", "p2_image.nii.gz")],
        (),
    )
