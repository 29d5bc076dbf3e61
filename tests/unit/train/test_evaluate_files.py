"""geols-evaluate: any two folders of label maps, by the metrics of a training."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from datasets import ball_case, write
from trainings import run

from geols_train.cli_evaluate import evaluate
from geols_train.metrics import agreement

SPACING = (1.0, 1.5, 2.0)  # x, y, z


@pytest.fixture
def folders(tmp_path):
    """Two cases; the predictions are moved by a voxel along x. And each label [z,y,x] of both."""
    pairs = {}
    for number in range(2):
        label = ball_case(number)[1]
        moved = np.roll(label, 1, axis=2)
        pairs[f"c{number}"] = moved, label
        write(moved, tmp_path / f"pred/c{number}.nii.gz", spacing=SPACING)
        write(label, tmp_path / f"ref/c{number}.mha", spacing=SPACING)
    return tmp_path, pairs


def rows(path):
    with path.open() as file:
        return {(row["case"], row["structure"]): row for row in csv.DictReader(file)}


def test_the_numbers_are_those_of_the_trainers_metrics(folders):
    root, pairs = folders
    result = run(evaluate, root / "pred", root / "ref", "--classes", "1=liver,2=kidney", "-o", root / "r.csv")
    assert result.exit_code == 0, result.output
    found = rows(root / "r.csv")
    assert len(found) == 4
    for case, (predicted, label) in pairs.items():
        for value, name in ((1, "liver"), (2, "kidney")):
            expected = agreement(predicted == value, label == value, SPACING[::-1], tolerance_mm=2.0)
            row = found[case, name]
            # Dice by its definition, too
            both = np.count_nonzero((predicted == value) & (label == value))
            dice = 2 * both / (np.count_nonzero(predicted == value) + np.count_nonzero(label == value))
            assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
            assert float(row["surface_dice"]) == pytest.approx(expected.surface_dice, abs=1e-6)
            assert float(row["hd95_mm"]) == pytest.approx(expected.hd95_mm, abs=1e-6)
    mean = np.mean([float(found[case, "liver"]["dice"]) for case in pairs])
    line = next(line for line in result.output.splitlines() if line.startswith("liver"))
    assert line.split()[1] == f"{mean:.4f}"
    # in the form of the training's table
    assert "  Dice  surface Dice 2 mm  HD95 mm\n" in result.output
    assert f"mean foreground  {np.mean([float(row['dice']) for row in found.values()]):.4f}\n" in result.output
    assert "2 cases compared, 0 failed" in result.output
    assert {row["tolerance_mm"] for row in found.values()} == {"2"}
    narrow = root / "narrow.csv"
    assert run(evaluate, root / "pred", root / "ref", "--surface-tolerance", "0.5", "-o", narrow).exit_code == 0
    predicted, label = pairs["c0"]
    expected = agreement(predicted == 1, label == 1, SPACING[::-1], tolerance_mm=0.5).surface_dice
    assert float(rows(narrow)["c0", "class 1"]["surface_dice"]) == pytest.approx(expected, abs=1e-6)


def test_regions_of_a_recipe_and_values_without_a_class(folders):
    root, pairs = folders
    (root / "r.toml").write_text('ignore = 2\n[classes]\n1 = "a"\n')
    result = run(evaluate, root / "pred", root / "ref", "--recipe", root / "r.toml", "-o", root / "r.csv")
    predicted, label = pairs["c0"]
    assert (predicted[label != 2] == 2).any()  # which no class has
    assert result.exit_code == 2
    assert "holds the values [2], which no class has" in result.output
    (root / "r.toml").write_text('[classes]\n1 = "a"\n2 = "b"\n[regions]\nall = [1, 2]\n')
    result = run(evaluate, root / "pred", root / "ref", "--recipe", root / "r.toml", "-o", root / "r.csv")
    expected = agreement(predicted > 0, label > 0, SPACING[::-1], tolerance_mm=2.0).dice
    found = rows(root / "r.csv")
    assert float(found["c0", "all"]["dice"]) == pytest.approx(expected, abs=1e-6)
    # of the classes: the region is not counted once more
    mean = np.mean([float(row["dice"]) for (_, name), row in found.items() if name != "all"])
    assert f"mean foreground  {mean:.4f}" in result.output


def test_a_data_folder_names_cases_and_classes(folders, nnunet):
    root, _ = folders
    data = nnunet("data", cases=2)
    for case in ("case_00", "case_01"):
        (root / "own").mkdir(exist_ok=True)
        (root / f"own/{case}.nii.gz").write_bytes((data / f"labelsTr/{case}.nii.gz").read_bytes())
    result = run(evaluate, root / "own", data)
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.output.splitlines() if line.startswith("organ")] == [
        ["organ1", "1.0000"],
        ["organ2", "1.0000"],
    ]


def test_what_does_not_fit_is_named_and_the_others_are_compared(folders):
    root, pairs = folders
    write(pairs["c0"][1], root / "ref/only.mha", spacing=SPACING)
    write(pairs["c0"][1], root / "pred/extra.nii.gz", spacing=SPACING)
    write(pairs["c1"][0], root / "pred/c1.nii.gz", spacing=(2.0, 2.0, 2.0))
    (root / "pred/c0_probabilities.nii.gz").touch()
    result = run(evaluate, root / "pred", root / "ref")
    assert result.exit_code == 1
    assert "failed: only: no prediction" in result.output
    assert "failed: c1: " in result.output
    assert "spacing" in result.output
    assert "note: 1 prediction without a reference left out: extra" in result.output
    assert "1 case compared, 2 failed" in result.output
    # without names for the classes they are called by their values
    assert "class 1  " in result.output


@pytest.mark.parametrize(
    ("prediction", "reference", "says"),
    [
        ("pred", "none", "none is no folder; name one with a label map per case"),
        ("pred", "other", "is named after a case of"),
        ("pred", "empty", "no label map of a known format in it"),
    ],
)
def test_folders_that_do_not_go_together(folders, prediction, reference, says):
    root, pairs = folders
    write(pairs["c0"][1], root / "other/x.nii.gz")
    (root / "empty").mkdir()
    result = run(evaluate, root / prediction, root / reference)
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_tolerance_is_refused_in_the_words_of_the_training(folders, value):
    root, _ = folders
    result = run(evaluate, root / "pred", root / "ref", "--surface-tolerance", value)
    assert (result.exit_code, result.output) == (
        2,
        f"error: --surface-tolerance must be a positive number, got {float(value)!r}\n",
    )


def test_a_table_of_another_origin_is_not_replaced(folders):
    root, _ = folders
    (root / "r.csv").write_text(json.dumps({"mine": 1}))
    result = run(evaluate, root / "pred", root / "ref", "-o", root / "r.csv")
    assert result.exit_code == 2
    assert json.loads((root / "r.csv").read_text()) == {"mine": 1}
