"""The search for a recipe, on raters that were drawn from a model that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import error_line, store
from raters import bulge_of, rated_stores, write_raters
from scipy import ndimage

from geols_precompute import MapParameters, load_recipe
from geols_precompute.agreement import fit as fitting
from geols_precompute.agreement.patients import halves
from geols_precompute.data.patients import read_patients
from geols_precompute.store.reader import VolumeStore

#: Of a border that lies evenly within ±w of the label's. The logistic curve of equal variance falls off by π/w per mm,
#: which is twice the decay, for the maps of both classes fall off.
DECAY_OF = {0.8: 2.0, 1.6: 1.0, 3.1: 0.5}


def signed_distance(label):
    """To the border between voxels, in mm, positive inside."""
    inside, outside = ndimage.distance_transform_edt(label), ndimage.distance_transform_edt(~label)
    return np.where(label, inside - 0.5, 0.5 - outside)


def within(width, *, follows_image):
    """Raters whose border lies evenly within ±width mm; where they follow the image, a fifth of it beside an edge."""

    def draw(label, seed, raters):
        reach = np.full(label.shape, width)
        if follows_image:
            # beside the bulge, which is as bright as the lesion, there is no edge
            reach[ndimage.distance_transform_edt(~bulge_of(seed)) > 2.5] *= 0.2
        # evenly spread, so that the mean of the raters says of one case what the model says of many
        levels = (np.arange(raters) + 0.5) / raters * 2 - 1
        return [signed_distance(label) > level * reach for level in levels]

    return draw


def fit(root):
    volumes = VolumeStore.open(rated_stores(root) / "volumes.zarr")
    patients = read_patients(root / "patients.json", volumes.cases)
    return fitting.fit_recipe(volumes, patients=patients, log=root / "fit.jsonl", workers=0)


def choice(found, parameter):
    return next(c for c in found.choices if c.parameter == parameter)


@pytest.mark.slow
@pytest.mark.parametrize("follows_image", [False, True])
def test_image_information_wins_exactly_where_it_was_put_in(tmp_path, follows_image):
    found = fit(write_raters(tmp_path, within(2.0, follows_image=follows_image)))
    image = choice(found, "image")
    if follows_image:
        assert found.maps.metric == "riemannian"
        assert found.maps.gamma > 0
        assert image.scores[image.chosen] < 0.7 * image.scores["riemannian γ 0"]
    else:
        assert image.chosen == "riemannian γ 0"
        assert image.difference.decides
        assert image.scores["riemannian γ 0"] < 0.7 * image.scores["riemannian γ 3"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.8, 1.6, 3.1])
def test_the_width_of_the_model_is_found(tmp_path, width):
    found = fit(write_raters(tmp_path, within(width, follows_image=False)))
    assert found.maps.decay == DECAY_OF[width], fitting.describe_choice(choice(found, "width"))
    assert found.alpha >= 0.85


def test_only_the_fit_half_is_read_and_a_stopped_search_goes_on(tmp_path, monkeypatch):
    root = write_raters(tmp_path, within(1.6, follows_image=False), cases=12)
    monkeypatch.setattr(fitting, "AXES", {"seeds": fitting.AXES["seeds"][:2], "iterations": fitting.AXES["iterations"]})
    monkeypatch.setattr(fitting, "DECAYS", (1.0, 0.5))
    read, measured = fitting.measure_case, []

    def noted(task):
        measured.append((task.case.id, len(task.candidates)))
        return read(task)

    monkeypatch.setattr(fitting, "measure_case", noted)
    first = fit(root)
    volumes = VolumeStore.open(root / "geols/volumes.zarr")
    half_of = halves(read_patients(root / "patients.json", volumes.cases), 0)
    assert {case for case, _ in measured} == {case for case, half in half_of.items() if half == "fit"}
    lines = (root / "fit.jsonl").read_text().splitlines(keepends=True)
    measured.clear()
    assert fit(root) == first
    assert not measured
    # the last score was not written whole
    (root / "fit.jsonl").write_text("".join(lines)[:-40])
    assert fit(root) == first
    assert {count for _, count in measured} == {1}


def test_the_command_writes_a_recipe_with_its_scores(tmp_path, monkeypatch):
    root = write_raters(tmp_path, within(1.6, follows_image=False), cases=8)
    monkeypatch.setattr(fitting, "AXES", {"seeds": fitting.AXES["seeds"][:2]})
    out = rated_stores(root)
    flags = ("--group", root / "patients.json", "--workers", "0", "-o", tmp_path / "fitted.toml")
    result = store("fit", out / "volumes.zarr", *flags)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "fitted.toml").read_text()
    assert "split by patient with seed 0" in text
    assert "# seeds: " in text
    maps = load_recipe(str(tmp_path / "fitted.toml")).maps
    assert maps.seeds in ("erosion", "boundary")
    assert maps == MapParameters().changed(**fitting.START | {"seeds": maps.seeds, "decay": maps.decay})
    rated_stores(root, "--recipe", str(tmp_path / "fitted.toml"), name="fitted")
    (tmp_path / "fitted.toml").write_text("[maps]\n")
    assert "was not written by geols" in error_line(store("fit", out / "volumes.zarr", *flags))
    (tmp_path / "fitted.toml").unlink()
    (tmp_path / "fitted.toml.jsonl").write_text('{"mine": 1}\n')
    assert "fitted.toml.jsonl: is there, and was not" in error_line(store("fit", out / "volumes.zarr", *flags))
    assert (tmp_path / "fitted.toml.jsonl").read_text() == '{"mine": 1}\n'


def test_stores_without_other_raters_cannot_be_fitted(nnunet, tmp_path):
    from geols_precompute import precompute

    precompute(nnunet(cases=1), out=tmp_path / "o", workers=0)
    result = store("fit", tmp_path / "o/volumes.zarr", "-o", tmp_path / "f.toml")
    assert "agreement needs several" in error_line(result)


def test_a_store_that_is_incomplete_is_said_to_be(tmp_path):
    root = write_raters(tmp_path, within(1.6, follows_image=False), cases=2)
    out = rated_stores(root)
    planned = [f"case{number:02d}" for number in range(5)]
    (out / "plan.json").write_text(json.dumps({"planned": planned}))  # as it is while the other three are computed
    result = store("fit", out / "volumes.zarr", "--workers", "0", "-o", tmp_path / "f.toml")
    assert "volumes.zarr is incomplete: 2 of 5 planned cases are there; geols-precompute is still" in result.output
    assert "too few patients with several raters to choose by: the store has 1 case of their" in error_line(result)
