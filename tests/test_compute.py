from __future__ import annotations

import numpy as np
import pytest
from conftest import ball_case

from geols_precompute.maps.case import compute_maps
from geols_precompute.maps.decay import add_map
from geols_precompute.recipe.parameters import SEED_STRATEGIES, MapParameters, class_table

CLASSES = class_table({1: "a", 2: "b", 3: "never there"})
SPACING = (2.0, 1.0, 1.0)


def compute(image, label, case_id="case", **parameters):
    return compute_maps(
        image, label, SPACING, parameters=MapParameters(**parameters), classes=CLASSES,
        modalities=[f"m{m}" for m in range(len(image))], case_id=case_id,
    )  # fmt: skip


@pytest.mark.parametrize("seeds", [s.replace("K", "3") for s in SEED_STRATEGIES])
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
    assert (a.stored != compute(image, label, seeds="random-3", case_id="other").stored).any()
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
    assert add_map(np.zeros((1, 1, 1), np.float32), "mean", np.zeros((1, 1, 1), np.float32)).mean == 0
