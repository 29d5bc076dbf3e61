from __future__ import annotations

import numpy as np
import pytest

from geols_precompute.errors import InputError, RecipeError
from geols_precompute.recipe.classes import IGNORE_INDEX, MAX_CLASSES, ClassLabel, ClassTable

TABLE = ClassTable.from_names({7: "kidney", 3: "liver"}, ignore=9)


def test_class_table_adds_background_and_sorts():
    table = ClassTable.from_names({4: "d", 1: "a"})
    assert [(c.value, c.name) for c in table] == [(0, "background"), (1, "a"), (4, "d")]
    assert ClassTable.from_names({0: "air", 1: "a"}).names == ("air", "a")


def test_it_is_a_sequence_of_classes_in_the_order_of_their_indices():
    assert len(TABLE) == 3
    assert TABLE[1] == ClassLabel(value=3, name="liver")
    assert [label.name for label in TABLE[1:]] == list(TABLE.foreground) == ["liver", "kidney"]
    assert (TABLE.values, TABLE.names) == ((0, 3, 7), ("background", "liver", "kidney"))
    assert str(TABLE) == "0 background, 3 liver, 7 kidney"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({}, "no foreground class"),
        ({0: "bg"}, "no foreground class"),
        ({-1: "x"}, "class value -1 is negative"),
        ({1: "a", 2: "a"}, "class names must be different and not empty"),
        ({1: "background"}, "class names must be different and not empty"),
        ({1: ""}, "class names must be different and not empty"),
        ({v: str(v) for v in range(1, MAX_CLASSES + 1)}, "256 classes, but at most 255"),
    ],
)
def test_bad_class_tables_are_refused(names, says):
    with pytest.raises(RecipeError, match=says):
        ClassTable.from_names(names)


def test_as_many_classes_as_a_store_may_have():
    assert len(ClassTable.from_names({v: str(v) for v in range(1, MAX_CLASSES)})) == MAX_CLASSES


@pytest.mark.parametrize("ignore", [0, -1, 2.5, True, "9"])
def test_an_ignore_value_that_is_none(ignore):
    with pytest.raises(RecipeError, match="ignore must be a positive label value"):
        ClassTable.from_names({2: "a"}, ignore=ignore)


def test_a_value_is_a_class_or_ignored_not_both():
    with pytest.raises(RecipeError, match="label value 2 is both a class and the ignore label"):
        ClassTable.from_names({2: "a"}, ignore=2)


def test_the_index_of_a_value_and_of_a_name():
    assert [TABLE.index_of(value) for value in (0, 3, 7)] == [0, 1, 2]
    assert [TABLE.find(wanted) for wanted in ("background", "liver", "7", "0")] == [0, 1, 2, 0]
    with pytest.raises(InputError, match="no class has the label value 9; there are 0 background, 3 liver, 7 kidney"):
        TABLE.index_of(9)
    for wanted in ("1", "Liver", "", "9"):
        with pytest.raises(InputError, match=f"no class '{wanted}'; there are 0 background, 3 liver, 7 kidney"):
            TABLE.find(wanted)


def test_json_and_back():
    document = TABLE.as_json()
    assert document == [
        {"value": 0, "name": "background"},
        {"value": 3, "name": "liver"},
        {"value": 7, "name": "kidney"},
    ]
    assert ClassTable.from_json(document, ignore=9) == TABLE
    assert ClassTable.from_json(document) != TABLE


@pytest.mark.parametrize("document", [[], [{"value": 0}], [5, 6], [{"value": "a", "name": "b"}] * 2, [{}]])
def test_json_that_is_no_class_table(document):
    with pytest.raises((RecipeError, LookupError, TypeError)):
        ClassTable.from_json(document)


def test_class_indices_map_values_in_table_order():
    label = np.array([[[0, 7, 3, 9]]], np.int32)
    indices = TABLE.indices(label)
    np.testing.assert_array_equal(indices, [[[0, 2, 1, IGNORE_INDEX]]])
    assert indices.dtype == np.uint8


def test_a_label_without_foreground_has_indices_all_the_same():
    np.testing.assert_array_equal(TABLE.indices(np.array([[[0, 9]]], np.int32)), [[[0, IGNORE_INDEX]]])


def test_class_indices_refuse_unnamed_values():
    table = ClassTable.from_names({1: "a"})
    with pytest.raises(InputError, match=r"5 \(2 voxels\), -1 \(1 voxels\)|-1 \(1 voxels\), 5 \(2 voxels\)"):
        table.indices(np.array([[[5, 5, -1, 0, 1]]], np.int32))
    # what another table ignores has no class here
    with pytest.raises(InputError, match=r"9 \(1 voxels\); named are 0, 1\. Name every value with --classes"):
        table.indices(np.array([[[9, 1]]], np.int32))
