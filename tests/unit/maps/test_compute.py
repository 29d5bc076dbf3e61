from __future__ import annotations

import numpy as np
import pytest
from datasets import ball_case

from geols_precompute import compute_maps
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.maps.case import MapStream
from geols_precompute.maps.decay import make_maps
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import SEED_STRATEGIES, MapParameters, Recipe
from geols_precompute.store.reader import LabelStore, VolumeStore

CLASSES = ClassTable.from_names({1: "a", 2: "b", 3: "never there"})
SPACING = (2.0, 1.0, 1.0)


def compute(image, label, case="case", **parameters):
    return MapStream(
        image,
        label,
        SPACING,
        parameters=MapParameters(**parameters),
        classes=CLASSES,
        modalities=[f"m{m}" for m in range(len(image))],
        case=case,
    ).whole()


@pytest.mark.parametrize("seeds", [s.replace("K", "3").replace("W", "2") for s in SEED_STRATEGIES])
@pytest.mark.parametrize("metric", ["gradient", "riemannian"])
def test_every_strategy_and_metric_gives_maps_of_one_on_their_seeds(seeds, metric):
    image, label = ball_case(1)
    case = compute(image, label, seeds=seeds, metric=metric)
    assert case.stored.shape == (3, *label.shape)
    assert case.channels == (1, 2, 3)
    assert case.present == (0, 1, 2)
    assert not case.stored[2].any()
    for index in (1, 2):
        assert (case.stored[index - 1] == 255).sum() >= case.seeds[index].count
        assert case.stored[index - 1].min() == 0
        assert case.statistics[index].low == 0


def test_modalities_average_is_the_mean_of_single_maps_and_joint_is_not():
    image, label = ball_case(2, modalities=3)
    average = compute(image, label).stored.astype(int)
    singles = [compute(image, label, modalities=f"m{m}").stored for m in range(3)]
    np.testing.assert_allclose(average, np.mean(singles, axis=0), atol=1.01)
    joint = compute(image, label, modalities="joint").stored.astype(int)
    assert np.abs(joint - average).max() > 5


def test_background_with_seeds_is_a_channel_of_its_own():
    image, label = ball_case(3)
    case = compute(image, label, background="seeds")
    assert case.channels == (0, 1, 2, 3)
    assert case.present == (0, 1, 2)
    assert case.stored[0].max() == 255
    np.testing.assert_array_equal(case.stored[1:], compute(image, label).stored)


def test_ignored_voxels_have_no_seeds():
    image, label = ball_case(4)
    label[label == 2] = 255
    case = compute(image, label, seeds="boundary")
    assert case.present == (0, 1)
    assert 2 not in case.seeds


def test_random_seeds_depend_on_case_and_random_seed():
    image, label = ball_case(5)
    a = compute(image, label, seeds="random-3")
    np.testing.assert_array_equal(a.stored, compute(image, label, seeds="random-3").stored)
    assert (a.stored != compute(image, label, seeds="random-3", case="other").stored).any()
    assert (a.stored != compute(image, label, seeds="random-3", random_seed=1).stored).any()


def test_intensities_scaled_up_give_the_same_maps_and_tiny_ones_a_note():
    image, label = ball_case(6)
    plain, scaled = compute(image, label), compute(image * np.float32(64), label)
    np.testing.assert_allclose(plain.stored.astype(int), scaled.stored.astype(int), atol=1)
    assert not plain.notes
    tiny = compute(image / np.float32(1e5), label)
    assert "outweighs the image" in tiny.notes[0]
    assert not compute(image / np.float32(1e5), label, lam=0.0).notes


def test_constant_images_and_single_voxels_do_not_break():
    label = np.zeros((5, 6, 7), np.uint8)
    label[2, 3, 3] = 1
    case = compute(np.zeros((1, 5, 6, 7), np.float32), label)
    assert case.stored[0, 2, 3, 3] == 255
    everywhere = np.ones((4, 4, 4), np.uint8)
    assert compute(np.zeros((1, 4, 4, 4), np.float32), everywhere).present == (1,)


def test_statistics_of_averaged_modalities_cover_all_of_them():
    image, label = ball_case(7, modalities=2)
    both = compute(image, label).statistics[1]
    firsts = [compute(image[[m]], label).statistics[1] for m in range(2)]
    assert both.mean == pytest.approx(np.mean([s.mean for s in firsts]))
    assert both.high == max(s.high for s in firsts)
    assert make_maps(np.zeros((1, 1, 1, 1), np.float32), "mean")[0].mean == 0


# --- the public function --------------------------------------------------------------------------------------------


def assert_same_maps(one, other):
    np.testing.assert_array_equal(one.stored, other.stored)
    for name in ("channels", "present", "classes", "seeds", "statistics", "notes"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"seeds": "random-3", "random_seed": 4},
        {"metric": "riemannian", "iterations": "exact", "background": "seeds"},
    ],
)
def test_compute_maps_takes_file_values_and_gives_the_maps_of_a_case(parameters):
    image, indices = ball_case(8, modalities=2)
    values = np.array([0, 5, 9], np.int32)[indices]
    values[:2] = 200
    indices[:2] = 255
    classes = ClassTable.from_names({5: "a", 9: "b"}, ignore=200)
    recipe = Recipe(maps=MapParameters(**parameters))
    maps = compute_maps(image, values, SPACING, classes=classes, recipe=recipe, case="one")
    assert_same_maps(
        maps,
        MapStream(
            image,
            indices,
            SPACING,
            parameters=recipe.maps,
            classes=classes,
            modalities=("modality 0", "modality 1"),
            case="one",
        ).whole(),
    )


def test_compute_maps_takes_names_of_classes_and_the_ignore_value_of_the_recipe():
    image, label = ball_case(9)
    label[:2] = 200
    table = ClassTable.from_names({1: "a", 2: "b"}, ignore=200)
    expected = compute_maps(image, label, SPACING, classes=table)
    assert_same_maps(compute_maps(image, label, SPACING, classes={1: "a", 2: "b"}, recipe=Recipe(ignore=200)), expected)
    with pytest.raises(InputError, match="label values without a class: 200"):
        compute_maps(image, label, SPACING, classes={1: "a", 2: "b"})


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_an_image_of_one_modality_needs_no_axis_for_it_and_a_label_may_be_of_any_integer(dtype):
    image, label = ball_case(10)
    expected = compute_maps(image, label, SPACING, classes=CLASSES)
    assert_same_maps(compute_maps(image[0], label.astype(dtype), SPACING, classes=CLASSES), expected)


def test_compute_maps_gives_what_a_store_holds(nnunet, tmp_path):
    from geols_precompute import precompute

    recipe = Recipe(maps=MapParameters(seeds="random-4", modalities="m1"))
    precompute(nnunet(cases=2, modalities=2), recipe=recipe, out=tmp_path, workers=0)
    labels, volumes = LabelStore.open(tmp_path / "labels.zarr"), VolumeStore.open(tmp_path / "volumes.zarr")
    for case in labels:
        maps = compute_maps(
            volumes.intensities(case),
            np.array(labels.classes.values)[volumes.label(case)],
            volumes.metadata(case).geometry.spacing_zyx,
            classes=labels.classes,
            recipe=recipe,
            modalities=volumes.modalities,
            case=case,
        )
        np.testing.assert_array_equal(maps.stored, labels.maps(case))
        np.testing.assert_array_equal(maps.class_maps(), labels.class_maps(case))
        assert (maps.channels, maps.present, maps.classes) == (labels.channels, labels.present(case), labels.classes)


def test_a_modality_is_chosen_by_its_name():
    image, label = ball_case(11, modalities=2)
    recipe = Recipe(maps=MapParameters(modalities="t1"))
    second = compute_maps(image[1], label, SPACING, classes=CLASSES)
    chosen = compute_maps(image, label, SPACING, classes=CLASSES, recipe=recipe, modalities=("flair", "t1"))
    np.testing.assert_array_equal(chosen.stored, second.stored)
    for modalities in (None, ("flair", "t2"), ("t1",)):
        with pytest.raises(InputError, match=r"image has 2 modalities, named .*; the recipe asks for t1"):
            compute_maps(image, label, SPACING, classes=CLASSES, recipe=recipe, modalities=modalities)
    with pytest.raises(InputError, match="image has 2 modalities, named ct; the recipe asks for average"):
        compute_maps(image, label, SPACING, classes=CLASSES, modalities=("ct",))


def test_a_label_without_foreground_gives_maps_of_zero():
    image, label = ball_case(12)
    maps = compute_maps(image, label * 0, SPACING, classes=CLASSES)
    assert maps.stored.shape == (3, *label.shape)
    assert not maps.stored.any()
    assert (maps.channels, maps.present, maps.seeds, maps.statistics) == ((1, 2, 3), (0,), {}, {})
    np.testing.assert_array_equal(maps.class_maps()[0], 1)
    assert not maps.class_maps()[1:].any()


GOOD_IMAGE, GOOD_LABEL = ball_case(13)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image": GOOD_IMAGE.astype(np.float64)}, "image .*float32"),
        ({"image": GOOD_IMAGE[0, 0]}, "image"),
        ({"image": GOOD_IMAGE[:, :-1]}, r"label is uint8 of shape \(12, 14, 16\); it must be .* \(11, 14, 16\)"),
        ({"image": np.where(GOOD_LABEL > 0, np.nan, GOOD_IMAGE[0]).astype(np.float32)}, "image .*NaN"),
        ({"label": GOOD_LABEL[1:]}, r"label is uint8 of shape \(11, 14, 16\)"),
        ({"label": GOOD_LABEL[np.newaxis]}, r"label is uint8 of shape \(1, 12, 14, 16\)"),
        ({"label": GOOD_LABEL.astype(np.float32)}, "label is float32 .* must be whole numbers"),
        ({"label": GOOD_LABEL > 0}, "label is bool .* must be whole numbers"),
        ({"label": GOOD_LABEL + 7}, "label values without a class: 7 .*, 8 .*, 9 .*; named are 0, 1, 2, 3"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, says):
    given = {"image": GOOD_IMAGE, "label": GOOD_LABEL, "spacing": SPACING} | changed
    with pytest.raises(InputError, match=says):
        compute_maps(given["image"], given["label"], given["spacing"], classes=CLASSES)


def test_classes_that_are_no_table_are_refused():
    with pytest.raises(RecipeError, match="no foreground class"):
        compute_maps(GOOD_IMAGE, GOOD_LABEL, SPACING, classes={})
