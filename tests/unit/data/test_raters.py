"""Several raters: which layouts are recognised, which label is softened, and what the stores keep of the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import precompute as run
from datasets import write

from geols_precompute import LabelStore, VolumeStore
from geols_precompute.data.layouts import discover
from geols_precompute.data.raters import consensus
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, preprocessing_json
from geols_precompute.store.verify import verify_case

SHAPE = (8, 10, 12)
IMAGE = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.int16)


def precompute(root, *flags, status=0):
    result = run(root, *filter(None, flags))
    assert result.exit_code == status, result.output
    return result


def block(size):
    label = np.zeros(SHAPE, np.uint8)
    label[1 : 1 + size, 2 : 2 + size, 3 : 3 + size] = 1
    return label


LABELS = {"1": block(3), "2": block(4), "3": block(5), "4": block(5)}


def curvas(root, cases=("a", "b"), labels=LABELS):
    for case in cases:
        write(IMAGE, root / case / "image.nii.gz")
        for rater, label in labels.items():
            write(label, root / case / f"annotation_{rater}.nii.gz")
    return root


def raters(dataset):
    return {case.id: list(case.raters) for case in dataset.cases}


def test_curvas(tmp_path):
    data = discover(curvas(tmp_path))
    assert (data.layout, data.modalities) == ("several raters", ("image",))
    assert raters(data) == {"a": ["1", "2", "3", "4"], "b": ["1", "2", "3", "4"]}
    assert [path.name for path in data.cases[0].files] == ["image.nii.gz", *(f"annotation_{k}.nii.gz" for k in LABELS)]
    own = discover(tmp_path / "a")
    assert raters(own) == {"a": ["1", "2", "3", "4"]}


def test_qubiq_keeps_the_order_of_numbers_and_refuses_two_tasks(tmp_path):
    for case in ("c1", "c2"):
        write(IMAGE, tmp_path / case / "image.nii.gz")
        for number in (1, 2, 10):
            write(LABELS["1"], tmp_path / case / f"task01_seg{number:02d}.nii.gz")
    write(LABELS["1"], tmp_path / "c2" / "task02_seg01.nii.gz")
    write(IMAGE, tmp_path / "c3" / "image.nii.gz")
    data = discover(tmp_path)
    assert raters(data) == {"c1": ["1", "2", "10"]}
    reasons = {problem.case_id: problem.reason for problem in data.problems}
    assert "task01_, task02_" in reasons["c2"]
    assert "no label map of any rater" in reasons["c3"]


def test_bids(tmp_path):
    for name in ("sub-1/anat/sub-1_T1w", "sub-1/anat/sub-1_FLAIR", "sub-2/ses-b/anat/sub-2_ses-b_T1w"):
        write(IMAGE, tmp_path / f"{name}.nii.gz")
    write(IMAGE, tmp_path / "sub-2/ses-b/anat/sub-2_ses-b_FLAIR.nii.gz")
    for name in ("sub-1/sub-1_space-T1w_desc", "sub-2/sub-2_ses-b_desc"):
        for rater in ("rater1", "raterXY"):
            write(LABELS["1"], tmp_path / f"derivatives/manual/{name}-{rater}_dseg.nii.gz")
    data = discover(tmp_path)
    assert data.modalities == ("FLAIR", "T1w")
    assert raters(data) == {"sub-1": ["1", "XY"], "sub-2_ses-b": ["1", "XY"]}
    one = discover(tmp_path, modalities=("t1",))
    assert [path.name for path in one.cases[0].images] == ["sub-1_T1w.nii.gz"]


def test_csv_with_a_column_per_rater(tmp_path):
    write(IMAGE, tmp_path / "i.nii.gz")
    for rater, label in LABELS.items():
        write(label, tmp_path / f"l{rater}.nii.gz")
    rows = "case,ct,rater_1,rater_2\na,i.nii.gz,l1.nii.gz,l2.nii.gz\nb,i.nii.gz,,l3.nii.gz\nc,i.nii.gz,,\n"
    (tmp_path / "cases.csv").write_text(rows)
    data = discover(tmp_path)
    assert raters(data) == {"a": ["1", "2"], "b": ["2"]}
    assert "nothing in any rater's column" in data.problems[0].reason
    (tmp_path / "cases.csv").write_text("case,ct,label,rater_1\na,i.nii.gz,l1.nii.gz,l2.nii.gz\n")
    with pytest.raises(InputError, match="one per rater"):
        discover(tmp_path)


def test_a_missing_label_map_of_a_rater_is_a_problem(tmp_path):
    (tmp_path / "cases.csv").write_text("case,ct,rater_1,rater_2\na,i.nii.gz,l1.nii.gz,l2.nii.gz\n")
    write(IMAGE, tmp_path / "i.nii.gz")
    write(LABELS["1"], tmp_path / "l1.nii.gz")
    (problem,) = discover(tmp_path).problems
    assert problem.reason == f"label {tmp_path / 'l2.nii.gz'} does not exist"


def test_majority_and_union_by_hand():
    labels_RV = [[0, 1, 1, 2, 0, 2], [0, 1, 2, 2, 1, 1], [0, 0, 3, 1, 0, 0], [1, 0, 3, 0, 2, 0]]
    labels = np.array(labels_RV, np.int32).reshape(4, 1, 1, 6)
    assert consensus(labels, "majority").ravel().tolist() == [0, 0, 3, 2, 0, 0]
    assert consensus(labels, "union").ravel().tolist() == [1, 1, 3, 2, 1, 1]
    assert consensus(np.zeros((2, 1, 1, 3), np.int32), "union").ravel().tolist() == [0, 0, 0]


def test_staple_outvotes_raters_who_are_wrong_everywhere():
    """Two raters who agree on what is right outweigh three whose errors are their own, where a majority cannot tell."""
    rng = np.random.default_rng(1)
    truth = np.where(block(5) > 0, 7, 0).astype(np.int32)
    noisy = [np.where(rng.random(SHAPE) < 0.4, 7 - truth, truth) for _ in range(3)]
    labels = np.stack([truth, truth, *noisy]).astype(np.int32)
    wrong = {rule: np.count_nonzero(consensus(labels, rule) != truth) for rule in ("majority", "staple")}
    assert wrong["staple"] < wrong["majority"] / 4
    assert set(np.unique(consensus(labels, "staple"))) == {0, 7}


@pytest.mark.parametrize(("rater", "expected"), [("2", block(4)), ("majority", block(4)), ("union", block(5))])
def test_the_label_that_is_softened(tmp_path, rater, expected):
    root = curvas(tmp_path, cases=("a",))
    precompute(root, "--classes", "1=nodule", "--rater", rater, "--keep-raters")
    volumes, labels = VolumeStore.open(root / "geols/volumes.zarr"), LabelStore.open(root / "geols/labels.zarr")
    np.testing.assert_array_equal(volumes.label("a"), expected)
    kept = volumes.raters("a")
    assert list(kept) == list(LABELS)
    for name, label in LABELS.items():
        np.testing.assert_array_equal(kept[name], label)
    assert labels.recipe["preprocessing"]["rater"] == rater
    assert verify_case(volumes, "a") is None
    assert labels.metadata("a").geols["source"] == volumes.metadata("a").geols["source"]


def test_only_the_chosen_rater_is_read_unless_others_count(tmp_path):
    root = curvas(tmp_path, cases=("a",))
    precompute(root, "--classes", "1=nodule", "--rater", "3")
    volumes = VolumeStore.open(root / "geols/volumes.zarr")
    assert "raters" not in volumes.metadata("a").geols["source"]
    with pytest.raises(InputError, match="--keep-raters"):
        volumes.raters("a")
    before = volumes.digest
    # a rater who is not read changes nothing
    write(block(2), root / "a/annotation_1.nii.gz")
    assert "1 unchanged" in precompute(root, "--classes", "1=nodule", "--rater", "3").output
    assert VolumeStore.open(root / "geols/volumes.zarr").digest == before


def test_a_change_of_another_rater_is_seen_where_that_rater_is_kept(tmp_path):
    root = curvas(tmp_path, cases=("a",))
    flags = ("--classes", "1=nodule", "--rater", "3", "--keep-raters")
    precompute(root, *flags)
    write(block(2), root / "a/annotation_1.nii.gz")
    assert "1 case computed" in precompute(root, *flags).output
    np.testing.assert_array_equal(VolumeStore.open(root / "geols/volumes.zarr").raters("a")["1"], block(2))


def test_raters_are_turned_and_resampled_as_the_label_is(tmp_path):
    root = curvas(tmp_path, cases=("a",))
    recipe = 'spacing = [2.0, 1.0, 0.5]\nrater = "2"\nkeep_raters = true\nclasses = {1 = "nodule"}\n'
    (root / "r.toml").write_text(recipe)
    precompute(root, "--recipe", str(root / "r.toml"), "--orientation", "LPI")
    volumes = VolumeStore.open(root / "geols/volumes.zarr")
    assert volumes.label("a").shape != SHAPE
    np.testing.assert_array_equal(volumes.raters("a")["2"], volumes.label("a"))


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ((), "choose what is softened with --rater"),
        (("--rater", "9"), "has raters 1, 2, 3, 4"),
        (("--rater", "a b"), "has raters 1, 2, 3, 4"),
        (("--keep-raters",), "choose what is softened with --rater"),
    ],
)
def test_a_rater_has_to_be_chosen(tmp_path, flags, text):
    result = precompute(curvas(tmp_path), "--classes", "1=nodule", *flags, status=2)
    assert text in result.output


def test_one_label_map_has_no_rater(nnunet):
    assert "one label map per case" in precompute(nnunet(), "--rater", "1", status=2).output


def test_a_case_that_lacks_the_rater_fails_alone(tmp_path):
    root = curvas(tmp_path)
    (root / "b/annotation_4.nii.gz").unlink()
    result = precompute(root, "--classes", "1=nodule", "--rater", "4", status=1)
    assert "failed: b:" in result.output
    assert "the case has no rater 4; it has 1, 2, 3" in result.output


def test_a_value_of_an_outvoted_rater_needs_a_class_too(tmp_path):
    odd = LABELS | {"2": LABELS["2"] * np.uint8(5)}
    root = curvas(tmp_path, cases=("a",), labels=odd)
    result = precompute(root, "--classes", "1=nodule", "--rater", "majority", status=1)
    assert "annotation_2.nii.gz: label values without a class: 5" in result.output


def test_recipes_without_raters_keep_their_documents():
    classes = ClassTable.from_names({1: "a"})
    plain = preprocessing_json(Preprocessing(modalities=("ct",)), classes)
    assert not {"rater", "keep_raters"} & plain.keys()
    kept = Preprocessing(modalities=("ct",), rater="union", keep_raters=True)
    assert Preprocessing.from_json(preprocessing_json(kept, classes)) == kept


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.pop("raters"),
        lambda source: source.update(raters=[]),
        lambda source: source["raters"].pop(),
        lambda source: source["raters"][0].update(name="2"),
        lambda source: source["raters"][0].update(sha256="0"),
        lambda source: source["raters"][0].update(extra=1),
    ],
)
def test_a_reader_refuses_raters_that_are_not_as_the_format_has_them(tmp_path, change):
    root = curvas(tmp_path, cases=("a",))
    precompute(root, "--classes", "1=nodule", "--rater", "1", "--keep-raters")
    volumes = VolumeStore.open(root / "geols/volumes.zarr")

    path, manifest = volumes.path / "a/zarr.json", volumes.path / "manifest.json"
    document, listed = json.loads(path.read_text()), json.loads(manifest.read_text())
    change(document["attributes"]["geols"]["source"])
    path.write_text(json.dumps(document))
    # the digest above it fits again, as an attacker would see to
    listed["cases"]["a"] = sha256_hex(path.read_bytes())
    manifest.write_bytes(canonical_json(listed))
    with pytest.raises(StoreError, match=r"raters|shape"):
        VolumeStore.open(volumes.path).raters("a")
