"""A mask per organ: merged by the class table, overlaps refused or ordered, and left alone by prediction."""

from __future__ import annotations

import numpy as np
import pytest
from commands import error_line, precompute
from datasets import write

from geols_precompute.data.layouts import discover
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.errors import InputError
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_train.evaluate_files import find_pairs

SHAPE = (8, 10, 12)
IMAGE = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.float32)
LIVER, SPLEEN, SPINE = (np.zeros(SHAPE, np.uint8) for _ in range(3))
LIVER[1:5, 2:7, 2:8] = 1
SPLEEN[5:7, 2:7, 2:8] = 255
SPINE[1:7, 8:9, 3:5] = 1


def case(folder, **masks):
    write(IMAGE, folder / "ct.nii.gz")
    for name, mask in masks.items():
        write(mask, folder / f"segmentations/{name}.nii.gz")


@pytest.fixture
def data(tmp_path):
    # vertebrae_T1 looks like the T1 image of BraTS
    for number in range(2):
        case(tmp_path / f"data/s{number}", liver=LIVER, spleen=SPLEEN, vertebrae_T1=SPINE)
    return tmp_path / "data"


def test_masks_become_one_label_map_by_the_class_table(data):
    result = precompute("--classes", "5=liver,2=spleen", data)
    assert result.exit_code == 0, result.output
    assert "note: 1 mask of a case counts as background: vertebrae_T1" in result.output
    volumes = VolumeStore.open(data / "geols/volumes.zarr")
    assert volumes.preprocessing.modalities == ("ct",)
    assert volumes.classes.names == ("background", "spleen", "liver")
    expected = np.where(LIVER > 0, 2, np.where(SPLEEN > 0, 1, 0))
    for name in ("s0", "s1"):
        np.testing.assert_array_equal(volumes.label(name), expected)
    assert LabelStore.open(data / "geols/labels.zarr").cases == ("s0", "s1")
    assert "2 unchanged" in precompute("--classes", "5=liver,2=spleen", data).output


def test_without_a_class_table_the_line_that_names_all_is_shown(data):
    line = error_line(precompute(data))
    assert "--classes 1=liver,2=spleen,3=vertebrae_T1" in line
    assert "no case has a mask of lung; there are liver, spleen, vertebrae_T1" in error_line(
        precompute("--classes", "1=lung", data)
    )


def test_overlapping_masks_are_refused_with_their_names_and_voxels_or_ordered(data, tmp_path):
    tumour = np.zeros(SHAPE, np.uint8)
    tumour[4:6, 3:6, 3:6] = 1
    counts = {name: int(np.count_nonzero(mask & tumour)) for name, mask in (("liver", LIVER), ("spleen", SPLEEN))}
    assert counts == {"liver": 9, "spleen": 9}
    write(tumour, data / "s1/segmentations/tumour.nii.gz")
    write(np.zeros(SHAPE, np.uint8), data / "s0/segmentations/tumour.nii.gz")
    result = precompute("--classes", "1=liver,2=spleen,3=tumour", data)
    assert result.exit_code == 1
    assert "failed: s1: " in result.output
    assert "masks overlap: liver and tumour in 9, spleen and tumour in 9 voxels" in result.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'mask_order = ["tumour", "liver", "spleen"]\n[classes]\n1 = "liver"\n2 = "spleen"\n3 = "tumour"\n'
    )
    assert precompute("--recipe", recipe, "--out", tmp_path / "out", data).exit_code == 0
    expected = np.where(SPLEEN > 0, 2, np.where(LIVER > 0, 1, np.where(tumour > 0, 3, 0)))
    volumes = VolumeStore.open(tmp_path / "out/volumes.zarr")
    np.testing.assert_array_equal(volumes.label("s1"), expected)
    assert volumes.recipe["mask_order"] == ["tumour", "liver", "spleen"]
    # one of two that is not in the order
    recipe.write_text('mask_order = ["liver", "tumour"]\n[classes]\n1 = "liver"\n2 = "spleen"\n3 = "tumour"\n')
    result = precompute("--recipe", recipe, "--out", tmp_path / "out2", data)
    assert "masks overlap: spleen and tumour in 9 voxels" in result.output
    recipe.write_text('mask_order = ["lung"]\n[classes]\n1 = "liver"\n')
    assert "mask_order names lung, which is no class" in error_line(precompute("--recipe", recipe, data))


def test_an_order_of_masks_without_masks_is_refused(nnunet, tmp_path):
    (tmp_path / "r.toml").write_text('mask_order = ["organ1"]\n')
    assert "mask_order belongs to data with a mask per organ" in error_line(
        precompute("--recipe", tmp_path / "r.toml", nnunet())
    )


def test_what_is_no_mask_or_not_there_costs_its_case_alone(data):
    write(LIVER + SPLEEN // 255 * 2, data / "s0/segmentations/liver.nii.gz")
    (data / "s1/segmentations/spleen.nii.gz").unlink()
    result = precompute("--classes", "1=liver,2=spleen", data)
    assert result.exit_code == 1
    assert "liver.nii.gz: is no binary mask, which holds 0 and one other value; it has 0, 1, 2" in result.output
    assert "s1/segmentations: no mask of spleen; write an empty one" in result.output
    # a digest of nothing helps nobody
    assert "digest" not in result.output
    assert "no case is in the store" in result.output


def test_prediction_takes_the_images_and_no_mask(data):
    cases, problems = find_images(data, ("ct",))
    assert ([c.id for c in cases], problems) == (["s0", "s1"], ())
    assert [c.images for c in cases] == [(data / f"s{n}/ct.nii.gz",) for n in range(2)]
    assert [c.id for c in find_images(data / "s1", ("ct",))[0]] == ["s1"]


def test_evaluation_names_what_it_cannot_compare(data, tmp_path):
    write(LIVER, tmp_path / "predictions/s0.nii.gz")
    with pytest.raises(InputError, match="has a mask per organ"):
        find_pairs(tmp_path / "predictions", data)


def test_one_case_folder_is_a_data_set_too(data):
    assert [c.id for c in discover(data / "s0").cases] == ["s0"]
