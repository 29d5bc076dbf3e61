from __future__ import annotations

import hashlib

import numpy as np
import pytest

from geols_precompute import MapParameters, Recipe, compute_maps
from geols_precompute.errors import RecipeError
from geols_precompute.maps.contrast import border_contrast
from geols_precompute.maps.shuffle import shuffled
from geols_precompute.recipe.classes import IGNORE_INDEX

SHAPE = (12, 13, 14)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[3:9, 3:10, 4:11] = 1
NOISE = np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32)


def test_the_contrast_is_the_step_at_the_border():
    image = np.stack([NOISE + 80 * (LABEL > 0), NOISE - 300 * (LABEL > 0)])
    np.testing.assert_allclose(border_contrast(image, LABEL), [80, 300], atol=2)


def test_only_two_shells_on_either_side_count():
    far = NOISE + 80 * (LABEL > 0)
    far[0], far[:, :, -1] = 5000, 5000
    far[5:7, 5:8, 6:9] = -5000
    np.testing.assert_allclose(border_contrast(far[np.newaxis], LABEL), 80, atol=2)


def test_it_is_averaged_over_classes_and_leaves_ignored_voxels_out():
    label = np.zeros((9, 9, 24), np.uint8)
    label[2:7, 2:7, 3:8], label[2:7, 2:7, 15:20] = 1, 2
    image = np.choose(label, [0, 40, 100]).astype(np.float32)
    assert border_contrast(image[np.newaxis], label) == pytest.approx(70)
    label[:, :, :3] = IGNORE_INDEX
    image[:, :, :3] = 1e6
    assert border_contrast(image[np.newaxis], label) == pytest.approx(70)


def test_without_an_edge_noise_is_the_unit_and_without_noise_there_is_none():
    deviation = border_contrast(NOISE[np.newaxis], LABEL)[0]
    assert 0.5 * 0.6745 * 5 < deviation < 2 * 0.6745 * 5
    assert border_contrast(np.zeros((1, *SHAPE), np.float32), LABEL) == 1
    assert border_contrast(NOISE[np.newaxis], np.zeros(SHAPE, np.uint8)) == 1


def test_maps_do_not_depend_on_the_units_of_a_scanner():
    recipe = Recipe(maps=MapParameters().changed(preset="border"))
    image = NOISE + np.float32(80) * (LABEL > 0)
    maps = [
        compute_maps(scale * image, LABEL.astype(np.int32), (1, 1, 1), classes={1: "a"}, recipe=recipe).stored
        for scale in (np.float32(1), np.float32(512))
    ]
    np.testing.assert_array_equal(*maps)
    assert maps[0].shape == (2, *SHAPE)


def test_contrast_and_margin_are_parameters_like_any_other():
    plain, border = MapParameters().as_json(), MapParameters().changed(preset="border").as_json()
    assert "contrast" not in plain
    assert border["contrast"] == "border"
    assert MapParameters().changed(preset="border").changed(preset="default").contrast == "none"
    for seeds in ("margin-0", "margin-", "margin--1", "margin-0.000", "margin-1e3", "margin-12345"):
        with pytest.raises(RecipeError, match="seeds must be one of"):
            MapParameters(seeds=seeds)
    assert MapParameters(seeds="margin-0.5").seeds == "margin-0.5"


def shuffled_maps(image, **options):
    recipe = Recipe(maps=MapParameters().changed(preset="border", control="shuffled"))
    label = LABEL.astype(np.int32)
    return compute_maps(image, label, (1, 1, 1), classes={1: "a"}, recipe=recipe, **options).stored


def test_a_shuffled_image_has_all_its_voxels_in_other_places():
    image = np.stack([NOISE, 2 * NOISE + 1])
    there = shuffled(image, "a")
    assert not np.array_equal(there, image)
    np.testing.assert_array_equal(np.sort(there[0], axis=None), np.sort(image[0], axis=None))
    np.testing.assert_array_equal(there[1], 2 * there[0] + 1)  # modalities stay together
    np.testing.assert_array_equal(shuffled(image, "a"), there)
    assert not np.array_equal(shuffled(image, "b"), there)
    # the order is promised for ever: that of raw numbers of PCG64
    numbers = np.random.PCG64(int.from_bytes(hashlib.sha256(b"shuffled/a").digest(), "big")).random_raw(NOISE.size)
    np.testing.assert_array_equal(there[0].ravel(), NOISE.ravel()[sorted(range(NOISE.size), key=numbers.__getitem__)])


def test_maps_of_a_shuffled_image_are_those_of_the_image_that_was_shuffled_by_hand():
    image = NOISE + np.float32(80) * (LABEL > 0)
    there = shuffled_maps(image, case="a")
    np.testing.assert_array_equal(shuffled_maps(image, case="a"), there)
    assert not np.array_equal(shuffled_maps(image, case="b"), there)
    # the contrast is that of the image itself: γ = 3 mm for it
    by_hand = Recipe(maps=MapParameters().changed(preset="border", contrast="none"))
    scaled = shuffled(image[np.newaxis] / border_contrast(image[np.newaxis], LABEL)[0], "a")
    label = LABEL.astype(np.int32)
    expected = compute_maps(scaled, label, (1, 1, 1), classes={1: "a"}, recipe=by_hand, case="a").stored
    np.testing.assert_array_equal(there, expected)


def test_a_control_is_recorded_and_no_preset_changes_it():
    assert "control" not in MapParameters().as_json()
    shuffled_border = MapParameters(control="shuffled").changed(preset="border")
    assert shuffled_border.as_json()["control"] == "shuffled"
    with pytest.raises(RecipeError, match="control must be one of none, shuffled, got 'noise'"):
        MapParameters(control="noise")
