"""Volumes are turned by flips and swaps of axes only, and what is predicted on them comes back."""

from __future__ import annotations

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from test_declared_geometry import (
    AXES,
    OTHER_AXES,
    QFORM,
    SHAPE_XYZ,
    TILTED,
    Brightness,
    Header,
    of_geometry,
    overlay,
)

from geols_precompute.cli.precompute import precompute as command
from geols_precompute.data.cases import Case
from geols_precompute.data.formats.nifti import write_image
from geols_precompute.data.orientation import mixed, orientation_of, turn, turn_back, turned
from geols_precompute.data.prepare import prepare, prepared_size
from geols_precompute.data.volumes import read_image, read_volume
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, preprocessing_json
from geols_precompute.share.export import geometry_of
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_train.checkpoint import NetworkSpec
from geols_train.predict import Predictor

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]
OBLIQUE = np.array([[0.9, -0.2, 0.1, 5], [0.25, 0.1, -1.9, 6], [0.05, 0.8, 0.2, 7]])


@pytest.mark.parametrize("srow", [AXES, OTHER_AXES, TILTED, OBLIQUE])
def test_the_orientation_is_nibabels(tmp_path, srow):
    path = Header(srow=srow).write(tmp_path / "a.nii")
    assert orientation_of(read_image(path)[1]) == "".join(nib.aff2axcodes(nib.load(path).affine))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_volumes_are_nibabels_and_come_back(tmp_path, orientation):
    header = Header(srow=OBLIQUE, s_code=2, q_code=1, **QFORM)
    path = header.write(tmp_path / "a.nii")
    array, geometry, _ = read_image(path)
    image = nib.load(path)
    wanted = nib.orientations.axcodes2ornt(orientation)
    steps = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    expected = image.as_reoriented(steps)
    made, grid = turn(array, geometry, orientation), turned(geometry, orientation)
    np.testing.assert_array_equal(made[0], np.asarray(expected.dataobj).transpose(2, 1, 0))
    assert grid.shape_zyx == made.shape[1:]
    assert orientation_of(grid) == orientation
    assert overlay(of_geometry(grid.as_json()), expected.affine, grid.size)
    np.testing.assert_array_equal(turn_back(made, geometry, orientation), array)
    # the transforms of the header are turned with it: the sform as nibabel has it, and the qform by the same steps
    write_image(made[0], grid, tmp_path / "b.nii")
    written = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(written.get_sform(), expected.affine, atol=1e-5)
    back = nib.orientations.inv_ornt_aff(steps, SHAPE_XYZ)
    np.testing.assert_allclose(written.get_qform(), image.get_qform() @ back, atol=1e-4)
    assert (written.header["sform_code"], written.header["qform_code"]) == (2, 1)


def test_a_grid_without_a_place_is_not_turned(tmp_path):
    geometry = read_image(Header(srow=AXES, s_code=0).write(tmp_path / "a.nii"))[1]
    with pytest.raises(InputError, match="declares no place"):
        turned(geometry, "RAS")


def test_the_recipe_has_the_orientation_only_where_it_is_set():
    classes = ClassTable.from_names({1: "a"})
    assert "orientation" not in preprocessing_json(Preprocessing(modalities=("ct",)), classes)
    document = preprocessing_json(Preprocessing(modalities=("ct",), orientation="LPS"), classes)
    assert Preprocessing.from_json(document).orientation == "LPS"
    for wrong in ("RAA", "ras", "RA", "RASR", "", "XYZ"):
        with pytest.raises(RecipeError, match="orientation must be three letters"):
            Preprocessing(modalities=("ct",), orientation=wrong)


def test_spacing_is_of_the_turned_axes(tmp_path):
    path = Header(srow=OTHER_AXES).write(tmp_path / "a.nii")
    volume = read_volume([path], None, modalities=1)
    preprocessing = Preprocessing(modalities=("ct",), orientation="RAS", spacing=(0.9, 1.0, 1.0))
    made = prepare(volume, preprocessing)
    # the first axis of the file runs to the back in steps of 0.5, the second to the left in steps of 2
    assert made.geometry.size == prepared_size(volume.geometry, preprocessing) == (10, 3, 4)
    assert made.image.shape == (1, 4, 3, 10)


def mixed_folder(root, codes=("RAS", "LPS", "ASL")):
    """A data folder of one scene, written with axes that run in several ways."""
    lines = ["case,label,ct"]
    scene = np.zeros(SHAPE_XYZ, np.float32)
    scene[1:4, 2:5, 1:3] = 1
    for code in codes:
        plain = nib.Nifti1Image(scene, np.diag([1.0, 1.5, 2.0, 1.0]))
        steps = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(code))
        root.mkdir(parents=True, exist_ok=True)
        for name in ("image", "label"):
            nib.save(plain.as_reoriented(steps), root / f"{code}-{name}.nii.gz")
        lines.append(f"{code},{code}-label.nii.gz,{code}-image.nii.gz")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root


def test_mixed_orientations_are_said_and_turned(tmp_path):
    root = mixed_folder(tmp_path / "in")
    flags = ["--workers", "0", "--classes", "1=organ", str(root)]
    said = CliRunner().invoke(command, ["--out", str(tmp_path / "mixed"), *flags])
    noted = "note: the axes of the cases run in 3 ways (1 ASL, 1 LPS, 1 RAS); --orientation RAS"
    assert noted in said.output
    # a run that computes nothing, or one case anew, says the same
    assert noted in CliRunner().invoke(command, ["--out", str(tmp_path / "mixed"), *flags]).output
    (root / "ASL-image.nii.gz").touch()
    assert noted in CliRunner().invoke(command, ["--out", str(tmp_path / "mixed"), *flags]).output
    said = CliRunner().invoke(command, ["--out", str(tmp_path / "turned"), "--orientation", "ras", *flags])
    assert said.exit_code == 0
    assert "ways" not in said.output
    volumes = VolumeStore.open(tmp_path / "turned/volumes.zarr")
    assert (
        json.loads((tmp_path / "turned/volumes.zarr/zarr.json").read_text())["attributes"]["geols"]["recipe"][
            "orientation"
        ]
        == "RAS"
    )
    for case in volumes.cases:
        np.testing.assert_array_equal(volumes.label(case), volumes.label("RAS"))
        assert orientation_of(volumes.metadata(case).geometry) == "RAS"


def test_predictions_return_to_the_axes_of_their_image(tmp_path):
    root = mixed_folder(tmp_path / "in")
    spec = NetworkSpec(
        features=(4,),
        classes=ClassTable.from_names({1: "organ"}),
        skull_stripped=False,
        window=(4, 4, 4),
        overlap=0.5,
        preprocessing=Preprocessing(modalities=("ct",), orientation="RAS", spacing=(1.0, 1.5, 1.0)),
        regions={},
    )
    for code in ("RAS", "LPS", "ASL"):
        source = root / f"{code}-image.nii.gz"
        case = Case(id=code, images=(source,), label=None)
        made = nib.load(Predictor(network=Brightness(), spec=spec, precision="float32").predict(case, tmp_path / "out"))
        np.testing.assert_allclose(made.affine, nib.load(source).affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(nib.load(source).dataobj))


def test_an_export_of_a_turned_volume_lies_on_its_source(tmp_path):
    root = mixed_folder(tmp_path / "in", codes=("ASL",))
    flags = ["--workers", "0", "--classes", "1=organ", "--orientation", "RAS", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(command, [*flags, str(root)]).exit_code == 0
    labels = LabelStore.open(tmp_path / "out/labels.zarr")
    geometry, _ = geometry_of(labels, None, "ASL")
    write_image(labels.class_maps("ASL")[1], geometry, tmp_path / "maps.nii.gz")
    made, source = nib.load(tmp_path / "maps.nii.gz"), nib.as_closest_canonical(nib.load(root / "ASL-label.nii.gz"))
    np.testing.assert_allclose(made.affine, source.affine, atol=1e-5)
    # g is largest at the seeds, which lie inside the organ
    assert np.asarray(source.dataobj)[np.unravel_index(np.argmax(made.get_fdata()), made.shape)] == 1


def test_counts_are_listed_largest_first():
    assert mixed({}) == mixed({"RAS": 4}) == ""
    assert mixed({"LPS": 2, "RAS": 4}) == "the axes of the cases run in 2 ways (4 RAS, 2 LPS)"
