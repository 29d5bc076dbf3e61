"""Files that are cut short, damaged, misnamed or in several parts: refused, or read as what they are."""

from __future__ import annotations

import bz2
import gzip
import locale
import math
import os
import re
import resource
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from datasets import series, write

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.detached import source_files, volume_files
from geols_precompute.data.headers import read_header
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.data.volumes import read_image, read_volume
from geols_precompute.errors import InputError

RNG = np.random.default_rng(5)
IMAGE = RNG.normal(size=(8, 9, 10)).astype(np.float32)
WHOLE = ("tif", "vtk", "mha", "nrrd", "gipl", "gipl.gz", "nii", "nii.gz")


def saved(path, array=IMAGE, *, compressed=False):
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), compressed)
    return path


def largest(folder):
    """The file that holds the voxels."""
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [*WHOLE, "mhd", "nhdr", "hdr"])
def test_a_file_that_is_cut_short_is_refused(tmp_path, ending, compressed):
    path = saved(tmp_path / f"a.{ending}", compressed=compressed)
    np.testing.assert_array_equal(read_image(path)[0][0], IMAGE)
    data = largest(tmp_path)
    content = data.read_bytes()
    for kept in (0.2, 0.6, 0.9, 0.95):
        data.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(InputError, match=r"a\."):
            read_image(path)


@pytest.mark.parametrize("ending", ["vtk", "mha", "nrrd", "gipl", "nii", "mhd", "nhdr", "hdr"])
def test_a_single_missing_byte_of_plain_voxels_is_found(tmp_path, ending):
    path = saved(tmp_path / f"a.{ending}")
    data = largest(tmp_path)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(InputError, match="where the header needs"):
        read_image(path)


@pytest.mark.parametrize("ending", ["mha", "mhd", "nrrd", "nhdr", "nii.gz", "gipl.gz"])
def test_a_flipped_bit_of_compressed_voxels_is_found(tmp_path, ending):
    path = saved(tmp_path / f"a.{ending}", compressed=True)
    data = largest(tmp_path)
    whole = data.read_bytes()
    for place in (0.5, 0.8, 0.97):
        content = bytearray(whole)
        content[int(place * len(content))] ^= 16
        data.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged|end early|hold"):
            read_image(path)


def tiff_of(pages, *, big=False, order="<"):
    """A TIFF of deflated pages, written byte by byte from its specification."""
    content = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    content += struct.pack(order + "HHQ", 8, 0, 0) if big else struct.pack(order + "I", 0)
    pointer = 8 if big else 4
    for page in pages:
        strip = zlib.compress(page.astype(order + "u2").tobytes())
        where = len(content)
        content += strip
        tags = {256: page.shape[1], 257: page.shape[0], 258: 16, 259: 8, 262: 1, 273: where, 277: 1}
        tags |= {278: page.shape[0], 279: len(strip)}
        directory = len(content)
        content += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag, value in tags.items():
            content += struct.pack(order + ("HHQQ" if big else "HHII"), tag, 16 if big else 4, 1, value)
        link = struct.pack(order + ("Q" if big else "I"), directory)
        content = content[:pointer] + link + content[pointer + len(link) :]
        pointer = len(content)
        content += bytes(len(link))
    return content


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiffs_of_either_byte_order_and_size_are_read_and_checked(tmp_path, big, order):
    pages = RNG.integers(0, 60000, (5, 7, 6))
    path = tmp_path / "a.tif"
    whole = tiff_of(pages, big=big, order=order)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path)[0][0], pages)
    flipped = bytearray(whole)
    flipped[8 if not big else 16] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(InputError, match="page 1 is damaged"):
        read_image(path)
    path.write_bytes(whole[: len(whole) - 20])
    with pytest.raises(InputError, match="cut short"):
        read_image(path)


def test_a_pair_named_by_its_voxels_is_checked(tmp_path):
    saved(tmp_path / "a.hdr")
    np.testing.assert_array_equal(read_image(tmp_path / "a.img")[0][0], IMAGE)
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
    with pytest.raises(InputError, match="where the header needs"):
        read_image(tmp_path / "a.img")


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_2_is_read_and_checked(tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / f"a.{ending}"
    affine = np.diag([-0.7, -1.1, 2.5, 1])
    affine[:3, 3] = -4, -5, 6
    nibabel.save(nibabel.Nifti2Image(IMAGE.T, affine), path)
    array, geometry, _ = read_image(path)
    np.testing.assert_array_equal(array[0], IMAGE)
    np.testing.assert_allclose(geometry.spacing, (0.7, 1.1, 2.5))
    np.testing.assert_allclose(geometry.origin, (4, 5, 6))
    assert read_header(path).grid.geometry.as_json() == geometry.as_json()
    plain = gzip.decompress(path.read_bytes()) if ending == "nii.gz" else path.read_bytes()
    path.write_bytes(gzip.compress(plain[:-1]) if ending == "nii.gz" else plain[:-1])
    with pytest.raises(InputError, match="where the header needs"):
        read_image(path)
    spoilt = IMAGE.copy()
    spoilt[1, 2, 3] = np.nan
    nibabel.save(nibabel.Nifti2Image(spoilt.T, np.eye(4)), path)
    with pytest.raises(InputError, match="z=1, y=2, x=3"):
        read_image(path)


def test_a_tiff_that_leads_back_to_itself_ends(tmp_path):
    whole = bytearray(tiff_of(RNG.integers(0, 9, (2, 7, 6))))
    whole[-4:] = whole[4:8]
    (tmp_path / "a.tif").write_bytes(whole)
    with pytest.raises(InputError, match="leads back"):
        read_image(tmp_path / "a.tif")


def small_headers(folder):
    """Small files whose headers declare 8 GB or more."""
    huge = np.zeros((2, 2, 2), np.float32)
    for ending, old, new in (
        ("mha", b"DimSize = 2 2 2", b"DimSize = 2000 2000 2000"),
        ("nrrd", b"sizes: 2 2 2", b"sizes: 2000 2000 2000"),
        ("vtk", b"DIMENSIONS 2 2 2", b"DIMENSIONS 2000 2000 2000"),
    ):
        for compressed in (False, True):
            path = saved(folder / f"{ending}{compressed:d}.{ending}", huge, compressed=compressed)
            content = path.read_bytes()
            assert old in content
            path.write_bytes(content.replace(old, new))
            yield path
    plain = bytearray(saved(folder / "n.nii", huge).read_bytes())
    struct.pack_into("<3h", plain, 42, 2000, 2000, 2000)
    (folder / "n.nii").write_bytes(plain)
    yield folder / "n.nii"
    (folder / "n.nii.gz").write_bytes(gzip.compress(bytes(plain)))
    yield folder / "n.nii.gz"
    gipl = bytearray(saved(folder / "g.gipl", huge).read_bytes())
    struct.pack_into(">3H", gipl, 0, 2000, 2000, 2000)
    (folder / "g.gipl").write_bytes(gipl)
    yield folder / "g.gipl"


def test_a_small_header_that_declares_gigabytes_takes_no_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in small_headers(tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd", "gipl.gz", "tif"])
def test_volumes_of_one_value_may_be_packed_as_well_as_can_be(tmp_path, ending):
    empty = np.zeros((64, 256, 256), np.uint8)
    path = saved(tmp_path / f"a.{ending}", empty, compressed=True)
    np.testing.assert_array_equal(read_image(path)[0][0], empty)
    assert path.stat().st_size < empty.nbytes / 40


def test_an_empty_scaled_volume_is_read(tmp_path):
    """What is stored in 16 bits is read as numbers of 32."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 256, 256, 64, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 4, 16)
    struct.pack_into("<4f", head, 76, 1, 1, 1, 1)
    struct.pack_into("<2f", head, 108, 352, 0.5)
    head[344:348] = b"n+1\0"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(head) + bytes(2 * 64 * 256 * 256)))
    assert not read_image(tmp_path / "a.nii.gz")[0].any()


def text_header(ending, sizes, kind, *, packed="ascii"):
    """The header of a volume of 16-bit numbers, by its format's specification."""
    z, y, x = sizes
    if ending == "vtk":
        return (
            f"# vtk DataFile Version 3.0\nx\n{kind}\nDATASET STRUCTURED_POINTS\nDIMENSIONS {x} {y} {z}\nSPACING 1 1 1\n"
            f"ORIGIN 0 0 0\nPOINT_DATA {x * y * z}\nSCALARS scalars short 1\nLOOKUP_TABLE default\n"
        )
    if ending == "mha":
        return (
            f"ObjectType = Image\nNDims = 3\nBinaryData = False\nElementSpacing = 1 1 1\nDimSize = {x} {y} {z}\n"
            "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
    return (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {x} {y} {z}\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: {packed}\nspace origin: (0,0,0)\n\n"
    )


@pytest.mark.parametrize("ending", ["vtk", "mha", "nrrd"])
def test_voxels_as_text_are_whole_and_numbers(tmp_path, ending):
    """Of a VTK file that ends early, or whose text is damaged, SimpleITK makes zeros of the rest."""
    voxels = RNG.integers(1000, 30000, (4, 5, 6))
    text, path = " ".join(map(str, voxels.ravel())) + "\n", tmp_path / f"a.{ending}"
    head = text_header(ending, voxels.shape, "ASCII")
    path.write_text(head + text)
    np.testing.assert_array_equal(read_image(path)[0][0], voxels)
    path.write_text(head + text[: len(text) * 9 // 10])
    with pytest.raises(InputError, match=r"10\d numbers where the header needs 120"):
        read_image(path)
    path.write_text(head + text[:50] + "x" + text[51:])
    with pytest.raises(InputError, match="is no number"):
        read_image(path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "hdr", "mha", "nrrd", "vtk", "tif", "gipl"])
def test_a_header_with_any_bytes_is_read_or_refused_in_one_line(tmp_path, ending):
    rng, path, said = np.random.default_rng(7), saved(tmp_path / f"a.{ending}"), []
    whole = path.read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 400), rng.integers(1, 5)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        for read in (read_header, read_image):
            try:
                read(path)
            except InputError as error:
                said.append(str(error))
    assert said
    assert not [message for message in said if "\n" in message or str(tmp_path) not in message]


def test_an_nrrd_of_an_unknown_type_is_named(tmp_path):
    (tmp_path / "a.nrrd").write_text(text_header("nrrd", (2, 2, 2), "").replace("type: short", "type: shirt"))
    with pytest.raises(InputError, match="voxels of type 'shirt'"):
        read_image(tmp_path / "a.nrrd")


def test_nrrd_in_bzip2_names_what_is_read(tmp_path):
    head = text_header("nrrd", (2, 2, 2), "", packed="bzip2")
    (tmp_path / "a.nrrd").write_bytes(head.encode() + bz2.compress(bytes(16)))
    with pytest.raises(InputError, match=r"bzip2.*write it with gzip"):
        read_image(tmp_path / "a.nrrd")


def nifti(path, voxels, *, start=352.0, scale=(1.0, 0.0), sizes=None, after=b""):
    """A NIfTI-1 file written byte by byte, of int16 or float32 voxels [z,y,x]."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    sizes = sizes or voxels.shape[::-1]
    struct.pack_into("<8h", head, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into("<hh", head, 70, {"i": 4, "f": 16}[voxels.dtype.kind], 8 * voxels.dtype.itemsize)
    struct.pack_into("<4f", head, 76, 1, 1, 1, 1)
    struct.pack_into("<3f", head, 108, start, *scale)
    head[344:348] = b"n+1\0"
    path.write_bytes(bytes(head) + after + voxels.tobytes())
    return path


@pytest.mark.parametrize("start", [0, 4, 347, -5, math.nan])
def test_voxels_that_would_begin_within_the_header_are_refused(tmp_path, start):
    """SimpleITK takes byte 348, four before the voxels of every file that is written so."""
    path = nifti(tmp_path / "a.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4), start=start)
    with pytest.raises(InputError, match=r"a\.nii: its voxels begin at byte .* \(vox_offset\)"):
        read_image(path)


def test_voxels_that_begin_at_an_odd_byte(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = nifti(tmp_path / "a.nii", voxels, start=359, after=bytes(7))
    np.testing.assert_array_equal(read_image(path)[0][0], voxels)


@pytest.mark.parametrize("sizes", [(4, -3, 2), (4, 3, 0)])
def test_a_size_that_is_none_is_refused(tmp_path, sizes):
    path = nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), np.int16), sizes=sizes)
    with pytest.raises(InputError, match=re.escape(f"its size is {sizes}")):
        read_image(path)


def test_each_message_says_once_what_to_do(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), np.int16), sizes=(4, 3, 9))
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: 400 bytes where the header needs 568; copy it again from its source"


@pytest.mark.parametrize(
    "scale", [(0, 5), (math.nan, 5), (math.inf, -3), (0, 0), (math.nan, math.nan), (-2, 3), (1e-30, 7)]
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_scale_of_a_header_is_nibabels(tmp_path, scale, dtype):
    voxels = (np.arange(24) * (1 if dtype == np.int16 else 0.37)).astype(dtype).reshape(2, 3, 4)
    path = nifti(tmp_path / "a.nii", voxels, scale=scale)
    array, _, note = read_image(path)
    np.testing.assert_allclose(array[0], np.asarray(nib.load(path).dataobj).T, rtol=1e-6)
    # a scale that does not count is said where it would change something
    assert ("does not count" in note) == (scale[0] not in (-2, 1e-30) and bool(np.nan_to_num(scale[1])))


def test_an_offset_that_is_no_number_is_said(tmp_path):
    path = nifti(tmp_path / "a.nii", np.ones((2, 3, 4), np.int16), scale=(2, math.nan))
    array, _, note = read_image(path)
    assert np.unique(array).tolist() == [2]
    assert "scl_inter of the header is nan; it is taken as 0" in note


def test_a_gzip_bomb_is_not_kept_in_memory(tmp_path):
    """A whole small volume, and behind it a gigabyte of zeros in a megabyte."""
    plain = saved(tmp_path / "a.nii").read_bytes()
    packer = zlib.compressobj(9, wbits=31)
    with (tmp_path / "a.nii.gz").open("wb") as file:
        file.write(packer.compress(plain))
        for _ in range(256):
            file.write(packer.compress(bytes(2**22)))
        file.write(packer.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz")[0][0], IMAGE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(("named", "true"), [("nii.gz", "nii"), ("nii", "nii.gz"), ("gipl.gz", "gipl")])
def test_a_file_that_is_gzip_or_not_against_its_name_is_read_and_said(tmp_path, named, true):
    (tmp_path / "true").mkdir()
    path = tmp_path / f"a.{named}"
    path.write_bytes(saved(tmp_path / f"true/a.{true}").read_bytes())
    array, _, note = read_image(path)
    np.testing.assert_array_equal(array[0], IMAGE)
    assert f"{path}: is " in note
    assert "which its name does not say" in note
    assert read_header(path).grid.geometry.shape_zyx == IMAGE.shape


def test_gzip_of_a_format_without_it_says_what_to_do(tmp_path):
    path = saved(tmp_path / "a.mha")
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"is a gzip file.*gunzip"):
        read_image(path)


def test_reading_leaves_the_locale_alone(tmp_path):
    before = locale.setlocale(locale.LC_ALL)
    read_image(saved(tmp_path / "a.vtk"))
    read_header(tmp_path / "a.vtk")
    assert locale.setlocale(locale.LC_ALL) == before


@pytest.mark.parametrize(
    ("name", "words"), [("a.mgz", "mri_convert"), ("a.mgh", "MGH"), ("a.mnc", "mnc2nii"), ("a.bin", "convert")]
)
def test_formats_that_cannot_be_checked_name_one_that_can(tmp_path, name, words):
    (tmp_path / name).write_bytes(RNG.bytes(3000))
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / name)


def test_rgb_is_three_channels_in_every_format(tmp_path):
    colour = RNG.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    for ending in ("mha", "nrrd", "vtk", "nii", "nii.gz", "tif"):
        path = tmp_path / f"a.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(path))
        np.testing.assert_array_equal(read_image(path)[0], np.moveaxis(colour, -1, 0), err_msg=ending)
    rgb24 = rgb_nifti(tmp_path / "rgb.nii", colour)
    np.testing.assert_array_equal(read_image(rgb24)[0], np.moveaxis(colour, -1, 0))
    image = write(IMAGE[:4, :5, :6], tmp_path / "i.mha")
    with pytest.raises(InputError, match="must have one channel, found 3"):
        read_volume([image], rgb24, modalities=1)


def rgb_nifti(path, colour):
    """A NIfTI-1 file of type RGB24 (128), written byte by byte."""
    head = bytearray(352)
    z, y, x, _ = colour.shape
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, x, y, z, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 128, 24)
    struct.pack_into("<4f", head, 76, 1, 1, 1, 1)
    struct.pack_into("<2f", head, 108, 352, 1)
    head[344:348] = b"n+1\0"
    path.write_bytes(bytes(head) + colour.tobytes())
    return path


def test_the_files_of_a_volume_are_all_known(tmp_path):
    expected = {"a.mhd": ["a.mhd", "a.raw"], "b.nhdr": ["b.nhdr", "b.raw"], "c.hdr": ["c.hdr", "c.img"]}
    expected |= {"d.nii.gz": ["d.nii.gz"], "e.mha": ["e.mha"], "f.nrrd": ["f.nrrd"]}
    for name, files in expected.items():
        assert [path.name for path in volume_files(saved(tmp_path / name))] == files
    (tmp_path / "l.mhd").write_text("NDims = 3\nElementDataFile = LIST\ns1.raw\ns2.raw\n")
    (tmp_path / "p.mhd").write_text("NDims = 3\nElementDataFile = s%03d.raw 1 5 2\n")
    (tmp_path / "n.nhdr").write_text("NRRD0004\ndata file: LIST\ns1.raw\ns2.raw\n")
    assert [path.name for path in volume_files(tmp_path / "l.mhd")] == ["l.mhd", "s1.raw", "s2.raw"]
    assert [path.name for path in volume_files(tmp_path / "p.mhd")] == ["p.mhd", "s001.raw", "s003.raw", "s005.raw"]
    assert [path.name for path in volume_files(tmp_path / "n.nhdr")] == ["n.nhdr", "s1.raw", "s2.raw"]
    assert [path.name for path in volume_files(tmp_path / "c.img")] == ["c.img", "c.hdr"]
    case = Case(id="a", images=(tmp_path / "a.mhd",), label=tmp_path / "c.hdr")
    assert [path.name for path in source_files(case)] == ["a.mhd", "a.raw", "c.hdr", "c.img"]


# --- DICOM series ----------------------------------------------------------------------------------------------------


VOXELS = RNG.integers(-900, 900, (6, 9, 8))


def test_a_folder_with_a_dicom_series_is_a_volume(tmp_path):
    array, geometry, _ = read_image(series(tmp_path / "ct", VOXELS))
    np.testing.assert_array_equal(array[0], VOXELS)
    np.testing.assert_allclose(geometry.spacing, (0.8, 0.9, 2.0))
    np.testing.assert_allclose(geometry.origin, (1.5, 0, -7))
    assert read_header(tmp_path / "ct").grid.geometry.as_json() == geometry.as_json()
    assert len(volume_files(tmp_path / "ct")) == 6
    for images in (tmp_path / "ct", tmp_path):
        ((case,), problems) = find_images(images, ("ct",))
        assert (case.id, case.images, problems) == ("ct", (tmp_path / "ct",), ())


def test_several_series_in_a_folder_are_named(tmp_path):
    series(tmp_path / "ct", VOXELS)
    series(tmp_path / "ct", VOXELS, uid="1.2.9", name="t")
    with pytest.raises(InputError, match=r"2 DICOM series.*1\.2\.3.*1\.2\.9"):
        read_image(tmp_path / "ct")


def test_a_series_without_a_slice_or_sheared_or_cut_is_refused(tmp_path):
    os.remove(sorted(series(tmp_path / "gap", VOXELS).iterdir())[2])
    with pytest.raises(InputError, match="a slice is missing or doubled"):
        read_image(tmp_path / "gap")
    with pytest.raises(InputError, match="gantry tilt"):
        read_image(series(tmp_path / "tilt", VOXELS, tilt=0.5))
    for number in range(6):
        cut = sorted(series(tmp_path / f"cut{number}", VOXELS).iterdir())[number]
        cut.write_bytes(cut.read_bytes()[:-40])
        with pytest.raises(InputError, match=f"{cut.name}.*copy it again"):
            read_image(tmp_path / f"cut{number}")
    series(tmp_path / "mixed", VOXELS[:3])
    series(tmp_path / "mixed", VOXELS[3:], name="t", first=3, spacing=(0.4, 0.45))
    with pytest.raises(InputError, match=r"its size, spacing, orientation or voxel type is not that of"):
        read_image(tmp_path / "mixed")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="without a DICOM series"):
        read_image(tmp_path / "none")


@pytest.mark.parametrize("change", ["frames", "rows"])
def test_a_dicom_file_that_declares_more_than_it_holds_is_refused(tmp_path, change):
    """SimpleITK reads zeros for what is not there."""
    voxels = RNG.integers(0, 256, (8, 9, 7)).astype(np.uint8)
    path = saved(tmp_path / "a.dcm", voxels)
    np.testing.assert_array_equal(read_image(path)[0][0], voxels)
    content = bytearray(path.read_bytes())
    # group, element, type and length come before the value: 8 bytes
    if change == "frames":
        place = content.index(struct.pack("<HH", 0x28, 8)) + 8
        content[place : place + 2] = b"99"
    else:
        place = content.index(struct.pack("<HH", 0x28, 0x10)) + 8
        struct.pack_into("<H", content, place, 60000)
    path.write_bytes(content)
    needed = 99 * 9 * 7 if change == "frames" else 8 * 60000 * 7
    with pytest.raises(InputError, match=f"{len(content)} bytes where the header needs {needed}"):
        read_image(path)


NIFTI_TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", NIFTI_TYPES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 2), (3, 4, 5, 1, 2)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
def test_voxels_of_nifti_are_those_that_simpleitk_and_nibabel_read(tmp_path, order, kind, shape, ending):
    info = np.iinfo(kind) if kind[0] in "iu" else np.finfo(kind)
    array = RNG.uniform(max(float(info.min), -1e9), min(float(info.max), 1e9), shape).astype(order + kind)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_intent("vector" if len(shape) == 5 else "none")
    kind_of_file = nib.Nifti1Pair if ending == ".img" else nib.Nifti1Image
    path = tmp_path / f"a{ending}"
    nib.save(kind_of_file(array, np.eye(4), header, dtype=array.dtype), path)
    found = read_image(path)[0]
    assert found.dtype == np.dtype(kind)
    np.testing.assert_array_equal(found, array.T.reshape(found.shape))
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(found, np.moveaxis(theirs, -1, 0) if len(shape) == 5 else theirs.reshape(found.shape))
