"""What the page says to a person: the data set's name, the recipe, where the body's sides are."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from commands import precompute, store
from datasets import write

from geols_precompute.report.slices import View
from geols_precompute.report.words import name_of, recipe_in_words


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/hippocampus/geols/labels.zarr", "hippocampus"),
        ("/x/liver/data/geols/labels.zarr", "liver"),
        ("/organs.zarr", "organs"),
        ("/data/geols/labels.zarr", "labels"),
    ],
)
def test_a_data_set_is_called_after_its_folder(path, name):
    assert name_of(Path(path)) == name


@pytest.mark.parametrize("preset", ["default", "paper", "border"])
def test_the_recipe_is_told_in_words(preset, nnunet, tmp_path):
    root = nnunet("brains", cases=1)
    assert precompute("--preset", preset, root).exit_code == 0
    assert store("report", root / "geols/labels.zarr", "-o", tmp_path / "r.html").exit_code == 0
    page = (tmp_path / "r.html").read_text()
    assert "<title>Soft labels of brains</title>" in page
    assert "<h1>Soft labels of brains</h1>" in page
    said = {
        "default": "Distances start at the skeleton of each class and are measured through the image in 4 sweeps: a "
        "step costs more where the image changes (gradient metric, λ = 1). Nearness falls off over their mean "
        "distance; the background is what the other classes leave.",
        "paper": "through the image until nothing changes: a step costs its length and what the image changes over it "
        "(Riemannian metric, γ = 1). Nearness falls off at 1 per mm",
        "border": "start at 2 mm inside each class",
    }
    assert said[preset] in page


@pytest.mark.parametrize("seeds", ["skeleton", "erosion", "random-5", "centroid", "boundary", "margin-1.5"])
def test_every_seed_strategy_has_words(seeds):
    maps = {"seeds": seeds, "iterations": 4, "metric": "gradient", "lam": 1.0, "decay": 0.5, "background": "seeds"}
    text = recipe_in_words({"maps": maps, "preprocessing": {"spacing": [3.0, 1.0, 1.5]}})
    assert "Distances start at" in text
    assert "resampled to 3 × 1 × 1.5 mm" in text
    assert "  " not in text


@pytest.mark.parametrize("direction", [np.diag([1.0, 1, 1]), np.diag([-1.0, 1, -1]), np.eye(3)[[2, 0, 1]]])
def test_letters_of_the_body_stand_where_nibabel_says(direction, tmp_path):
    path = write(np.zeros((4, 5, 6), np.int16), tmp_path / "a.nii.gz", direction=tuple(map(float, direction.ravel())))
    image = nibabel.load(path)
    letters = "".join(nibabel.aff2axcodes(image.affine))
    for axis in range(3):
        view = View.across(axis, letters, placed=True)
        left, right, top, bottom = view.edges
        # where a step down the rows, and along the columns, goes in the body, by the affine of the file
        for shown, step, (begin, end) in (
            (view.rows, view.steps[0], (top, bottom)),
            (view.columns, view.steps[1], (left, right)),
        ):
            step_mm = image.affine[:3, 2 - shown] * step
            body = int(np.abs(step_mm).argmax())
            against, towards = ("LR", "PA", "IS")[body]
            assert (begin, end) == ((against, towards) if step_mm[body] > 0 else (towards, against))
        assert top in "SA"
        assert left in "RA"
        assert View.across(axis, letters, placed=False).edges == ()
