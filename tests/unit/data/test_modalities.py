"""Modalities are matched by what their names mean, and a renaming by their order is said; regions become classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import write

from geols_precompute.data.layouts import discover
from geols_precompute.data.layouts.modalities import Channels, are_renamed, find_channels, index_of, meaning_of
from geols_precompute.data.layouts.regions import Labels
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.recipe.files import load_recipe
from geols_precompute.recipe.parameters import Recipe
from geols_precompute.run.plan import describe, plan_run

VOXELS = np.ones((3, 3, 3), np.uint8)
BRATS = ("flair", "t1", "t1ce", "t2")
HERE = Path("dataset.json")


def nnunet(root, channels, *, cases=("p1",), labels=None, mark=b""):
    """An nnU-Net data set whose file names alone matter."""
    for case in cases:
        write(VOXELS, root / f"labelsTr/{case}.nii.gz")
        for number in range(len(channels)):
            write(VOXELS, root / f"imagesTr/{case}_{number:04d}.nii.gz")
    labels = labels or {"background": 0, "organ": 1}
    document = {"channel_names": {str(n): c for n, c in enumerate(channels)}, "labels": labels}
    (root / "dataset.json").write_bytes(mark + json.dumps(document | {"file_ending": ".nii.gz"}).encode())
    return root


def numbers(paths):
    return [int(path.name.split("_")[-1][:4]) for path in paths]


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("T1-Gd", "t1ce"),
        ("T1w", "t1"),
        ("t1n", "t1"),
        ("T2-FLAIR", "flair"),
        ("t2f", "flair"),
        ("CT", "ct"),
        ("X", "x"),
    ],
)
def test_a_name_means_a_modality(name, meaning):
    assert meaning_of(name) == meaning


@pytest.mark.parametrize(
    ("name", "among", "place"),
    [
        ("t1", ("t1n", "T1", "t1"), 2),
        ("T1", ("t1n", "t1"), 1),
        ("t1ce", ("t1n", "t1c"), 1),
        ("t1ce", ("t1c", "t1gd"), None),
        ("ct", ("pet",), None),
        ("CT", ("ct", "CT"), 1),
    ],
)
def test_a_modality_is_found_by_name_then_case_then_meaning(name, among, place):
    assert index_of(name, among) == place


@pytest.mark.parametrize(
    ("channels", "wanted", "expected"),
    [
        (("t1c", "t1n", "t2f", "t2w"), BRATS, [2, 1, 0, 3]),
        (("FLAIR", "T1w", "t1gd", "T2w"), BRATS, [0, 1, 2, 3]),
        (("PET", "CT"), ("ct", "pet"), [1, 0]),
        (("PET", "CT"), ("ct",), [1]),
    ],
)
def test_channels_are_taken_by_name(channels, wanted, expected):
    assert find_channels(Channels.of(channels), wanted, HERE) == (expected, "")


def test_a_renaming_by_order_is_said():
    found, note = find_channels(Channels.of(["a", "b"]), ("one", "two"), HERE)
    assert found == [0, 1]
    assert "by their order: a as one, b as two" in note


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [
        (("t1", "t2"), ("flair", "t1ce")),  # each has a meaning, another one
        (("CT", "other"), ("ct", "pet")),  # one is found by name, so the other is not there
        (("a", "b"), ("one",)),
        (("a",), ("one", "two")),
        (("t1", "b"), ("t1n", "t1")),  # one channel for two
    ],
)
def test_what_contradicts_names_is_refused(channels, wanted):
    with pytest.raises(InputError, match="are asked for"):
        find_channels(Channels.of(channels), wanted, HERE)


def test_channels_of_one_name_are_numbered_and_may_be_renamed():
    assert Channels.of(["CT", "CT"]).names == ("CT", "CT_1")
    assert Channels.of(["CT", "CT_1", "CT", "CT"]).names == ("CT", "CT_1", "CT_2", "CT_3")
    assert not Channels.of(["CT", "ct"]).numbered
    assert find_channels(Channels.of(["CT", "CT"]), ("ct", "pet"), HERE)[0] == [0, 1]
    assert are_renamed(Channels.of(["CT", "CT"]), ("ct", "pet"))


def test_precompute_and_predict_agree_on_every_channel(tmp_path):
    for number, (channels, wanted) in enumerate(
        [
            (("t1c", "t1n", "t2f", "t2w"), BRATS),
            (("PET", "CT"), ("ct", "pet")),
            (("CT", "CT"), ("ct", "pet")),
            (("CT", "CT"), ("CT", "CT_1")),
            (("a", "b"), ("one", "two")),
            (("CT", "ct"), ("CT", "ct")),
        ]
    ):
        root = nnunet(tmp_path / str(number), channels)
        dataset, notes = discover(root, modalities=wanted), []
        ((case,), problems) = find_images(root, wanted, on_note=notes.append)
        assert not problems
        assert numbers(case.images) == numbers(dataset.cases[0].images)
        assert [n for n in dataset.notes if "order" in n] == notes


def test_precompute_says_its_notes(tmp_path):
    root = nnunet(tmp_path, ("CT", "CT"))
    said = describe(plan_run(root, recipe=Recipe(modalities=("ct", "pet"))))
    assert "channels share a name; they are called CT, CT_1" in said
    assert "taken by their order: CT as ct, CT_1 as pet" in said
    assert "note" not in describe(plan_run(nnunet(tmp_path / "plain", ("CT",)), recipe=Recipe()))


def test_numbers_that_nothing_names_are_said(tmp_path):
    for number in range(2):
        write(VOXELS, tmp_path / f"p_{number:04d}.nii.gz")
    notes = []
    find_images(tmp_path, ("t1", "t2"), on_note=notes.append)
    assert "no dataset.json names the channels; taken by their order: 0000 as t1, 0001 as t2" in notes[0]
    notes.clear()
    write(VOXELS, tmp_path / "one/p_0000.nii.gz")
    find_images(tmp_path / "one", ("ct",), on_note=notes.append)
    assert not notes


def test_brats_folders_and_manifests_know_the_other_names(tmp_path):
    for ending in ("t1c", "t1n", "t2f", "t2w", "seg"):
        write(VOXELS, tmp_path / f"b/p/p-{ending}.nii.gz")
    (case,) = discover(tmp_path / "b", modalities=("t1c", "t2w")).cases
    assert [path.name for path in case.images] == ["p-t1c.nii.gz", "p-t2w.nii.gz"]
    (case,), _ = find_images(tmp_path / "b", ("t1gd", "t2"))
    assert [path.name for path in case.images] == ["p-t1c.nii.gz", "p-t2w.nii.gz"]
    (tmp_path / "b/cases.csv").write_text("case,label,t1c,t2f\np,p/p-seg.nii.gz,p/p-t1c.nii.gz,p/p-t2f.nii.gz\n")
    for images in (
        discover(tmp_path / "b", modalities=("flair", "t1ce")).cases[0].images,
        find_images(tmp_path / "b", ("flair", "t1ce"))[0][0].images,
    ):
        assert [path.name for path in images] == ["p-t2f.nii.gz", "p-t1c.nii.gz"]


# --- texts with marks, and tables with empty rows --------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_over(tmp_path, encoding):
    root = nnunet(tmp_path, ("CT",))
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_bytes(text.replace(", ", ",\r\n").encode(encoding))
    assert discover(root).modalities == ("CT",)
    assert len(find_images(root, ("CT",))[0]) == 1


def test_a_recipe_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b"skip_empty = true\n[classes]\n1 = 'x'\n")
    assert load_recipe(str(path)).skip_empty


def test_empty_rows_and_columns_are_left_out(tmp_path):
    for name in ("a", "l"):
        write(VOXELS, tmp_path / f"{name}.nii.gz")
    table = b"\xef\xbb\xbfcase,label,ct,,\r\n,,,,\r\n\r\na,l.nii.gz,a.nii.gz,,\r\n , ,,,\r\n,,,,\r\n"
    (tmp_path / "cases.csv").write_bytes(table)
    dataset = discover(tmp_path)
    assert ([case.id for case in dataset.cases], dataset.problems) == (["a"], ())
    (tmp_path / "cases.csv").write_text("case,label,ct\na,l.nii.gz,a.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match="line 2 has more fields"):
        discover(tmp_path)
    (tmp_path / "cases.csv").write_text("case,label,ct,ct\na,l.nii.gz,a.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match="two columns have the name 'ct'"):
        discover(tmp_path)
    (tmp_path / "cases.csv").write_text("\n,,\n")
    with pytest.raises(InputError, match="needs a header"):
        discover(tmp_path)


# --- labels as regions -----------------------------------------------------------------------------------------------

NESTED = {"background": 0, "whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing": 3}


def test_nested_regions_become_classes_and_stay_for_evaluation(tmp_path):
    labels = Labels.of(NESTED, HERE)
    assert labels.classes == {0: "background", 1: "whole tumour 1", 2: "tumour core 2", 3: "enhancing"}
    assert labels.regions == {"whole tumour": (1, 2, 3), "tumour core": (2, 3)}
    plan = plan_run(nnunet(tmp_path, ("CT",), labels=NESTED | {"ignore": 4}), recipe=Recipe())
    assert plan.recipe.classes.values == (0, 1, 2, 3)
    assert plan.recipe.classes.ignore == 4
    assert plan.recipe.hints.regions == labels.regions


def test_a_region_of_one_value_is_a_class():
    labels = Labels.of({"background": 0, "a": [1], "b": [2]}, HERE)
    assert (labels.classes, labels.regions) == ({0: "background", 1: "a", 2: "b"}, {})


def test_overlapping_regions_that_tell_values_apart_become_classes():
    labels = Labels.of({"background": 0, "left": [1, 2], "upper": [2, 3]}, HERE)
    assert labels.classes == {0: "background", 1: "left 1", 2: "left 2", 3: "upper 3"}


def test_regions_that_do_not_tell_values_apart_are_refused_unless_classes_are_given(tmp_path):
    root = nnunet(tmp_path, ("CT",), labels={"background": 0, "whole": [1, 2, 3], "core": [3]})
    with pytest.raises(RecipeError, match=r"label values 1 and 2 lie in the same regions \(whole\).*--classes"):
        plan_run(root, recipe=Recipe())
    plan = plan_run(root, recipe=Recipe(classes={1: "a", 2: "b", 3: "core"}))
    assert plan.recipe.classes.names == ("background", "a", "b", "core")
    assert plan.recipe.hints.regions == {}


@pytest.mark.parametrize("labels", [{"a": 1, "b": [1]}, {"a": 1.5}, {"a": [1, 2.5]}, {"a": []}, {"ignore": [1, 2]}])
def test_labels_that_make_no_sense_are_refused(tmp_path, labels):
    with pytest.raises(InputError, match="not a valid data set description"):
        discover(nnunet(tmp_path, ("CT",), labels={"background": 0} | labels))
