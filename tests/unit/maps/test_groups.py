"""Classes are computed a few at a time: the same maps, in memory that does not grow with the class table."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from geols_precompute.maps.case import MapStream
from geols_precompute.recipe import parameters as module
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters


def slabs(shape, classes):
    """An image of two modalities, and a label of slabs along x; class 3 is absent."""
    generator = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    for index in range(1, classes + 1):
        label[1:-1, 1:-1, 3 * index : 3 * index + 2] = 0 if index == 3 else index
    return generator.normal(0, 100, (2, *shape)).astype(np.float32), label


def maps_of(image, label, classes, **parameters):
    return MapStream(
        image,
        label,
        (2.0, 1.0, 1.5),
        parameters=MapParameters().changed(**parameters),
        classes=ClassTable.from_names({i: f"c{i}" for i in range(1, classes + 1)}),
        modalities=["a", "b"],
        case="x",
    ).whole()


@pytest.mark.parametrize("modalities", ["average", "joint", "a"])
@pytest.mark.parametrize("background", ["complement", "seeds"])
def test_groups_change_no_byte(monkeypatch, modalities, background):
    image, label = slabs((7, 8, 40), 11)
    options = {"modalities": modalities, "background": background, "seeds": "random-3"}
    found = []
    for at_once in (1, 4, 50):
        monkeypatch.setattr(module, "CHANNELS_AT_ONCE", at_once)
        found.append(maps_of(image, label, 11, **options))
    for other in found[1:]:
        np.testing.assert_array_equal(other.stored, found[0].stored)
        assert (other.present, other.seeds, other.statistics) == (found[0].present, found[0].seeds, found[0].statistics)
    assert found[0].present == tuple(index for index in range(12) if index != 3)
    assert found[0].stored[found[0].channels.index(11)].max() == 255


def test_a_class_more_takes_only_its_bytes():
    image, label = slabs((24, 40, 80), 24)

    def peak(classes):
        tracemalloc.start()
        maps_of(image, np.where(label > classes, 0, label).astype(np.uint8), classes)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(24)  # kernels are compiled, modules imported, and the thread has its memory
    extra = peak(24) - peak(8)
    assert extra < 1.2 * 16 * label.size
