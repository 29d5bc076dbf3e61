"""The numbers of the quality report against plain loops, and its flags on data made to have them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from train_fixtures import make_stores

from geols_precompute import LabelStore, softlabel
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.report.cases import ReportCase, read_case, volumes_of
from geols_precompute.report.flags import find_flags, rank
from geols_precompute.report.quality import measure

CLASSES = ClassTable.from_names({1: "left", 2: "right"})
RECIPE = {"maps": {"metric": "gradient"}}


@pytest.mark.parametrize("background", ["complement", "seeds"])
def test_the_numbers_of_a_case_by_plain_loops(tmp_path, background):
    labels = LabelStore.open(make_stores(tmp_path, cases=2, background=background, absent=(1,)) / "labels.zarr")
    for case_id in labels.cases:
        case = read_case(labels, volumes_of(labels, None), case_id)
        found = measure(case, 3)
        maps = softlabel.class_maps(case.maps, channels=case.channels, present=case.present, n_classes=3)
        for index in range(3):
            places = np.argwhere(case.label == index)
            assert found.voxels[index] == len(places)
            if not len(places):
                assert np.isnan(found.leaving[index])
                continue
            gs = [maps[(slice(None), *place)].astype(float) for place in places]
            assert found.leaving[index] == pytest.approx(np.mean([1 - g[index] / g.sum() for g in gs]), abs=1e-6)
            assert found.leaving_unnormalised[index] == pytest.approx(
                np.mean([g.sum() - g[index] for g in gs]), abs=1e-6
            )
            assert found.other_largest[index] == np.mean([max(np.delete(g, index)) > g[index] for g in gs])
            # α times it is what the soft label gives to others
            soft = softlabel.soft_label(case.label, maps, alpha=0.3)
            kept = soft[index][case.label == index].mean()
            assert 0.3 * found.leaving[index] == pytest.approx(1 - kept, abs=1e-6)
        assert found.histograms.sum() == case.maps.size
        assert found.anisotropy == 2.0


def made(case_id, *, shape=(12, 16, 14), spacing=(1.0, 1.0, 1.0), scale=100.0, maps=None, **changes):
    """A case with a ball on the left and a smaller one on the right."""
    rng = np.random.default_rng(sum(map(ord, case_id)))
    grid = np.indices(shape)
    label = np.zeros(shape, np.uint8)
    for value, (y, radius) in {1: (4, 3.3), 2: (11, 2.2)}.items():
        centre = np.array([6, y, 7]) + rng.uniform(-0.4, 0.4, 3)
        label[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2] = value
    if maps is None:
        maps = np.stack(
            [np.where(label == v, rng.integers(150, 256, shape), rng.integers(20, 90, shape)) for v in (1, 2)]
        )
    settings = {
        "id": case_id,
        "image": (scale * rng.random((1, *shape))).astype(np.float32),
        "label": label,
        "maps": maps.astype(np.uint8),
        "channels": (1, 2),
        "present": (1, 2),
        "spacing": spacing,
        "orientation": "LPS",
        "placed": True,
        "raters": {},
        "seeds": {1: {"count": 9, "fallbacks": 0}, 2: {"count": 7, "fallbacks": 1}},
    }
    return ReportCase(**{**settings, **changes})


def flags_of(*odd, usual=8, classes=CLASSES, recipe=RECIPE):
    cases = [measure(made(f"usual{n}"), len(classes)) for n in range(usual)] + [measure(c, len(classes)) for c in odd]
    return {flag.kind: flag.cases for flag in find_flags(cases, classes, recipe)}


def test_usual_cases_have_no_flags():
    assert flags_of() == {}


def test_vanished_and_missing_seeds_are_found():
    vanished = made("odd", seeds={1: {"count": 2, "fallbacks": 2}, 2: {"count": 7, "fallbacks": 0}})
    assert flags_of(vanished) == {"vanished seeds": ("odd",)}
    unseeded = made("odd", present=(1,), seeds={1: {"count": 2, "fallbacks": 0}})
    assert flags_of(unseeded)["no seeds"] == ("odd",)


def test_maps_that_say_nothing_are_found():
    usual = made("odd")
    one_hot = np.stack([usual.label == 1, usual.label == 2]) * 255
    nearly = one_hot * (np.random.default_rng(0).random(one_hot.shape) < 0.02)
    assert "odd" in flags_of(made("odd", maps=nearly))["near one-hot"]
    # the complement of one-hot maps is 1 - 1/2 inside each of the two classes
    assert flags_of(made("odd", maps=one_hot)) == {"flat": ("odd",)}
    alone = made("odd", maps=one_hot[:1], channels=(1,), present=(1,), label=np.where(usual.label == 2, 0, usual.label))
    assert flags_of(alone)["near one-hot"] == ("odd",)
    flat = np.full_like(one_hot, 128)
    assert flags_of(made("odd", maps=flat))["flat"] == ("odd",)
    assert flags_of(made("odd", maps=usual.maps[::-1]))["maps against labels"] == ("odd",)


def test_small_intensities_and_anisotropy_are_found():
    assert flags_of(made("odd", scale=5e-3)) == {"small intensities": ("odd",)}
    assert flags_of(made("odd", scale=5e-3), recipe={"maps": {"metric": "riemannian"}}) == {}
    assert flags_of(made("odd", spacing=(5.0, 1.0, 1.2))) == {"anisotropy": ("odd",)}
    assert flags_of(made("odd", spacing=(4.0, 1.0, 1.2))) == {}


def test_the_odd_case_comes_first_and_says_why():
    small = made("small")
    label = small.label.copy()
    label[(label == 1) & (np.arange(label.size).reshape(label.shape) % 3 > 0)] = 0
    cases = [measure(made(f"usual{n}"), 3) for n in range(9)]
    cases += [measure(replace(small, label=label), 3), measure(made("coarse", spacing=(9.0, 1.0, 1.0)), 3)]
    flags = find_flags(cases, CLASSES, RECIPE)
    order = rank(cases, CLASSES, flags)
    assert list(order)[:2] == ["coarse", "small"]
    assert order["coarse"].reason.startswith("anisotropy; ")
    assert re.match(r"size of left: \d+\.\d deviations below the median", order["small"].reason)
