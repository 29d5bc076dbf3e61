"""Where nnU-Net's arrays lie in space, against SimpleITK and nibabel."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from geols_precompute.data.geometry import RAS_TO_LPS
from geols_precompute.data.preprocessed import preprocessed_geometry

SIZE, SPACING, ORIGIN = (14, 24, 20), (3.0, 1.2, 0.8), (-150.0, 220.0, 310.0)  # x, y, z
TURN = np.radians(20)
DIRECTION = (np.cos(TURN), np.sin(TURN), 0, np.sin(TURN), -np.cos(TURN), 0, 0, 0, 1)


def source() -> sitk.Image:
    image = sitk.Image(SIZE, sitk.sitkUInt8)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    return image


def properties(stuff: dict, transpose, crop, before) -> dict:
    return {
        "spacing": list(SPACING[::-1]),
        "bbox_used_for_cropping": crop,
        "shape_after_cropping_and_before_resampling": before,
        **stuff,
    }


def positions_in_source(index, transpose, crop, before, shape):
    """Where a voxel of the array has its centre, as a continuous index x,y,z of the files' image.

    The edges of the cropped volume are those of the array, so the middle of voxel i of n is (i + 0.5) / n of the way.
    """
    transposed = [low + (i + 0.5) / n * b - 0.5 for i, n, b, (low, _) in zip(index, shape, before, crop, strict=True)]
    zyx = [0.0, 0.0, 0.0]
    for value, axis in zip(transposed, transpose, strict=True):
        zyx[axis] = value
    return zyx[::-1]


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("kind", ["SimpleITK", "nibabel", "nibabel, turned to RAS"])
def test_every_corner_is_where_its_voxel_is_in_the_files(kind, transpose, tmp_path):
    image = source()
    original = [SIZE[2 - axis] for axis in transpose]
    crop = [[3, n - 2] for n in original]
    before = tuple(high - low for low, high in crop)
    shape = (9, 17, 23)
    if kind == "SimpleITK":
        stuff = {"sitk_stuff": {"spacing": SPACING, "origin": ORIGIN, "direction": DIRECTION}}
    else:
        sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
        read = nibabel.load(tmp_path / "a.nii.gz")
        stuff = {"nibabel_stuff": {"original_affine": read.affine}}
        if kind != "nibabel":
            read = nibabel.as_closest_canonical(read)
            stuff["nibabel_stuff"] |= {"reoriented_affine": read.affine}
    found = preprocessed_geometry(shape, properties(stuff, transpose, crop, before), transpose)
    assert found.shape_zyx == shape
    for corner in np.ndindex(2, 2, 2):
        index = [c * (n - 1) for c, n in zip(corner, shape, strict=True)]
        place = positions_in_source(index, transpose, crop, before, shape)
        if kind == "SimpleITK":
            expected = np.array(image.TransformContinuousIndexToPhysicalPoint(place))
        else:
            expected = (RAS_TO_LPS @ read.affine @ [*place, 1])[:3]
        mm = (found.affine @ [*index[::-1], 1])[:3]
        np.testing.assert_allclose(mm, expected, atol=1e-4)


def test_files_that_say_nothing_but_their_spacing_begin_at_zero():
    crop, before = [[0, 1], [2, 30], [4, 44]], (1, 28, 40)
    stuff = {"sitk_stuff": {"spacing": (1.2, 0.8), "origin": (5, 5), "direction": (1, 0, 0, 1)}}
    found = preprocessed_geometry((1, 14, 20), properties(stuff, (0, 1, 2), crop, before), (0, 1, 2))
    assert found.spacing == (6.0, 2.4, 0.8)  # of the source in x and y, twice
    np.testing.assert_allclose(found.origin, (4.5 * 3.0, 2.5 * 1.2, 0))
