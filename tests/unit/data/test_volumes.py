from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from datasets import write

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.nifti import write_image
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.prepare import PreparedCase, prepare, prepare_source, read_source
from geols_precompute.data.volumes import Volume, fingerprint, read_image, read_volume
from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import IGNORE_INDEX, ClassTable
from geols_precompute.recipe.parameters import Preprocessing

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(4, 5, 6)).astype(np.float32)
LABEL = RNG.integers(0, 3, (4, 5, 6)).astype(np.uint8)
TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".gipl", ".hdr"])
def test_every_format_reads_the_same_voxels(tmp_path, ending):
    path = write(IMAGE, tmp_path / f"a{ending}", spacing=(1, 2, 3))
    array, geometry, note = read_image(path)
    np.testing.assert_array_equal(array[0], IMAGE)
    assert geometry.spacing == (1, 2, 3)
    assert geometry.shape_zyx == (4, 5, 6)
    assert note == ""


def test_write_then_read_keeps_geometry(tmp_path):
    geometry = Geometry(size=(6, 5, 4), spacing=(0.7, 1.1, 2.5), origin=(-10, 20, 3.5), direction=TILTED)
    write_image(IMAGE, geometry, tmp_path / "a.nii.gz")
    _, read, _ = read_image(tmp_path / "a.nii.gz")
    for name in ("size", "spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(read, name), getattr(geometry, name), atol=1e-6)
    assert Geometry.from_json(read.as_json()).as_json() == read.as_json()


def test_several_modalities_in_files_and_in_one_4d_file(tmp_path):
    second = IMAGE[::-1].copy()
    files = [write(IMAGE, tmp_path / "a.mha"), write(second, tmp_path / "b.mha")]
    four_d = tmp_path / "c.nii.gz"
    sitk.WriteImage(sitk.JoinSeries(sitk.GetImageFromArray(IMAGE), sitk.GetImageFromArray(second)), str(four_d))
    for images in (files, [four_d]):
        volume = read_volume(images, None, modalities=2)
        np.testing.assert_array_equal(volume.image, [IMAGE, second])
        assert volume.image.dtype == np.float32
    with pytest.raises(InputError, match="2 modalities found where 3"):
        read_volume([four_d], None, modalities=3)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".gipl", ".gipl.gz", ".hdr"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.7, 0.99])
def test_a_truncated_file_is_never_read_as_zeros(tmp_path, ending, kept):
    path = write(RNG.normal(size=(8, 9, 10)).astype(np.float32), tmp_path / f"a{ending}")
    data = path.with_suffix(".img") if ending == ".hdr" else path
    content = data.read_bytes()
    data.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=data.stem.split(".")[0]):
        read_image(path)


def test_a_flipped_bit_in_gzip_is_found(tmp_path):
    path = write(IMAGE, tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match="gzip"):
        read_image(path)


def test_a_gzip_file_of_several_members_is_whole(tmp_path):
    plain = write(IMAGE, tmp_path / "a.nii").read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(plain[:400]) + gzip.compress(plain[400:]))
    np.testing.assert_array_equal(read_image(path)[0][0], IMAGE)


def test_axes_that_are_not_orthonormal_are_kept_and_said(tmp_path):
    path = write(IMAGE, tmp_path / "a.nii", spacing=(1, 1, 2))
    header = bytearray(path.read_bytes())
    rows = np.array(struct.unpack("<12f", header[280:328])).reshape(3, 4)
    rows[0, 1] += 0.2
    header[252:254] = struct.pack("<h", 0)
    header[280:328] = struct.pack("<12f", *rows.ravel())
    path.write_bytes(header)
    array, geometry, note = read_image(path)
    np.testing.assert_array_equal(array[0], IMAGE)
    directions = np.reshape(geometry.direction, (3, 3))
    np.testing.assert_allclose(directions * geometry.spacing, np.diag([-1, -1, 1]) @ rows[:, :3], atol=1e-6)
    assert "not orthonormal" in note
    assert "; ".join(read_volume([path], None, modalities=1).notes) == note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spacing": (1, 1, 1.01)}, "spacing"),
        ({"origin": (0, 0.5, 0)}, "origin"),
        ({"direction": TILTED}, "direction"),
    ],
)
def test_grids_that_differ_are_refused(tmp_path, change, says):
    image, label = write(IMAGE, tmp_path / "i.mha"), write(LABEL, tmp_path / "l.mha", **change)
    with pytest.raises(InputError, match=rf"l\.mha: {says} .* differs from .* of .*i\.mha"):
        read_volume([image], label, modalities=1)


def test_grids_equal_within_a_thousandth_pass(tmp_path):
    image, label = write(IMAGE, tmp_path / "i.mha"), write(LABEL, tmp_path / "l.mha", spacing=(1.0005, 1, 1))
    assert read_volume([image], label, modalities=1).geometry.spacing == (1, 1, 1)


def test_sizes_that_differ_are_refused(tmp_path):
    image, label = write(IMAGE, tmp_path / "i.mha"), write(LABEL[:, :4], tmp_path / "l.mha")
    with pytest.raises(InputError, match=r"size \(6, 4, 4\) \(x,y,z\) differs from \(6, 5, 4\)"):
        read_volume([image], label, modalities=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz", ".hdr"])
def test_voxels_that_are_not_finite_are_located(tmp_path, value, ending):
    bad = IMAGE.astype(np.float64)
    bad[1, 2, 3] = value
    with pytest.raises(InputError, match="1 voxels are NaN, infinite or beyond float32, the first at z=1, y=2, x=3"):
        read_volume([write(bad, tmp_path / f"i{ending}")], None, modalities=1)


def test_nan_in_a_big_endian_file_is_found(tmp_path):
    bad = IMAGE.copy()
    bad[1, 2, 3] = np.nan
    path = write(bad, tmp_path / "a.nii")
    content = path.read_bytes()
    header = np.frombuffer(content[:348], np.uint8).copy()
    sizes = ((0, 4, 1), (32, 4, 1), (36, 2, 1), (40, 2, 8), (56, 4, 3), (68, 2, 4), (76, 4, 8), (108, 4, 3))
    sizes += ((120, 2, 1), (124, 4, 6), (252, 2, 2), (256, 4, 6), (280, 4, 12))
    for start, size, count in sizes:
        field = header[start : start + size * count].reshape(count, size)
        field[:] = field[:, ::-1].copy()
    path.write_bytes(header.tobytes() + content[348:352] + bad.astype(">f4").tobytes())
    with pytest.raises(InputError, match="1 voxels are NaN"):
        read_image(path)
    path.write_bytes(header.tobytes() + content[348:352] + IMAGE.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_image(path)[0][0], IMAGE)


def test_float_labels_must_be_whole_numbers(tmp_path):
    image = write(IMAGE, tmp_path / "i.mha")
    whole = read_volume([image], write(LABEL.astype(np.float32), tmp_path / "w.mha"), modalities=1)
    np.testing.assert_array_equal(whole.label, LABEL)
    assert whole.label.dtype == np.int32
    with pytest.raises(InputError, match=r"label value 0\.5 is not a whole number"):
        read_volume([image], write(LABEL * np.float32(0.5), tmp_path / "h.mha"), modalities=1)
    with pytest.raises(InputError, match="whole numbers that fit 32 bits"):
        read_volume([image], write(np.full_like(IMAGE, np.nan), tmp_path / "n.mha"), modalities=1)


def test_2d_images_and_things_that_are_no_image(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE[0]), str(tmp_path / "flat.mha"))
    with pytest.raises(InputError, match="3-D volumes are supported"):
        read_image(tmp_path / "flat.mha")
    with pytest.raises(InputError, match="2-D images are not supported"):
        read_image(write(IMAGE[:1], tmp_path / "slice.mha"))
    (tmp_path / "text.nii").write_text("not an image")
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        read_image(tmp_path / "text.nii")


def test_fingerprints_follow_voxels_not_files(tmp_path):
    def of(name, image=IMAGE, label=LABEL, **geometry):
        files = write(image, tmp_path / f"i{name}", **geometry), write(label, tmp_path / f"l{name}", **geometry)
        return fingerprint(read_volume([files[0]], files[1], modalities=1))

    original = of("a.nii.gz", spacing=(1, 1, 2))
    assert original == of("b.nrrd", label=LABEL.astype(np.float32), spacing=(1, 1, 2))
    assert set(original) == {"image_sha256", "label_sha256", "geometry_sha256"}
    assert original["image_sha256"] == [hashlib.sha256(IMAGE.astype("<f4").tobytes()).hexdigest()]
    assert original["label_sha256"] == hashlib.sha256(LABEL.astype("<i4").tobytes()).hexdigest()
    assert original["geometry_sha256"] != of("c.nrrd", spacing=(1, 1, 2.00001))["geometry_sha256"]
    assert original["geometry_sha256"] == of("d.nrrd", spacing=(1, 1, 2 + 1e-9))["geometry_sha256"]
    moved = IMAGE.copy()
    moved[0, 0, 0] += 1
    assert original["image_sha256"] != of("e.nrrd", image=moved)["image_sha256"]


def test_negative_zero_is_zero_in_geometry():
    here = Geometry(size=(1, 1, 1), spacing=(1, 1, 1), origin=(0.0, -0.0, -1e-9), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert str(here.as_json()["origin"]) == "[0.0, 0.0, 0.0]"


def volume(image, label=None, spacing=(1.0, 1.0, 1.0)):
    z, y, x = image.shape[1:]
    geometry = Geometry(size=(x, y, z), spacing=spacing, origin=(5, 6, 7), direction=TILTED)
    return Volume(image=image, label=label, geometry=geometry)


def test_resampling_keeps_the_origin_and_a_linear_ramp():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 6, 5, 8)).copy()
    label = (ramp[0] >= 4).astype(np.int32)
    made = prepare(volume(ramp, label), Preprocessing(modalities=("ct",), spacing=(2.0, 1.0, 0.5)))
    assert made.image.shape == (1, 3, 5, 16)
    assert made.geometry.spacing_zyx == (2.0, 1.0, 0.5)
    assert made.geometry.origin == (5, 6, 7)
    np.testing.assert_allclose(made.image[0, 1, 2, :15], np.arange(15) / 2, atol=1e-5)
    # beyond the last voxel's centre the nearest voxel continues, never zero
    assert made.image[0, 1, 2, 15] == 7
    assert set(np.unique(made.label)) == {0, 1}
    assert made.label.dtype == np.int32


def test_clipping_is_per_modality_over_all_voxels():
    image = np.stack([IMAGE, 10 * IMAGE])
    made = prepare(volume(image), Preprocessing(modalities=("a", "b"), clip=(5.0, 90.0))).image
    for got, source in zip(made, image, strict=True):
        low, high = np.percentile(source, (5, 90))
        np.testing.assert_allclose(got, np.clip(source, low, high), rtol=1e-6)
    assert made.dtype == np.float32


def case_of(tmp_path, label, image=IMAGE) -> Case:
    return Case(
        id="one",
        images=(write(image, tmp_path / "i.nii.gz", spacing=(1, 2, 3)),),
        label=write(label, tmp_path / "l.nii.gz", spacing=(1, 2, 3)),
    )


CT, TWO = Preprocessing(modalities=("ct",)), ClassTable.from_names({1: "a", 7: "b"}, ignore=9)


def prepare_case(case, preprocessing, classes) -> PreparedCase:
    volume, source = read_source(case, preprocessing, classes)
    return prepare_source(case, volume, source, preprocessing, classes)


def test_a_case_is_read_and_prepared(tmp_path):
    values = np.array([0, 7, 1, 9], np.int32)[RNG.integers(0, 4, LABEL.shape)]
    case = case_of(tmp_path, values)
    made = prepare_case(case, CT, TWO)
    np.testing.assert_array_equal(made.image, IMAGE[np.newaxis])
    np.testing.assert_array_equal(made.label, TWO.indices(values))
    assert set(np.unique(made.label)) == {0, 1, 2, IGNORE_INDEX}
    assert made.label.dtype == np.uint8
    assert made.geometry == made.source_geometry
    assert made.notes == ()
    volume, source = read_source(case, CT, TWO)
    assert made.source == source == fingerprint(volume)
    resampled = prepare_case(case, Preprocessing(modalities=("ct",), spacing=(3.0, 1.0, 1.0)), TWO)
    assert resampled.label.shape == resampled.image.shape[1:] == (4, 10, 6)
    assert resampled.source_geometry == made.geometry
    assert resampled.geometry.spacing_zyx == (3.0, 1.0, 1.0)
    assert resampled.source == source


def test_a_case_whose_label_has_unnamed_values_is_refused_by_its_file(tmp_path):
    with pytest.raises(InputError, match=r"l\.nii\.gz: label values without a class: 2 \(\d+ voxels\)"):
        prepare_case(case_of(tmp_path, np.maximum(LABEL, 1)), CT, TWO)


@pytest.mark.parametrize("label", [LABEL * 0, np.where(LABEL > 0, 9, 0).astype(np.uint8)])
def test_a_case_without_a_voxel_of_a_foreground_class_is_data_unless_the_recipe_leaves_it_out(tmp_path, label):
    case = case_of(tmp_path, label)
    assert set(np.unique(prepare_case(case, CT, TWO).label)) == {
        0 if v == 0 else IGNORE_INDEX for v in np.unique(label)
    }
    with pytest.raises(InputError, match=r"l\.nii\.gz: the label map has no voxel of a foreground class"):
        prepare_case(case, Preprocessing(modalities=("ct",), skip_empty=True), TWO)


def test_a_case_of_nothing_but_ignored_voxels_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"l\.nii\.gz: every voxel is ignored"):
        prepare_case(case_of(tmp_path, np.full_like(LABEL, 9)), CT, TWO)


def test_complex_voxels_are_refused(tmp_path):
    image = sitk.GetImageFromArray(IMAGE.astype(np.complex64))
    sitk.WriteImage(image, str(tmp_path / "c.nii.gz"))
    with pytest.raises(InputError, match="real numbers are supported"):
        read_image(tmp_path / "c.nii.gz")


def test_channels_in_one_vector_file(tmp_path):
    vector = sitk.Compose(sitk.GetImageFromArray(IMAGE), sitk.GetImageFromArray(IMAGE + 1))
    for name in ("v.nii.gz", "v.nrrd"):
        sitk.WriteImage(vector, str(tmp_path / name))
        volume = read_volume([tmp_path / name], None, modalities=2)
        np.testing.assert_array_equal(volume.image, [IMAGE, IMAGE + 1])
    bad = IMAGE.copy()
    bad[1, 2, 3] = np.inf
    sitk.WriteImage(sitk.Compose(sitk.GetImageFromArray(IMAGE), sitk.GetImageFromArray(bad)), str(tmp_path / "b.nii"))
    with pytest.raises(InputError, match="the first at z=1, y=2, x=3"):
        read_image(tmp_path / "b.nii")
