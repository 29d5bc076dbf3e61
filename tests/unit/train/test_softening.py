"""Soft labels that are made when a case is read: windows are parts of the whole, and turn with the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from raters import rated_stores, write_raters
from train_fixtures import make_fixture_reader, make_stores, tiny_config

from geols_precompute.errors import InputError
from geols_precompute.softlabel import soft_label
from geols_precompute.store.reader import VolumeStore
from geols_train.augment import augment
from geols_train.batches import collate
from geols_train.data import centre_box, whole_box
from geols_train.softening import Softening
from geols_train.targets import Mix

SPACING = (1.0, 1.5, 2.0)
SHAPE = (22, 26, 24)
OF_LABEL = ("gauss", "sdf", "dilate", "bls", "nuls")


def reader_of(out, method, **options):
    softening = Softening.of(tiny_config(out, method=method, **options))
    return replace(make_fixture_reader(out), maps_needed=False, softening=softening)


@pytest.mark.parametrize("method", OF_LABEL)
def test_a_window_is_part_of_the_soft_label_of_the_whole_volume(tmp_path, method):
    reader = reader_of(make_stores(tmp_path, cases=1, shape=SHAPE, ignore=9), method, width=0.8)
    label = reader.stores.volumes.label("case_00")
    options = {"n_classes": 3, "alpha": 0.1, "spacing": SPACING, "width": 0.8}
    whole = soft_label(label, method=method, **options)
    window = reader.window("case_00", centre_box(SHAPE, (8, 9, 10)))
    # its borders lie in the middle of both classes and beside them
    np.testing.assert_allclose(window.maps, whole[:, 7:15, 8:17, 7:17], atol=1e-7)
    beyond = reader.window("case_00", centre_box(SHAPE, (30, 9, 10)))
    np.testing.assert_allclose(beyond.maps[:, 4:26], whole[:, :, 8:17, 7:17], atol=1e-7)
    assert not beyond.maps[:, :4].any()
    cached = reader.cached(["case_00"])
    np.testing.assert_allclose(cached.window("case_00", centre_box(SHAPE, (8, 9, 10))).maps, window.maps, atol=1e-7)


@pytest.mark.parametrize("method", OF_LABEL)
def test_a_soft_label_in_mm_turns_with_the_image_and_not_its_spacing(tmp_path, method):
    reader = reader_of(make_stores(tmp_path, cases=1, shape=SHAPE), method, width=1.6)
    batch = collate([reader.window("case_00", whole_box(SHAPE))]).normalised()
    mix = Mix(method=method)
    for seed in range(6):
        turned = batch.with_spatial(augment(batch.spatial(), "paper", np.random.default_rng(seed)))
        soft = mix.soft_label(batch.label, batch.maps, batch.present, 3)
        (expected,) = augment([soft], "paper", np.random.default_rng(seed))
        assert torch.equal(mix.soft_label(turned.label, turned.maps, turned.present, 3), expected)


def test_other_methods_make_nothing_on_load(tmp_path):
    for method in ("geols", "ce", "ls", "fl", "svls", "nacl", "mbls"):
        assert Softening.of(tiny_config(tmp_path, method=method)) is None


def test_the_mean_of_raters_is_what_they_drew(tmp_path):
    def drawn(label, seed, count):
        return [np.roll(label, shift, axis=2) for shift in range(1, count + 1)]

    volumes = VolumeStore.open(rated_stores(write_raters(tmp_path / "d", drawn, cases=1, raters=4)) / "volumes.zarr")
    softening = Softening.of(tiny_config(tmp_path, method="raters"))
    label = volumes.label("case00")
    assert label.any()
    expected = np.mean([np.roll(label, shift, axis=2) for shift in range(4)], axis=0)
    soft = softening.soft_label(volumes, "case00", None)
    np.testing.assert_allclose(soft[1], expected, atol=1e-6)
    np.testing.assert_allclose(soft[0], 1 - expected, atol=1e-6)
    window = (slice(3, 15), slice(5, 12), slice(0, 22))
    np.testing.assert_array_equal(softening.soft_label(volumes, "case00", window), soft[(slice(None), *window)])


def test_a_store_without_raters_is_refused_before_training(tmp_path):
    reader = reader_of(make_stores(tmp_path, cases=1), "raters")
    with pytest.raises(InputError, match="keeps no raters; make it with geols-precompute --keep-raters"):
        reader.examined("case_00")
