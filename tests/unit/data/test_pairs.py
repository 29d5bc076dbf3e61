"""Pairs of image and label: two folders with equal names, a folder per case; and label values for --classes."""

from __future__ import annotations

import numpy as np
import pytest
from commands import error_line, precompute
from datasets import ball_case, write

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
