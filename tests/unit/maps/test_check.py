"""The check case: defined by the format document, the same on every processor, another for another recipe."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from geols_precompute import MapParameters, Recipe, compute_maps
from geols_precompute.errors import RecipeError
from geols_precompute.maps.check import check_sha256

#: Part of the format: stores that were given away hold it.
DEFAULT = "ec50c7ca420183b980da453d589e418c0d0ec96727eb78a3c91a79ad510ce085"


def check_case(modalities):
    """The volume that the format document describes, voxel by voxel."""
    image = np.zeros((modalities, 13, 24, 37), np.float32)
    label = np.zeros((13, 24, 37), np.int32)
    for z, y, x in np.ndindex(label.shape):
        if 36 * (z - 6) ** 2 + 9 * (y - 11) ** 2 + 4 * (x - 14) ** 2 < 900:
            label[z, y, x] = 1
        if 4 <= z <= 8 and 9 <= y <= 17 and 17 <= x <= 26:
            label[z, y, x] = 2
        if 1 <= z <= 3 and 1 <= y <= 4 and 30 <= x <= 35:
            label[z, y, x] = 1
        if (z, y, x) == (11, 21, 3):
            label[z, y, x] = 3
        for m in range(modalities):
            texture = (7 * z * z + 13 * x * y + 3 * x * x + 5 * y + m * (11 * z + 17 * x)) % 61
            image[m, z, y, x] = 100 * label[z, y, x] + texture
    return image, label


RECIPES = {
    "default": (MapParameters(), 1),
    "erosion": (MapParameters(seeds="erosion", seed_fallback=False), 2),
    "random": (MapParameters(seeds="random-5", random_seed=3, background="seeds"), 1),
    "paper": (MapParameters().changed(preset="paper"), 1),
    "joint": (MapParameters(modalities="joint"), 5),
    "shuffled": (MapParameters(control="shuffled"), 1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_case_is_the_one_in_the_format_document(name):
    parameters, modalities = RECIPES[name]
    image, label = check_case(min(modalities, 2))
    maps = compute_maps(
        image, label, (2.5, 1.25, 0.75), classes={1: "a", 2: "b", 3: "c"}, recipe=Recipe(maps=parameters), case="check"
    )
    assert {0, 1, 2} <= {*maps.present}  # erosion leaves nothing of one voxel
    assert check_sha256(parameters, modalities) == hashlib.sha256(maps.stored.tobytes()).hexdigest()


def test_the_digest_of_the_default_recipe_does_not_change():
    assert check_sha256(MapParameters(), 1) == DEFAULT


def test_another_recipe_has_another_digest():
    digests = [check_sha256(parameters, modalities) for parameters, modalities in RECIPES.values()]
    assert len(set(digests)) == len(RECIPES)


def test_one_modality_is_one_image_whatever_its_name():
    assert check_sha256(MapParameters(modalities="flair"), 4) == DEFAULT


@pytest.mark.parametrize("parameters", [MapParameters(iterations=10**6), MapParameters(seeds="random-999999")])
def test_what_a_stranger_may_ask_for_takes_no_longer(parameters):
    assert len(check_sha256(parameters, 10**6)) == 64


@pytest.mark.parametrize("parameters", [parameters for parameters, _ in RECIPES.values()])
def test_parameters_of_a_store_are_read_back(parameters):
    assert MapParameters.from_json(parameters.as_json()).as_json() == parameters.as_json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": {"name": "numba", "version": 99}}, "maps.*version"),
        ({"engine": {"name": "abacus", "version": 1}}, "engine must be one of"),
        ({"engine": None}, "cannot be read"),
        ({"colour": "red"}, "unknown map parameter 'colour'"),
        ({"gamma": 2.0}, "gamma"),
        ({"lam": "much"}, "lam must be in"),
    ],
)
def test_a_recipe_of_another_release_is_refused(change, says):
    with pytest.raises(RecipeError, match=says):
        MapParameters.from_json(MapParameters().as_json() | change)
