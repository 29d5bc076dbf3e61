"""Preset `code` against the published recipe, on random volumes and on real ones."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import ball_case

from geols_precompute.data.volumes import read_volume
from geols_precompute.maps.case import MapStream, float_maps
from geols_precompute.maps.seeds import class_seeds
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters

pytest.importorskip("GeodisTK", reason="GeodisTK is not installed; make test builds it")
from published import published_maps

ENGINES = ("numba", "geodistk")


def numbered(n_classes: int) -> ClassTable:
    return ClassTable.from_names({i: str(i) for i in range(1, n_classes)})


def assert_parity(image, label, spacing, n_classes, engine):
    parameters = MapParameters().changed(preset="code", engine=engine)
    expected = published_maps(image, label, spacing, n_classes)
    present = [i for i in range(1, n_classes) if expected[i - 1].any()]
    masks = np.array([class_seeds(label == i, "skeleton", spacing, fallback=False)[0] for i in present])
    maps = float_maps(image, masks, spacing, parameters)
    np.testing.assert_allclose(maps.sums / np.float32(maps.count), expected[[i - 1 for i in present]], atol=1e-5)
    case = MapStream(
        image,
        label,
        spacing,
        parameters=parameters,
        classes=numbered(n_classes),
        modalities=[str(m) for m in range(len(image))],
        case="a",
    ).whole()
    assert [i for i in case.present if i] == present
    assert np.abs(case.stored / 255 - expected.astype(np.float64)).max() <= 0.5 / 255 + 1e-5
    assert case.stored.any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_random_volumes(seed, engine):
    image, label = ball_case(seed, (13, 17, 15), modalities=1 + seed % 3, classes=2 + seed % 2)
    assert_parity(image, label, (2.5, 1.0, 0.7), 3 + seed % 2, engine)


def test_a_class_whose_skeleton_vanishes_counts_as_absent():
    image, label = ball_case(0, (12, 12, 12), classes=1)
    label[:] = label * 0
    label[1:5, 1:5, 1:5] = 1
    label[6:11, 6:11, 6:11] = 2
    assert_parity(image, label, (1, 1, 1), 3, "numba")


@pytest.mark.parametrize("engine", ENGINES)
def test_real_hippocampus(real_data, engine):
    folder = real_data("hippocampus")
    for image in sorted((folder / "imagesTr").iterdir())[:3]:
        label = folder / "labelsTr" / image.name.replace("_0000", "")
        volume = read_volume([image], label, modalities=1)
        assert_parity(volume.image, numbered(3).indices(volume.label), volume.geometry.spacing_zyx, 3, engine)


def test_real_ct(real_data):
    folder = real_data("flare/ct_001")
    volume = read_volume([folder / "ct_001_img.nii.gz"], folder / "ct_001_seg.nii.gz", modalities=1)
    label = numbered(5).indices(volume.label)
    assert_parity(volume.image, label, volume.geometry.spacing_zyx, 5, "numba")
