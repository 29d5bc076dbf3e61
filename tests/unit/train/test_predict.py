"""Prediction from source files: the run's preprocessing, the source's grid, the files' values."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from datasets import write
from train_fixtures import (
    GRID,
    label_like,
    make_stores,
    open_fixture,
    predictor,
    tiny_config,
)

from geols_precompute.data.geometry import Geometry
from geols_precompute.data.prepare import prepare, to_int16
from geols_precompute.data.volumes import Volume, read_image, read_volume
from geols_precompute.errors import InputError, OutputError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, TrainingHints
from geols_train.checkpoint import NetworkSpec
from geols_train.data import CaseReader
from geols_train.predict import Predictor, label_map, network_input, resample_probabilities
from geols_train.run import train_and_test


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_label_like_image_comes_back_on_its_rotated_anisotropic_grid(tmp_path, ending):
    source = write(label_like() * 100, tmp_path / f"in/p1{ending}", **GRID)
    judge = predictor(window=(9, 14, 17))
    (case,), _ = judge.find(tmp_path / "in")
    path = judge.predict(case, tmp_path / "out", probabilities=True)
    found, geometry, _ = read_image(path)
    np.testing.assert_array_equal(found[0], np.array([0, 7, 300])[label_like()])
    _, expected, _ = read_image(source)
    for name in ("size", "spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(geometry, name), getattr(expected, name), atol=1e-6)
    probabilities, on_grid, _ = read_image(tmp_path / "out/p1_probabilities.nii.gz")
    assert probabilities.shape == (3, 9, 14, 17)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(on_grid.direction, expected.direction, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p1.nii.gz", "p1_probabilities.nii.gz"]


def test_a_resampled_prediction_comes_back_on_the_source_grid(tmp_path):
    write(label_like() * 100, tmp_path / "p1.nii.gz", **GRID)
    judge = predictor(spacing=(1.0, 1.0, 1.0), window=(26, 18, 12))
    (case,), _ = judge.find(tmp_path / "p1.nii.gz")
    found, geometry, _ = read_image(judge.predict(case, tmp_path / "out"))
    _, expected, _ = read_image(tmp_path / "p1.nii.gz")
    assert geometry.size == expected.size
    np.testing.assert_allclose(geometry.direction, expected.direction, atol=1e-6)
    # linear interpolation there and back blurs borders by less than a voxel
    assert np.mean(found[0] == np.array([0, 7, 300])[label_like()]) > 0.9
    assert (found[0][4, 6:8, 7:10] == 300).all()


def test_a_file_that_is_no_prediction_is_not_replaced(tmp_path):
    write(label_like() * 100, tmp_path / "in/p1.nii.gz", **GRID)
    judge = predictor(window=(9, 14, 17))
    (case,), _ = judge.find(tmp_path / "in")
    truth = write(label_like().astype(np.uint8), tmp_path / "labelsTr/p1.nii.gz", **GRID)
    before = truth.read_bytes()
    with pytest.raises(OutputError, match=r"p1.nii.gz: is there, and was not written by geols; move it away, or name"):
        judge.predict(case, truth.parent)
    assert truth.read_bytes() == before
    (tmp_path / "link").mkdir()
    (tmp_path / "link/p1.nii.gz").symlink_to(truth)
    with pytest.raises(OutputError, match="is a link"):
        judge.predict(case, tmp_path / "link")
    probabilities = write(label_like().astype(np.uint8), tmp_path / "out/p1_probabilities.nii.gz", **GRID)
    with pytest.raises(OutputError, match=r"p1_probabilities.nii.gz: is there"):
        judge.predict(case, probabilities.parent, probabilities=True)
    # one of ours is replaced, to the same bytes
    path = judge.predict(case, probabilities.parent)
    once = path.read_bytes()
    assert judge.predict(case, probabilities.parent).read_bytes() == once


def test_resampling_returns_a_linear_field_as_it_was():
    source = Geometry(size=(17, 14, 9), spacing=(0.7, 1.3, 2.9), origin=(1, 2, 3), direction=tuple(np.eye(3).ravel()))
    z, y, x = np.indices((9, 14, 17))
    field = (0.7 * x + 1.3 * y + 2.9 * z).astype(np.float32)
    volume = Volume(image=field[None], label=None, geometry=source)
    prepared = prepare(volume, Preprocessing(modalities=("ct",), spacing=(1.0, 1.0, 1.0)))
    back = resample_probabilities(prepared.image, prepared.geometry, source)[0]
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(back[inner], field[inner], atol=1e-3)


def test_the_network_sees_the_same_numbers_as_in_training(tmp_path):
    image = np.random.default_rng(0).normal(10, 3, (1, 4, 5, 6)).astype(np.float32)
    stored, _, _ = to_int16(image)
    expected = (stored - stored.mean()) / stored.std()
    np.testing.assert_allclose(network_input(image, predictor().spec), expected, atol=1e-4)


@pytest.mark.parametrize("skull_stripped", [False, True])
def test_a_file_gives_the_same_input_as_the_store(tmp_path, skull_stripped):
    stores = open_fixture(make_stores(tmp_path, cases=1, hints=TrainingHints(skull_stripped=skull_stripped)))
    reader = CaseReader(stores=stores, maps_needed=False)
    stored = stores.volumes.image("case_00")
    expected = reader.examined("case_00").apply(stored)
    spec = replace(predictor().spec, skull_stripped=skull_stripped)
    np.testing.assert_array_equal(network_input(stored.astype(np.float32), spec), expected)


@pytest.mark.parametrize(("values", "dtype"), [({1: "a"}, np.uint8), ({300: "a"}, np.int16), ({70000: "a"}, np.int32)])
def test_the_smallest_type_that_holds_the_values(values, dtype):
    spec = NetworkSpec(
        features=(4,),
        classes=ClassTable.from_names(values),
        skull_stripped=False,
        window=(1, 1, 1),
        overlap=0.0,
        preprocessing=Preprocessing(modalities=("ct",)),
        regions={},
    )
    found = label_map(np.array([0.2, 0.8], np.float32).reshape(2, 1, 1, 1), spec)
    assert found.dtype == dtype
    assert found.item() == max(values)


def test_a_run_folder_alone_is_enough_and_repeats_are_named(tmp_path):
    out = make_stores(tmp_path / "data/geols", modalities=2)
    train_and_test(tiny_config(out, epochs=1), tmp_path / "run")
    (tmp_path / "data").rename(tmp_path / "gone")
    (tmp_path / "alone").mkdir()
    (tmp_path / "run/best.pt").rename(tmp_path / "alone/best.pt")
    rng = np.random.default_rng(0)
    for channel in range(2):
        write(rng.normal(size=(7, 9, 8)).astype(np.float32), tmp_path / f"images/x_{channel:04d}.nii.gz", **GRID)
    judge = Predictor.of_run(tmp_path / "alone", device="cpu")
    (case,), _ = judge.find(tmp_path / "images")
    found, _, _ = read_image(judge.predict(case, tmp_path / "out"))
    assert set(np.unique(found)) <= {0, 2, 5}
    for n in (1, 2):
        (tmp_path / f"many/repeat-{n}").mkdir(parents=True)
        (tmp_path / f"many/repeat-{n}/best.pt").touch()
    with pytest.raises(InputError, match="holds 2 repeats; name one of them"):
        Predictor.of_run(tmp_path / "many")


def test_what_cannot_be_predicted(tmp_path):
    write(np.zeros((2, 4, 5, 6), np.float32)[0], tmp_path / "in/a.nii.gz")
    judge = predictor()
    (case,), _ = judge.find(tmp_path / "in")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        judge.predict(case, tmp_path / "file")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.float32)), str(tmp_path / "in/b.nii.gz"))
    with pytest.raises(InputError, match="3-D"):
        judge.predict(next(c for c in judge.find(tmp_path / "in")[0] if c.id == "b"), tmp_path / "out")


def test_a_range_eaten_by_one_voxel_is_said(tmp_path):
    image = np.random.default_rng(0).normal(40, 10, (6, 7, 8)).astype(np.float32)
    notes = []
    for value in (60, 1e9):
        image[0, 0, 0] = value
        write(image, tmp_path / f"in{value:g}/a.nii.gz")
        ((case,), _) = predictor().find(tmp_path / f"in{value:g}")
        assert not notes
        predictor().predict(case, tmp_path / "out", on_note=notes.append)
    (note,) = notes
    assert re.search(
        r"intensities of \w+ span .* to 1e\+09, which leaves 1 level of the \d+ in 99 % of the voxels", note
    )


def test_read_volume_without_a_label(tmp_path):
    path = write(label_like(), tmp_path / "a.nii.gz", **GRID)
    assert read_volume([path], None, modalities=1).label is None


def test_a_label_map_given_as_an_image_is_noted(tmp_path):
    write(label_like().astype(np.uint8), tmp_path / "in/drawn.nii.gz")
    noise = np.random.default_rng(0).integers(0, 200, label_like().shape).astype(np.int16)
    write(noise, tmp_path / "in/image.nii.gz")
    judge = predictor()
    found = {}
    for case in judge.find(tmp_path / "in")[0]:
        judge.predict(case, tmp_path / "out", on_note=found.setdefault(case.id, []).append)
    assert found == {"image": [], "drawn": ["is this a label map? Its only values are 0, 1, 2"]}
