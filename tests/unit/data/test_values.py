"""Values that lose their meaning are said or refused; cases without foreground and many classes are data."""

from __future__ import annotations

import gzip
import json
import re
import struct

import numpy as np
import pytest
from commands import digest, precompute
from datasets import write

from geols_precompute import LabelStore, VolumeStore
from geols_precompute.data.cases import Case
from geols_precompute.data.prepare import notes_of_range, prepare_source, read_source
from geols_precompute.data.volumes import read_volume
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.recipe.classes import IGNORE_INDEX, MAX_CLASSES, ClassTable
from geols_precompute.recipe.parameters import Preprocessing, Recipe, preprocessing_json
from geols_precompute.store.verify import verify_case

RNG = np.random.default_rng(3)
SHAPE = (12, 14, 16)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[3:9, 3:10, 4:12] = 1
LABEL[5:7, 5:8, 6:9] = 2
IMAGE = (LABEL * 100 + RNG.normal(0, 5, SHAPE)).astype(np.float32)
TWO = ClassTable.from_names({1: "organ", 2: "lesion"}, ignore=9)


def prepared(folder, *, image=IMAGE, label=LABEL, classes=TWO, **preprocessing):
    """The case of an image and a label, prepared."""
    case = Case(id="a", images=(write(image, folder / "i.nii.gz"),), label=write(label, folder / "l.nii.gz"))
    asked = Preprocessing(modalities=("mr",), **preprocessing)
    volume, source = read_source(case, asked, classes)
    return prepare_source(case, volume, source, asked, classes)


def data_set(root, labels, *, names=("organ", "lesion"), images=None):
    """An nnU-Net data set of one modality."""
    for number, label in enumerate(labels):
        image = images[number] if images else label * np.float32(100) + RNG.normal(0, 5, label.shape)
        write(image.astype(np.float32), root / f"imagesTr/c{number}_0000.nii.gz")
        write(label, root / f"labelsTr/c{number}.nii.gz")
    table = {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
    document = {"channel_names": {"0": "MR"}, "labels": table, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


# --- labels that are not quite whole ---------------------------------------------------------------------------------


def scaled_label(path, raw, slope):
    """A NIfTI-1 label of scaled integers [z,y,x], written byte by byte, on the grid of `write`."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *raw.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, {"uint8": 2, "uint16": 512}[raw.dtype.name], raw.itemsize * 8)
    struct.pack_into("<4f", head, 76, 1, 1, 1, 1)
    struct.pack_into("<2f", head, 108, 352, slope)
    struct.pack_into("<hh", head, 252, 0, 2)
    struct.pack_into("<12f", head, 280, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)
    head[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(head) + raw.tobytes()))
    return path


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint16, 65535), (np.uint8, 255)])
def test_scaled_labels_that_are_whole_to_half_a_step_are_rounded_and_said(tmp_path, dtype, largest):
    slope = np.float32(2 / largest)
    raw = np.rint(LABEL / np.float64(slope)).astype(dtype)
    assert not np.array_equal(raw * slope, LABEL), "the file's values are not whole"
    image = write(IMAGE, tmp_path / "i.nii.gz")
    volume = read_volume([image], scaled_label(tmp_path / "l.nii.gz", raw, slope), modalities=1)
    np.testing.assert_array_equal(volume.label, LABEL)
    assert any("rounded" in note and "scl_slope" in note for note in volume.notes)


def test_scaled_labels_that_are_not_whole_name_the_scale(tmp_path):
    image = write(IMAGE, tmp_path / "i.nii.gz")
    for slope in (0.9, 0.25):
        with pytest.raises(InputError, match=rf"not a whole number.*scl_slope {slope}"):
            read_volume([image], scaled_label(tmp_path / "l.nii.gz", LABEL, slope), modalities=1)


def test_float_labels_are_whole_up_to_what_float32_rounds(tmp_path):
    image = write(IMAGE, tmp_path / "i.nii.gz")
    nearly = (LABEL / np.float32(3)) * np.float32(2.9999998)
    volume = read_volume([image], write(nearly, tmp_path / "l.nii.gz"), modalities=1)
    np.testing.assert_array_equal(volume.label, LABEL)
    assert any("were rounded" in note for note in volume.notes)
    for off in (1e-3, 0.5):
        with pytest.raises(InputError, match="is this a label map"):
            read_volume([image], write(LABEL + np.float32(off), tmp_path / "l.nii.gz"), modalities=1)
    whole = read_volume([image], write(LABEL.astype(np.float64), tmp_path / "l.nii.gz"), modalities=1)
    assert whole.notes == ()


# --- the range of an image -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "value"), [((0, 0, 0), 1e9), (np.s_[:2], -(2.0**31))])
def test_a_range_that_leaves_nothing_of_the_foreground_is_said(tmp_path, where, value):
    spoilt = IMAGE.copy()
    spoilt[where] = value
    (note,) = prepared(tmp_path, image=spoilt).notes
    levels = len(np.unique(IMAGE[LABEL > 0]))
    assert f"leaves 1 level of the {levels} in the foreground" in note
    assert "--clip" in note


@pytest.mark.parametrize("value", [1e9, -3e7])
def test_a_range_that_leaves_nothing_is_said_without_a_foreground(tmp_path, value):
    """Of a case that has none, and of an image to predict."""
    empty, spoilt = np.zeros(SHAPE, np.uint8), IMAGE.copy()
    assert notes_of_range(spoilt[np.newaxis], ("ct",)) == ()
    assert notes_of_range(np.zeros((1, *SHAPE), np.float32), ("ct",)) == ()
    spoilt[3, 4, 5] = value
    (note,) = notes_of_range(spoilt[np.newaxis], ("ct",))
    # 1 % of the voxels lies outside the percentiles
    assert re.search(r"intensities of ct span .* leaves 1 level of the \d+ in 99 % of the voxels", note)
    assert prepared(tmp_path, image=spoilt, label=empty).notes == (note.replace(" of ct ", " of mr "),)


def test_ordinary_ranges_and_clipped_ones_have_no_note(tmp_path):
    assert prepared(tmp_path).notes == ()
    spoilt = IMAGE.copy()
    spoilt[0, 0, 0] = 1e9
    assert prepared(tmp_path, image=spoilt, clip=(0.5, 99.5)).notes == ()
    assert prepared(tmp_path, image=np.rint(IMAGE / 50)).notes == ()


# --- classes lost in resampling --------------------------------------------------------------------------------------


def test_a_class_lost_in_resampling_is_said(tmp_path):
    small = (LABEL > 0).astype(np.uint8)
    small[5, 5, 5] = 2
    case = prepared(tmp_path, label=small, spacing=(4.0, 4.0, 4.0))
    assert not (case.label == 2).any()
    assert "lesion (1 voxel of value 2) is lost in resampling to 4 × 4 × 4 mm" in case.notes[0]


def test_a_case_whose_foreground_is_lost_is_refused_with_the_true_reason(tmp_path):
    lone = np.zeros(SHAPE, np.uint8)
    lone[5, 5, 5] = 2
    with pytest.raises(InputError, match=r"lost in resampling to 4 × 4 × 4 mm.*nothing of the foreground is left"):
        prepared(tmp_path, label=lone, spacing=(4.0, 4.0, 4.0))


# --- cases without foreground ----------------------------------------------------------------------------------------


def test_a_case_without_foreground_is_a_case_of_background(tmp_path):
    empty = np.zeros(SHAPE, np.uint8)
    root = data_set(tmp_path / "d", [LABEL, empty, LABEL])
    done = precompute(root)
    assert done.exit_code == 0, done.output
    labels, volumes = LabelStore.open(root / "geols/labels.zarr"), VolumeStore.open(root / "geols/volumes.zarr")
    assert not labels.maps("c1").any()
    assert not volumes.label("c1").any()
    assert labels.metadata("c1").geols["present"] == [0]
    soft = labels.soft_label("c1", volumes.label("c1"), alpha=0.1)
    np.testing.assert_allclose(soft[0], 1)
    for store in (labels, volumes):
        assert all(verify_case(store, case) is None for case in store.cases)


def test_a_recipe_leaves_cases_without_foreground_out(tmp_path):
    root = data_set(tmp_path / "d", [LABEL, np.zeros(SHAPE, np.uint8), LABEL])
    (tmp_path / "r.toml").write_text("skip_empty = true\n")
    done = precompute("--recipe", tmp_path / "r.toml", root)
    assert done.exit_code == 1
    assert "c1.nii.gz: the label map has no voxel of a foreground class; leave this case out" in done.output
    assert LabelStore.open(root / "geols/labels.zarr").cases == ("c0", "c2")


def test_the_switch_is_in_the_recipe_only_where_it_is_set():
    plain = Preprocessing(modalities=("ct",))
    assert "skip_empty" not in preprocessing_json(plain, TWO)
    on = Preprocessing(modalities=("ct",), skip_empty=True)
    assert Preprocessing.from_json(preprocessing_json(on, TWO)) == on
    assert Recipe(classes={1: "a"}, skip_empty=True).resolve(modalities=("ct",)).preprocessing.skip_empty


def test_a_case_that_is_ignored_altogether_is_refused(tmp_path):
    with pytest.raises(InputError, match="every voxel is ignored"):
        prepared(tmp_path, label=np.full(SHAPE, 9, np.uint8))
    half = np.where(np.arange(16) < 8, 9, 0) * np.ones(SHAPE, np.uint8)
    assert set(np.unique(prepared(tmp_path, label=half.astype(np.uint8)).label)) == {0, IGNORE_INDEX}


# --- many classes ----------------------------------------------------------------------------------------------------


def test_255_classes_and_an_ignore_value_are_told_apart():
    values = sorted(RNG.choice(np.arange(1, 5000), MAX_CLASSES - 1, replace=False).tolist())
    table = ClassTable.from_names({value: f"c{value}" for value in values}, ignore=5001)
    places = RNG.integers(0, MAX_CLASSES, (4, 5, 6))
    label = np.array([0, *values])[places].astype(np.int32)
    label[0, 0, 0] = 5001
    expected = places.astype(np.uint8)
    expected[0, 0, 0] = IGNORE_INDEX
    np.testing.assert_array_equal(table.indices(label), expected)
    label[1, 1, 1:3] = 4999 if 4999 not in values else -3
    with pytest.raises(InputError, match="label values without a class"):
        table.indices(label)
    with pytest.raises(RecipeError, match="256 classes"):
        ClassTable.from_names({value: str(value) for value in range(1, 256)})


def test_a_store_of_255_classes_in_its_largest_chunks_is_read(tmp_path):
    """An axis of 95 voxels is one chunk."""
    label = np.zeros((2, 95, 95), np.uint8)
    label[:, ::4, ::4] = RNG.permutation(24 * 24).reshape(24, 24) % 255
    names = [f"s{value}" for value in range(1, 255)]
    root = data_set(tmp_path / "d", [label], names=names)
    done = precompute("--seeds", "centroid", "--iterations", "1", root)
    assert done.exit_code == 0, done.output
    assert digest(done)
    store = LabelStore.open(root / "geols/labels.zarr")
    assert store.maps("c0").shape == (254, 2, 95, 95)
    assert all(verify_case(store, case) is None for case in store.cases)


# --- parts of a volume -----------------------------------------------------------------------------------------------


def test_an_edited_data_half_is_computed_again(tmp_path):
    for ending, half in ((".mhd", ".zraw"), (".nhdr", ".raw.gz"), (".hdr", ".img")):
        root = tmp_path / ending[1:]
        write(IMAGE, root / f"i{ending}")
        write(LABEL, root / f"l{ending}")
        (root / "cases.csv").write_text(f"case,label,mr\na,l{ending},i{ending}\n")
        flags = ("--classes", "1=organ,2=lesion", root)
        before = digest(precompute(*flags))
        changed = LABEL.copy()
        changed[3] = 0
        header = (root / f"l{ending}").read_bytes()
        write(changed, root / f"l{ending}")
        assert (root / f"l{half}").exists()
        if ending == ".hdr":
            assert (root / f"l{ending}").read_bytes() == header, "only the data half differs"
        done = precompute(*flags)
        assert "1 case computed" in done.output, done.output
        assert digest(done) != before
