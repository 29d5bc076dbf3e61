"""Splits: the drawing rule, files of two kinds, and refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from geols_precompute.errors import InputError
from geols_train.splits import Split, make_split

CASES = [f"c{i:02d}" for i in range(20)]


def test_the_drawing_rule():
    split = make_split("14,2,4", CASES[::-1], seed=3)
    order = [CASES[i] for i in np.random.default_rng(3).permutation(20)]
    assert (list(split.train), list(split.validation), list(split.test)) == (order[:14], order[14:16], order[16:])


def test_fractions_and_counts_agree_and_all_parts_get_a_case():
    assert make_split("0.7,0.1,0.2", CASES, seed=0) == make_split("14,2,4", CASES, seed=0)
    small = make_split("0.7,0.1,0.2", CASES[:4], seed=0)
    assert [len(p) for p in (small.train, small.validation, small.test)] == [2, 1, 1]
    assert make_split("0.8,0.2,0", CASES, seed=0).test == ()
    for n in range(3, 60):
        counts = make_split("0.7,0.1,0.2", [f"c{i}" for i in range(n)], seed=0)
        assert len(set(counts.cases)) == len(counts.cases) == n
    with pytest.raises(InputError, match="finite"):
        make_split("nan,1,1", CASES, seed=0)


def test_a_saved_split_comes_back(tmp_path):
    split = make_split("5,2,3", CASES, seed=1)
    (tmp_path / "split.json").write_text(json.dumps(split.as_json()))
    assert make_split(str(tmp_path / "split.json"), CASES, seed=9) == split


VISITS = {f"p{i // 3:02d}_week{i % 3}": f"p{i // 3:02d}" for i in range(30)}


@pytest.mark.parametrize("group", ["(p[0-9]+)_", "patients.csv", "patients.json"])
def test_a_patient_is_split_whole(tmp_path, group):
    if group.endswith(".csv"):
        rows = ["case,patient", *(f"{case},{patient}" for case, patient in VISITS.items())]
        (tmp_path / group).write_text("\n".join(rows))
    elif group.endswith(".json"):
        (tmp_path / group).write_text(json.dumps([{"case": c, "patient": p} for c, p in VISITS.items()]))
    group = str(tmp_path / group) if "." in group else group
    split = make_split("7,1,2", list(VISITS), seed=3, group=group)
    order = [f"p{i:02d}" for i in np.random.default_rng(3).permutation(10)]
    assert [VISITS[case] for case in split.cases] == [patient for patient in order for _ in range(3)]
    assert [len(part) for part in (split.train, split.validation, split.test)] == [21, 3, 6]
    assert split.patients == VISITS
    # and a run that takes its split from the file knows the patients
    (tmp_path / "split.json").write_text(json.dumps(split.as_json()))
    assert make_split(str(tmp_path / "split.json"), list(VISITS), seed=0) == split
    with pytest.raises(InputError, match="--split 8,1,2 needs 11 patients, but the stores hold 10"):
        make_split("8,1,2", list(VISITS), seed=3, group=group)


@pytest.mark.parametrize("named", ["by the file", "by --group"])
def test_a_patient_in_two_parts_is_refused(tmp_path, named):
    document = {"train": ["p00_week0", "p01_week0"], "validation": ["p02_week0"], "test": ["p01_week2"]}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document | ({"patients": VISITS} if named == "by the file" else {})))
    leak = r"patient p01 has p01_week0 in train and p01_week2 in test; a patient belongs to one part$"
    with pytest.raises(InputError, match=leak):
        make_split(str(path), list(VISITS), seed=0, group=None if named == "by the file" else "(.*)_week")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("(p[0-9]+", "neither a .csv or .json file nor a pattern: "),
        ("p[0-9]+", "nor a pattern with one pair of parentheses"),
        ("(p0[0-9])_week0", "finds no patient in 20 ids, the first p00_week1"),
        ("nowhere.csv", "nowhere.csv: cannot be read as CSV"),
    ],
)
def test_groups_that_are_refused(group, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make_split("7,1,2", list(VISITS), seed=0, group=group)


def test_folds_of_nnunet(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["c00"], "val": ["c01"]}, {"train": ["c02", "c03"], "val": ["c04"]}]))
    assert make_split(str(path), CASES, seed=0) == Split(train=("c00",), validation=("c01",))
    assert make_split(f"{path}:1", CASES, seed=0) == Split(train=("c02", "c03"), validation=("c04",))
    with pytest.raises(InputError, match="no fold 2"):
        make_split(f"{path}:2", CASES, seed=0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("14,4,4", "--split 14,4,4 needs 22 cases, but the stores hold 20; ask for fewer"),
        ("14,4", "three numbers are needed"),
        ("0.9,0.2,0.2", "fractions must sum to at most 1"),
        ("14,0,4", "training and validation need at least one case each"),
        ("1.5,2,3", "counts must be whole numbers"),
        ("nowhere.json", "no such file, and not three numbers"),
    ],
)
def test_rules_that_are_refused(rule, message):
    with pytest.raises(InputError, match=message):
        make_split(rule, CASES, seed=0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"train": ["c00", "x1"], "validation": ["c01"]}, "1 case of the split not in the stores: x1; compute them"),
        ({"train": ["c00", "c01"], "validation": ["c01"]}, "c01 appears more than once; a case belongs to one part"),
        ({"train": ["c00", "c00"], "validation": ["c01"]}, "c00 appears more than once"),
        ({"train": ["c00"], "validation": []}, "need at least one case each"),
        ({"train": ["c00"]}, "no fold 0 with the lists train and val"),
        ({"train": 3, "val": ["c00"]}, "no fold 0 with the lists"),
        ("[", "not valid JSON"),
    ],
)
def test_files_that_are_refused(tmp_path, document, message):
    path = tmp_path / "s.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(InputError, match=message):
        make_split(str(path), CASES, seed=0)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (
            1,
            "training, validation and test needs 3 cases, but the stores hold 1; a training needs one case to",
        ),
        (2, "training, validation and test needs 3 cases, but the stores hold 2; --split 1,1,0 trains on one and"),
    ],
)
def test_too_few_cases_for_the_default_are_told_what_can_be_done(cases, message):
    with pytest.raises(InputError, match=message):
        make_split("0.7,0.1,0.2", [f"c{i}" for i in range(cases)], seed=0)
    if cases == 2:
        assert len(make_split("1,1,0", ["a", "b"], seed=0).cases) == 2
