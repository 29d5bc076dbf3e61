"""The grid of a volume is what its files declare, for every header; what we write declares the same."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from datasets import write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.nifti import write_image
from geols_precompute.data.formats.transforms import Transforms
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.headers import read_case_header
from geols_precompute.data.volumes import read_image, read_volume
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, Recipe
from geols_precompute.run.precompute import precompute
from geols_precompute.share.export import geometry_of
from geols_precompute.store.guards import checked_case
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_train.checkpoint import NetworkSpec
from geols_train.predict import Predictor

SHAPE_XYZ = (6, 5, 4)
VOXELS = np.random.default_rng(0).normal(size=SHAPE_XYZ[::-1]).astype(np.float32)
MILLIMETRES = {1: 1e3, 3: 1e-3}


@dataclass(frozen=True, kw_only=True)
class Header:
    """A NIfTI header, written byte by byte; every number as the standard names it."""

    srow: np.ndarray
    quatern: tuple[float, float, float] = (0.0, 0.0, 0.0)
    qoffset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    qfac: float = 1.0
    pixdim: tuple[float, float, float] = (1.0, 1.0, 1.0)
    q_code: int = 0
    s_code: int = 1
    units: int = 2
    version: int = 1
    order: str = "<"

    def write(self, path: Path, voxels: np.ndarray = VOXELS) -> Path:
        """Write the header and float32 voxels [z,y,x] to .nii, .nii.gz or .hdr and .img."""
        pair = path.suffix == ".hdr"
        size, kind = (348, "f") if self.version == 1 else (540, "d")
        head = bytearray(size if pair else size + 4)

        def put(fields: str, at: int, *values: float) -> None:
            struct.pack_into(self.order + fields, head, at, *values)

        x, y, z = voxels.shape[::-1]
        pixdim = (self.qfac, *self.pixdim, 1, 1, 1, 1)
        magic = (b"ni" if pair else b"n+") + str(self.version).encode() + b"\0"
        put("i", 0, size)
        if self.version == 1:
            put("8h", 40, 3, x, y, z, 1, 1, 1, 1)
            put("2h", 70, 16, 32)
            put("8f", 76, *pixdim)
            put("3f", 108, 0 if pair else 352, 1, 0)
            head[123] = self.units
            put("2h", 252, self.q_code, self.s_code)
            places, magic_at = (256, 280), 344
        else:
            put("2h", 12, 16, 32)
            put("8q", 16, 3, x, y, z, 1, 1, 1, 1)
            put("8d", 104, *pixdim)
            put("q", 168, 0 if pair else 544)
            put("2d", 176, 1, 0)
            put("2i", 344, self.q_code, self.s_code)
            put("i", 500, self.units)
            places, magic_at, magic = (352, 400), 4, magic + b"\r\n\x1a\n"
        put(f"6{kind}", places[0], *self.quatern, *self.qoffset)
        put(f"12{kind}", places[1], *np.ravel(self.srow))
        head[magic_at : magic_at + len(magic)] = magic
        body = voxels.astype(f"{self.order}f4").tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        if pair:
            path.write_bytes(head)
            path.with_suffix(".img").write_bytes(body)
        else:
            path.write_bytes(gzip.compress(head + body) if path.suffix == ".gz" else head + body)
        return path


def fields(path: Path) -> dict[str, object]:
    """What a little-endian NIfTI-1 file says of its place, from its bytes."""
    content = path.read_bytes()
    head = gzip.decompress(content) if path.suffix == ".gz" else content
    return {
        "pixdim": struct.unpack_from("<4f", head, 76),
        "units": head[123] & 7,
        "codes": struct.unpack_from("<2h", head, 252),
        "quatern": struct.unpack_from("<6f", head, 256),
        "srow": struct.unpack_from("<12f", head, 280),
    }


def judged(path: Path) -> np.ndarray:
    """The matrix of voxel indices to mm (right, anterior, superior) that nibabel reads."""
    image = nib.load(path)
    units = int(image.header["xyzt_units"]) & 7
    return np.diag([MILLIMETRES.get(units, 1.0)] * 3 + [1.0]) @ image.affine


def of_geometry(document: dict[str, list[float]]) -> np.ndarray:
    """The same matrix from a store's metadata."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(document["direction"], (3, 3)) * document["spacing"]
    affine[:3, 3] = document["origin"]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def overlay(a: np.ndarray, b: np.ndarray, shape=SHAPE_XYZ) -> bool:
    """Whether two matrices give every voxel one place: within 0.5 % of an edge, and 1e-6 of what directions turn."""
    corners = np.array([[i * (n - 1) for i, n in zip(c, shape, strict=True)] for c in np.ndindex(2, 2, 2)])
    corners = np.column_stack([corners, np.ones(8)]).T
    edges = np.linalg.norm(b[:3, :3], axis=0)
    allowed = 5e-3 * edges.min() + 2e-6 * np.max(edges * shape)
    return bool(np.linalg.norm((a - b)[:3] @ corners, axis=0).max() <= allowed)


AXES = np.array([[-0.5, 0, 0, 40], [0, -0.6, 0, 30], [0, 0, 2.0, -50]])
OTHER_AXES = np.array([[0, -2.0, 0, 30], [-0.5, 0, 0, 40], [0, 0, 0.9, -50.0]])
ROTATION_Z = (0.0, 0.0, 1.0)  # 180 degrees: x and y to the left and back
TILTED = AXES + np.array([[0, 0, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 0]])


@st.composite
def headers(draw: Callable[..., object]) -> Header:
    """Headers of every kind that people have, those that contradict themselves included."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes = draw(st.sampled_from([rotation, np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3), np.eye(3)]))
    shear = np.eye(3) + draw(st.sampled_from([0.0, 1e-5, 0.01, 0.4])) * np.triu(rng.uniform(-1, 1, (3, 3)), 1)
    spacing = 10.0 ** rng.uniform(-1, 1, 3) * draw(st.sampled_from([1.0, 1.0, 1e-3]))
    origin = rng.uniform(-300, 300, 3) * spacing.min()
    quatern = rng.normal(size=4)
    quatern /= np.linalg.norm(quatern)
    sign = draw(st.sampled_from([1.0, 1.0, -1.0, 0.0]))
    return Header(
        srow=np.column_stack([axes @ shear * spacing, origin]),
        quatern=tuple(quatern[1:] * np.sign(quatern[0])),
        qoffset=tuple(draw(st.sampled_from([origin, origin + 10 * spacing]))),
        qfac=draw(st.sampled_from([1.0, -1.0, 0.0])),
        pixdim=tuple(spacing * [sign, 1, 1]) if draw(st.booleans()) else (1.0, 1.0, 1.0),
        q_code=draw(st.integers(0, 4)),
        s_code=draw(st.integers(0, 4)),
        units=draw(st.sampled_from([0, 1, 2, 3, 10, 11])),
        version=draw(st.sampled_from([1, 2])),
        order=draw(st.sampled_from("<>")),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=headers(), ending=st.sampled_from([".nii", ".nii.gz", ".hdr"]))
def test_what_is_read_and_what_is_written_overlay_on_the_source(tmp_path, header, ending):
    for path in tmp_path.iterdir():
        path.unlink()
    source = header.write(tmp_path / f"a{ending}")
    array, geometry, note = read_image(source)
    np.testing.assert_array_equal(array[0], VOXELS)
    assert read_case_header(Case(id="a", images=(source,), label=None), modalities=1) == geometry
    kept = Geometry.from_json(geometry.as_json())
    if header.q_code or header.s_code:
        assert overlay(of_geometry(kept.as_json()), judged(source))
    else:
        assert "declares no place" in note
        unit = MILLIMETRES.get(header.units & 7, 1.0)
        expected = [abs(v or 1.0) * unit for v in header.pixdim]
        np.testing.assert_allclose(geometry.spacing, expected, rtol=1e-6)
    write_image(VOXELS, geometry, tmp_path / "written.nii.gz")
    assert overlay(judged(tmp_path / "written.nii.gz"), judged(source))
    codes = fields(tmp_path / "written.nii.gz")["codes"]
    assert codes == (header.q_code, header.s_code)
    np.testing.assert_array_equal(nib.load(tmp_path / "written.nii.gz").get_fdata(), VOXELS.transpose(2, 1, 0))


def test_a_nii_beside_a_nii_gz_is_another_file(tmp_path):
    Header(srow=AXES).write(tmp_path / "a.nii", VOXELS + 1)
    np.testing.assert_array_equal(read_image(Header(srow=AXES).write(tmp_path / "a.nii.gz"))[0][0], VOXELS)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii")[0][0], VOXELS + 1)


# --- the whole way -------------------------------------------------------------------------------------------------


class Brightness(torch.nn.Module):
    """A network that takes bright voxels for class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.cat([-image, image], dim=1)


def data_folder(root: Path, header: Header, ending: str = ".nii.gz") -> Path:
    """A CSV data folder of one case."""
    label = (VOXELS > 0).astype(np.float32)
    header.write(root / f"image{ending}", VOXELS * 100)
    header.write(root / f"label{ending}", label)
    (root / "cases.csv").write_text(f"case,label,ct\na,label{ending},image{ending}\n")
    return root


def stored(out: Path, store: str) -> dict[str, object]:
    return json.loads((out / store / "a/zarr.json").read_text())["attributes"]["geols"]


def exported(out: Path, path: Path) -> Path:
    labels = LabelStore.open(out / "labels.zarr")
    geometry, note = geometry_of(labels, None, "a")
    assert note == ""
    write_image(labels.class_maps("a")[1], geometry, path)
    return path


def predicted(source: Path, out: Path, **preprocessing: object) -> Path:
    classes = ClassTable.from_names({1: "organ"})
    spec = NetworkSpec(
        features=(4,),
        classes=classes,
        skull_stripped=False,
        window=(4, 4, 4),
        overlap=0.5,
        preprocessing=Preprocessing(modalities=("ct",), **preprocessing),
        regions={},
    )
    case = Case(id="a", images=(source,), label=None)
    return Predictor(network=Brightness(), spec=spec, precision="float32").predict(case, out)


@settings(max_examples=15, deadline=None)
@given(
    header=headers(),
    ending=st.sampled_from([".nii", ".nii.gz", ".hdr"]),
    turn=st.sampled_from(["RAS", "LPS", "SAR"]),
)
def test_precompute_export_and_predict_overlay_on_the_source(tmp_path_factory, header, ending, turn):
    folder = tmp_path_factory.mktemp("data")
    source = data_folder(folder / "in", header, ending) / f"image{ending}"
    summary = precompute(folder / "in", recipe=Recipe(classes={1: "organ"}), out=folder / "out", workers=0)
    if summary.failures:
        # distances are computed for voxels from 1e-6 to 1e6 mm
        assert "must be three finite numbers" in summary.failures["a"]
        return
    place, (_, geometry, _) = judged(source), read_image(source)
    if header.q_code or header.s_code:
        for store in ("volumes.zarr", "labels.zarr"):
            assert overlay(of_geometry(stored(folder / "out", store)["geometry"]), place)
    files = [exported(folder / "out", folder / "maps.nii.gz"), predicted(source, folder / "predicted")]
    turned = {"orientation": turn, "spacing": tuple(geometry.spacing[::-1] * np.array([0.8, 1.6, 1]))}
    if header.q_code or header.s_code:
        # turned and resampled on the way, and back on the source's axes
        files.append(predicted(source, folder / "turned", **turned))
    for written in files:
        assert overlay(judged(written), place)
        assert fields(written)["codes"] == (header.q_code, header.s_code)


def test_resampled_maps_are_exported_with_scaled_transforms(tmp_path):
    header = Header(srow=TILTED, quatern=ROTATION_Z, qoffset=(41, 31, -49), pixdim=(0.5, 0.6, 2.0), q_code=1, s_code=4)
    source = data_folder(tmp_path / "in", header) / "image.nii.gz"
    recipe = Recipe(classes={1: "organ"}, spacing=(1.0, 1.2, 0.25))
    assert not precompute(tmp_path / "in", recipe=recipe, out=tmp_path / "out", workers=0).failures
    written = nib.load(exported(tmp_path / "out", tmp_path / "maps.nii.gz"))
    image = nib.load(source)
    for form in ("get_sform", "get_qform"):
        (made, code), (original, expected) = getattr(written, form)(coded=True), getattr(image, form)(coded=True)
        assert code == expected
        sizes = np.linalg.norm(original[:3, :3], axis=0)
        np.testing.assert_allclose(made[:3, 3], original[:3, 3], atol=1e-5)
        np.testing.assert_allclose(
            made[:3, :3] / np.linalg.norm(made[:3, :3], axis=0), original[:3, :3] / sizes, atol=1e-6
        )
    np.testing.assert_allclose(np.linalg.norm(written.get_sform()[:3, :3], axis=0), (0.25, 1.2, 1.0), rtol=1e-6)


def test_what_a_plain_header_says_is_not_kept_and_what_another_says_is(tmp_path):
    plain = Header(srow=AXES, quatern=ROTATION_Z, qoffset=(40, 30, -50), pixdim=(0.5, 0.6, 2.0), q_code=1, s_code=1)
    for name, header in (("plain", plain), ("other", replace(plain, s_code=2))):
        data_folder(tmp_path / name, header)
        precompute(tmp_path / name, recipe=Recipe(classes={1: "organ"}), out=tmp_path / f"{name}-out", workers=0)
        assert stored(tmp_path / f"{name}-out", "labels.zarr").keys() >= {"geometry"}
        assert "transforms" not in stored(tmp_path / f"{name}-out", "labels.zarr")
    assert "transforms" not in stored(tmp_path / "plain-out", "volumes.zarr")
    kept = stored(tmp_path / "other-out", "volumes.zarr")["transforms"]
    assert kept["sform_code"] == 2
    np.testing.assert_allclose(np.reshape(kept["srow"], (3, 4)), AXES, rtol=1e-6)
    labels = [(tmp_path / f"{name}-out/labels.zarr/manifest.json").read_bytes() for name in ("plain", "other")]
    assert labels[0] == labels[1]


def test_a_volume_whose_transforms_are_malformed_is_refused(tmp_path):
    data_folder(tmp_path / "in", Header(srow=AXES))
    precompute(tmp_path / "in", recipe=Recipe(classes={1: "organ"}), out=tmp_path / "out", workers=0)
    store = VolumeStore.open(tmp_path / "out/volumes.zarr")
    document = {
        "attributes": {"geols": stored(tmp_path / "out", "volumes.zarr")},
        "zarr_format": 3,
        "node_type": "group",
    }
    checked_case(document, "a", store.root)
    transforms = document["attributes"]["geols"]["transforms"]
    wrong = ({"units": 8}, {"sform_code": -1}, {"srow": [1.0] * 11}, {"pixdim": ["1", 1, 1, 1]}, {"more": 1})
    for changed in wrong:
        document["attributes"]["geols"]["transforms"] = transforms | changed
        with pytest.raises(StoreError, match="transforms are not"):
            checked_case(document, "a", store.root)


def test_an_export_without_the_volumes_lies_on_the_source(tmp_path):
    source = data_folder(tmp_path / "in", Header(srow=TILTED, s_code=1)) / "image.nii.gz"
    precompute(tmp_path / "in", recipe=Recipe(classes={1: "organ"}), out=tmp_path / "out", workers=0)
    (tmp_path / "out/volumes.zarr").rename(tmp_path / "private")
    assert overlay(judged(exported(tmp_path / "out", tmp_path / "maps.nii.gz")), judged(source))


# --- the rule, header by header ------------------------------------------------------------------------------------

QFORM = {"quatern": ROTATION_Z, "qoffset": (40.0, 30.0, -50.0), "pixdim": (0.5, 0.6, 2.0)}


@pytest.mark.parametrize(
    ("header", "spacing", "says"),
    [
        (Header(srow=AXES, s_code=2, pixdim=(1.0, 1.0, 1.0)), (0.5, 0.6, 2.0), "pixdim says voxels of 1 × 1 × 1 mm"),
        (Header(srow=AXES, s_code=2, pixdim=(0.0, 0.0, 0.0)), (0.5, 0.6, 2.0), ""),
        (Header(srow=AXES, s_code=2, pixdim=(-0.5, 0.6, 2.0)), (0.5, 0.6, 2.0), ""),
        (Header(srow=OTHER_AXES, q_code=1, **QFORM), (0.5, 2.0, 0.9), r"sform \(code 1\) and qform \(code 1\)"),
        (Header(srow=OTHER_AXES, q_code=1, s_code=4, **QFORM), (0.5, 2.0, 0.9), r"sform \(code 4\) and qform"),
        (Header(srow=OTHER_AXES, q_code=1, s_code=0, **QFORM), (0.5, 0.6, 2.0), ""),
        (Header(srow=AXES * 0, q_code=1, s_code=1, **QFORM), (0.5, 0.6, 2.0), "spans no volume, the qform is used"),
        (Header(srow=AXES * np.nan, q_code=1, s_code=0, **QFORM), (0.5, 0.6, 2.0), ""),
        (Header(srow=AXES, s_code=0, pixdim=(3.0, 2.0, 1.0)), (3.0, 2.0, 1.0), "declares no place"),
        (Header(srow=AXES, s_code=0, pixdim=(-3.0, 2.0, 1.0)), (3.0, 2.0, 1.0), "the signs are left out"),
        (Header(srow=AXES, s_code=0, pixdim=(0.0, 2.0, 1.0)), (1.0, 2.0, 1.0), "1 is taken in place of 0"),
        (Header(srow=TILTED), (0.5, 0.6, np.hypot(0.7, 2.0)), "not orthonormal"),
        (Header(srow=AXES, units=3), (0.5e-3, 0.6e-3, 2e-3), ""),
        (Header(srow=AXES, units=1), (500.0, 600.0, 2000.0), ""),
    ],
)
def test_one_transform_is_used_and_what_is_odd_is_said(tmp_path, header, spacing, says):
    if header.s_code and header.pixdim == (1.0, 1.0, 1.0) and "pixdim" not in says:
        header = replace(header, pixdim=tuple(np.linalg.norm(header.srow[:, :3], axis=0)))
    source = header.write(tmp_path / "a.nii.gz")
    _, geometry, note = read_image(source)
    np.testing.assert_allclose(geometry.spacing, spacing, rtol=1e-6)
    assert re.search(says, note) if says else note == ""
    assert bool(read_volume([source], None, modalities=1).notes) == bool(note)


def test_axes_that_span_no_volume_are_refused(tmp_path):
    flat = AXES.copy()
    flat[:, 1] = flat[:, 0]
    with pytest.raises(InputError, match="orthonormal"):
        read_image(Header(srow=flat, pixdim=(0.5, 0.5, 2.0)).write(tmp_path / "a.nii"))


def test_bad_axes_are_one_line_with_the_reason(tmp_path):
    flat = f"{NRRD}space: left-posterior-superior\nspace directions: (1,0,0) (1,0,0) (0,0,1)\n\n"
    with pytest.raises(InputError, match="determinant is 0") as caught:
        read_image(raw(tmp_path / "a.nrrd", flat))
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("named", ["hdr", "img"])
def test_a_pair_is_placed_by_its_header_whichever_half_is_named(tmp_path, named):
    source = Header(srow=TILTED, pixdim=(9, 9, 9), units=3).write(tmp_path / "a.hdr")
    _, geometry, note = read_image(tmp_path / f"a.{named}")
    assert overlay(of_geometry(geometry.as_json()), judged(source))
    assert "pixdim says voxels of 0.009 × 0.009 × 0.009 mm" in note
    assert geometry.transforms.units == 3


def test_the_header_of_nifti_2_says_the_same(tmp_path):
    one = Header(srow=TILTED, q_code=1, s_code=3, **QFORM)
    for order in "<>":
        for version in (1, 2):
            path = replace(one, version=version, order=order).write(tmp_path / f"{version}.nii")
            found = Transforms.of_header(path.read_bytes()[:600])
            np.testing.assert_allclose(found.sform, nib.load(path).get_sform(), rtol=1e-6)
            np.testing.assert_allclose(found.qform, nib.load(path).get_qform(), atol=1e-6)


# --- other formats -------------------------------------------------------------------------------------------------

ANGLE = np.deg2rad(20)
SHEARED = (1, 0, 0, 0, 1, -np.sin(ANGLE), 0, 0, np.cos(ANGLE))


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_shear_of_other_formats_is_carried_and_said(tmp_path, ending):
    source = write(VOXELS, tmp_path / f"a{ending}", spacing=(0.8, 0.9, 2.1), origin=(1, 2, 3), direction=SHEARED)
    _, geometry, note = read_image(source)
    assert "not orthonormal (by up to 20 degrees)" in note
    write_image(VOXELS, geometry, tmp_path / "b.nii.gz")
    expected = np.eye(4)
    expected[:3, :3] = np.reshape(SHEARED, (3, 3)) * (0.8, 0.9, 2.1)
    expected[:3, 3] = 1, 2, 3
    expected = np.diag([-1, -1, 1, 1]) @ expected
    found = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(found.get_sform(), expected, atol=1e-5)
    assert (found.header["sform_code"], found.header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(found.header.get_zooms(), (0.8, 0.9, 2.1), rtol=1e-6)


def raw(path: Path, header: str) -> Path:
    path.write_bytes(header.encode() + VOXELS.tobytes())
    return path


NRRD = "NRRD0004\ntype: float\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
MHA = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
MHA_END = "DimSize = 6 5 4\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"


@pytest.mark.parametrize(
    ("name", "header", "spacing", "says"),
    [
        ("a.nrrd", f"{NRRD}\n", (1, 1, 1), r"says no voxel size; 1 × 1 × 1 mm \(x,y,z\) is taken"),
        ("a.nrrd", f"{NRRD}spacings: 0.5 nan 2\n\n", (0.5, 1, 2), "says no voxel size"),
        ("a.nrrd", f"{NRRD}spacings: 0.5 0.5 2\n\n", (0.5, 0.5, 2), ""),
        ("a.nrrd", f'{NRRD}spacings: 500 500 2000\nunits: "um" "um" "um"\n\n', (0.5, 0.5, 2), "unit of length is um"),
        ("a.nrrd", f'{NRRD}spacings: 1 1 2\nunits: "ell" "ell" "ell"\n\n', (1, 1, 2), "is ell; it is taken as mm"),
        ("a.mha", MHA + MHA_END, (1, 1, 1), "says no voxel size"),
        ("a.mha", f"{MHA}ElementSpacing = 1 1 2\n{MHA_END}", (1, 1, 2), ""),
        ("a.mha", f"{MHA}TransformMatrix = 2 0 0 0 1 0 0 0 1\nElementSpacing = 1 1 2\n{MHA_END}", (2, 1, 2), ""),
        ("a.mha", f"{MHA}DistanceUnits = um\nElementSpacing = 1 1 2\n{MHA_END}", (1e-3, 1e-3, 2e-3), "is um, not mm"),
    ],
)
def test_voxel_size_and_unit_of_text_headers(tmp_path, name, header, spacing, says):
    _, geometry, note = read_image(raw(tmp_path / name, header))
    np.testing.assert_allclose(geometry.spacing, spacing)
    np.testing.assert_allclose(np.linalg.norm(np.reshape(geometry.direction, (3, 3)), axis=0), 1)
    assert re.search(says, note) if says else note == ""


@pytest.mark.parametrize("line", ['units: "um" "um" "mm"', 'space units: "mm" "nm" "nm"'])
def test_several_units_in_one_header_are_refused(tmp_path, line):
    space = "space: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n" if "space" in line else "spacings: 1 1 1\n"
    with pytest.raises(InputError, match=r"several units of length, \w\w, \w\w; give all axes one"):
        read_image(raw(tmp_path / "a.nrrd", f"{NRRD}{space}{line}\n\n"))
    other = 'space: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace units: "" "" ""\n\n'
    assert read_image(raw(tmp_path / "b.nrrd", NRRD + other))[2] == ""


def test_a_negative_spacing_reverses_an_axis_in_the_header_as_in_the_volume(tmp_path):
    path = raw(tmp_path / "a.mha", f"{MHA}Offset = 5 6 7\nElementSpacing = -0.5 0.6 2\n{MHA_END}")
    _, geometry, _ = read_image(path)
    assert geometry.spacing == (0.5, 0.6, 2.0)
    assert geometry.direction[0] == -1
    assert read_case_header(Case(id="a", images=(path,), label=None), modalities=1) == geometry


def test_the_voxel_size_of_a_tiff_stands_beside_it(tmp_path):
    image = write(VOXELS, tmp_path / "i/a_0000.tif")
    label = write((VOXELS > 0).astype(np.uint8), tmp_path / "l/a.tif")
    unsaid = read_volume([image], None, modalities=1)
    np.testing.assert_allclose(unsaid.geometry.spacing, (1, 1, 1), rtol=1e-6)
    assert re.search(r"a_0000\.tif: says no voxel size; 1 × 1 × 1 mm .* to .*i/a\.json", unsaid.notes[0])
    (tmp_path / "i/a.json").write_bytes(b'\xef\xbb\xbf{"spacing": [2.5, 0.102, 0.2]}')
    assert read_volume([image], None, modalities=1).notes == ()
    both = read_volume([image], label, modalities=1)
    # nnU-Net takes the size of the label from its image, too
    assert both.geometry.spacing == (0.2, 0.102, 2.5)
    assert re.search(r"l/a\.tif: says no voxel size; that of .*i/a_0000\.tif is used", both.notes[0])
    (tmp_path / "l/a.json").write_text('{"spacing": [2.5, 0.102, 0.4]}')
    with pytest.raises(InputError, match="spacing"):
        read_volume([image], label, modalities=1)
    for wrong in ("{}", "[1, 2, 3]", '{"spacing": [1, 2]}', '{"spacing": [1, "a", 2]}', "{"):
        (tmp_path / "i/a.json").write_text(wrong)
        with pytest.raises(InputError, match=r'i/a\.json: is not \{"spacing": \[Z, Y, X\]\}'):
            read_volume([image], None, modalities=1)
    (tmp_path / "i/a.json").write_text('{"spacing": [1, 0, 2]}')
    with pytest.raises(InputError, match=r"i/a\.json: spacing .* is not positive"):
        read_volume([image], None, modalities=1)


# --- small voxels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-1, 1e-3, 1e-6])
def test_tolerances_follow_the_voxel(tmp_path, scale):
    image = write(VOXELS, tmp_path / "i.nrrd", spacing=(0.65 * scale,) * 3)
    for name, change in (
        ("spacing", {"spacing": (1.3 * scale, 0.65 * scale, 0.65 * scale)}),
        ("spacing", {"spacing": (0.66 * scale, 0.65 * scale, 0.65 * scale)}),
        ("origin", {"spacing": (0.65 * scale,) * 3, "origin": (0.65 * scale, 0, 0)}),
        ("origin", {"spacing": (0.65 * scale,) * 3, "origin": (0.02 * scale, 0, 0)}),
    ):
        with pytest.raises(InputError, match=rf"l\.nrrd: {name}"):
            read_volume([image], write(VOXELS * 0, tmp_path / "l.nrrd", **change), modalities=1)
    near = write(VOXELS * 0, tmp_path / "n.nrrd", spacing=(0.6503 * scale, 0.65 * scale, 0.65 * scale))
    assert read_volume([image], near, modalities=1).geometry.spacing[0] == pytest.approx(0.65 * scale)


@pytest.mark.parametrize("edge", [0.0000325, 0.00065, 0.0042, 0.0099, 1e-9])
def test_rounding_loses_nothing_of_small_voxels(edge):
    geometry = Geometry(
        size=(500, 500, 500),
        spacing=(edge, edge * 1.37, edge * 3),
        origin=(edge / 3, 0.1, -7.0),
        direction=np.eye(3).ravel(),
    )
    kept = Geometry.from_json(geometry.as_json())
    np.testing.assert_allclose(kept.spacing, geometry.spacing, rtol=1e-6)
    np.testing.assert_allclose(kept.origin, geometry.origin, atol=1e-6 * edge)
    assert Geometry.from_json(kept.as_json()) == kept


def test_rounding_of_ordinary_voxels_is_to_a_millionth_of_a_millimetre():
    geometry = Geometry(
        size=(5, 5, 5), spacing=(0.123456789, 1, 2), origin=(1 / 3, 0, 0), direction=tuple(np.eye(3).ravel())
    )
    assert geometry.as_json()["spacing"] == [0.123457, 1.0, 2.0]
    assert geometry.as_json()["origin"] == [0.333333, 0.0, 0.0]
