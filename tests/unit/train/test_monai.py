"""MONAI: maps go where the image goes, soft labels sum to 1 after every transform, and the loss is smallest at them."""

from __future__ import annotations

import doctest
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from datasets import write
from train_fixtures import GRID, make_stores

from geols_precompute import LabelStore, Recipe, precompute
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.orientation import turn_back
from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, ResolvedRecipe
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.writer import commit_case, create_store, write_manifest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai import transforms
    from monai.losses import DiceCELoss, DiceLoss

    from geols_train import monai as monai_module
    from geols_train.monai import LoadGeoLSd, MixSoftLabeld, soft_dice_ce_loss

# MONAI warns about NumPy and torch of the future
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

SHAPE = (19, 26, 22)
KEYS = ("image", "label", "maps")
MODES = ("bilinear", "nearest", "bilinear")
NEAREST = {"label": {"mode": "nearest"}}
PLAIN = {"spacing": (0.8, 1.1, 2.5), "origin": (-30.0, 12.0, 5.0), "direction": np.eye(3).ravel().tolist()}
#: As scanners give it: sagittal slices, with two axes that run against SimpleITK's.
SAGITTAL = {**PLAIN, "direction": [0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0]}


def smooth_fields(shape=SHAPE) -> np.ndarray:
    """Two fields in [0, 1], [2,z,y,x] float64, that change everywhere and are symmetric in no axis."""
    z, y, x = (np.arange(n) / n for n in shape)
    first = np.sin(4 * z + 1)[:, None, None] * np.cos(3 * y)[:, None] * np.exp(-x)
    second = (z[:, None, None] + 2 * y[:, None] ** 2 + 3 * x**3) / 6
    return np.stack([(first + 1) / 2, second])


def stored_case(folder: Path, *, grid=None, channels=None, case="case_a", ignore=None, file=None):
    """A case on disk whose maps are not those of its image, but `channels` [2,z,y,x] uint8; (store, data)."""
    grid = grid or PLAIN
    recipe = ResolvedRecipe(
        classes=ClassTable.from_names({2: "inner", 7: "outer"}, ignore=ignore),
        preprocessing=Preprocessing(modalities=("mr",)),
    )
    label = np.zeros(SHAPE, np.uint8)
    label[5:14, 4:15, 3:17] = 7
    label[7:12, 6:11, 8:15] = 2
    if ignore:
        label[:3] = ignore
    image = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    if channels is None:
        channels = np.stack([image, image // 2])
    path = write(image, folder / (file or f"{case}_0000.nii.gz"), **grid)
    label_path = write(label, folder / f"labels/{case}.nii.gz", **grid)
    root = folder / "labels.zarr"
    create_store(root, root_metadata("geols-labels", recipe.as_json(), recipe.classes, {}))
    geometry = Geometry(
        size=SHAPE[::-1], spacing=grid["spacing"], origin=grid["origin"], direction=tuple(grid["direction"])
    )
    digest = "0" * 64
    source = {"image_sha256": [digest], "label_sha256": digest, "geometry_sha256": digest}
    document = {"source": source, "present": [0, 2, 7], "channels": [2, 7], "seeds": {}, "stats": {}}
    commit_case(root, case, {"maps": channels}, geometry, document)
    write_manifest(root)
    return LabelStore.open(root), {"image": str(path), "label": str(label_path)}


def pipeline(store, *steps, lazy=False, overrides=None, seed=0):
    """Load, add the maps, and go through `steps`."""
    load = transforms.LoadImaged(("image", "label"), ensure_channel_first=True)
    composed = transforms.Compose([load, LoadGeoLSd("image", store), *steps], lazy=lazy, overrides=overrides)
    return composed.set_random_state(seed)


@contextmanager
def refused(message):
    """Expect an InputError of one line, which Compose wraps; its message is found in the chain."""
    with pytest.raises(RuntimeError, match=r"applying transform <geols_train\.monai") as error:
        yield
    cause = error.value.__cause__
    assert isinstance(cause, InputError)
    assert re.search(message, str(cause)), cause
    assert "\n" not in str(cause)


def results(found):
    return found if isinstance(found, list) else [found]


# --- where the maps go ------------------------------------------------------------------------------------------------

#: Transforms that move voxels without interpolation.
EXACT = {
    "none": [],
    "orientation RAS": [transforms.Orientationd(KEYS, axcodes="RAS", labels=None)],
    "orientation PIL": [transforms.Orientationd(KEYS, axcodes="PIL", labels=None)],
    "flips": [transforms.RandFlipd(KEYS, prob=1, spatial_axis=axis) for axis in (0, 2)],
    "axis flip": [transforms.RandAxisFlipd(KEYS, prob=1)],
    "rot90": [transforms.RandRotate90d(KEYS, prob=1, spatial_axes=(0, 2))],
    "crops": [transforms.RandCropByPosNegLabeld(KEYS, "label", (9, 12, 7), pos=2, neg=1, num_samples=3)],
    "foreground and padding": [
        transforms.CropForegroundd(KEYS, "label", margin=2),
        transforms.SpatialPadd(KEYS, (24, 24, 24)),
    ],
    "all": [
        transforms.Orientationd(KEYS, axcodes="LPS", labels=None),
        transforms.RandSpatialCropd(KEYS, (14, 13, 12), random_size=False),
        transforms.RandFlipd(KEYS, prob=1, spatial_axis=1),
        transforms.RandRotate90d(KEYS, prob=1, max_k=1),
    ],
}


@pytest.mark.parametrize("lazy", [False, True], ids=["", "lazy"])
@pytest.mark.parametrize("grid", [PLAIN, SAGITTAL, GRID], ids=["plain", "sagittal", "oblique"])
@pytest.mark.parametrize("name", EXACT)
def test_maps_are_moved_as_the_image_is_to_the_byte(tmp_path, name, grid, lazy):
    # the first map is the image, which MONAI reads from a file by itself
    store, data = stored_case(tmp_path, grid=grid)
    for found in results(pipeline(store, *EXACT[name], lazy=lazy)(data)):
        image, maps = found["image"].as_tensor()[0].numpy(), found["maps"].as_tensor().numpy()
        np.testing.assert_array_equal(maps[0], image)
        np.testing.assert_array_equal(maps[1], image // 2)
        torch.testing.assert_close(found["maps"].affine, found["image"].affine, rtol=0, atol=0)
        soft = MixSoftLabeld("label", store)(found)["soft"].as_tensor()
        np.testing.assert_allclose(soft.sum(dim=0), 1, atol=1e-5)


ANGLES = {"range_x": 0.4, "range_y": 0.3, "range_z": 0.5}
AFFINE = {"rotate_range": (0.3,) * 3, "scale_range": (0.2,) * 3, "shear_range": (0.1,) * 3, "translate_range": (2,) * 3}
ZEROS = {"prob": 1, "mode": MODES, "padding_mode": "zeros"}
#: Transforms that interpolate and whose affine says where to.
SMOOTH = {
    "spacing": [transforms.Spacingd(KEYS, pixdim=(1.3, 0.9, 1.7), mode=MODES)],
    "orientation": [transforms.Orientationd(KEYS, axcodes="PIL", labels=None)],
    "rotation": [transforms.RandRotated(KEYS, keep_size=False, **ANGLES, **ZEROS)],
    "scaling": [
        transforms.RandZoomd(KEYS, prob=1, min_zoom=1.2, max_zoom=1.4, mode=("trilinear", "nearest", "trilinear"))
    ],
    "affine": [transforms.RandAffined(KEYS, **AFFINE, **ZEROS)],
    "resized": [transforms.Resized(KEYS, (31, 17, 24), mode=("trilinear", "nearest-exact", "trilinear"))],
    "spacing and affine": [
        transforms.Orientationd(KEYS, axcodes="RAS", labels=None),
        transforms.Spacingd(KEYS, pixdim=(1.2, 1.2, 1.2), mode=MODES),
        transforms.RandFlipd(KEYS, prob=1, spatial_axis=0),
        transforms.RandRotate90d(KEYS, prob=1),
        transforms.RandAffined(KEYS, **AFFINE, **ZEROS),
    ],
}


def by_simpleitk(fields: np.ndarray, grid, affine: np.ndarray, shape_XYZ) -> np.ndarray:
    """Interpolate [k,z,y,x] linearly at the voxels [x,y,z] of a RAS affine, [k,x,y,z]; NaN outside.

    The grid may be sheared, so each voxel's place is asked for: SimpleITK's images have right angles.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    source = np.eye(4)
    source[:3, :3] = np.reshape(grid["direction"], (3, 3)) * grid["spacing"]
    source[:3, 3] = grid["origin"]
    # the image in its own voxels, and the transform from the wanted voxels to those
    transform = sitk.AffineTransform(3)
    indices = np.linalg.inv(source) @ lps
    transform.SetMatrix(indices[:3, :3].ravel().tolist())
    transform.SetTranslation(indices[:3, 3].tolist())
    wanted = sitk.Image([int(n) for n in shape_XYZ], sitk.sitkFloat64)
    images = [sitk.GetImageFromArray(field) for field in fields]
    found = [
        sitk.Resample(image, wanted, transform, sitk.sitkLinear, float("nan"), sitk.sitkFloat64) for image in images
    ]
    places = indices[:3, :3] @ np.indices(shape_XYZ).reshape(3, -1) + indices[:3, 3:]
    # SimpleITK extends the outermost half voxel
    inside = ((places >= 0) & (places <= np.array(SHAPE[::-1])[:, None] - 1)).all(axis=0).reshape(shape_XYZ)
    return np.where(inside, np.stack([sitk.GetArrayFromImage(image).transpose(2, 1, 0) for image in found]), np.nan)


@pytest.mark.parametrize("grid", [PLAIN, SAGITTAL, GRID], ids=["plain", "sagittal", "oblique"])
@pytest.mark.parametrize(
    ("name", "lazy"),
    # one after the other they interpolate twice; lazily, once
    [(name, lazy) for name in SMOOTH for lazy in (False, True) if lazy or name != "spacing and affine"],
)
def test_interpolated_maps_are_those_that_simpleitk_interpolates(tmp_path, name, grid, lazy):
    fields = smooth_fields()
    store, data = stored_case(tmp_path, grid=grid, channels=np.rint(255 * fields).astype(np.uint8))
    found = pipeline(store, *SMOOTH[name], lazy=lazy, overrides=NEAREST if lazy else None)(data)
    maps = found["maps"].as_tensor().double().numpy() / 255
    expected = by_simpleitk(fields, grid, found["maps"].affine.numpy(), maps.shape[1:])
    inside = ~np.isnan(expected)
    assert inside.mean() > 0.2
    assert np.abs(maps - expected)[inside].max() <= 1 / 255
    soft = MixSoftLabeld("label", store)(found)["soft"].as_tensor()
    np.testing.assert_allclose(soft.sum(dim=0), 1, atol=1e-5)


def test_elastic_deformations_move_maps_as_the_image(tmp_path):
    store, data = stored_case(tmp_path)
    elastic = transforms.Rand3DElasticd(KEYS, sigma_range=(3, 5), magnitude_range=(40, 80), **ZEROS)
    found = pipeline(store, elastic)(data)
    torch.testing.assert_close(found["maps"].as_tensor()[0], found["image"].as_tensor()[0], rtol=0, atol=1e-3)
    assert not torch.equal(found["maps"].as_tensor()[0].round(), torch.from_numpy(store.maps("case_a")[0].T).float())
    soft = MixSoftLabeld("label", store)(found)["soft"].as_tensor()
    np.testing.assert_allclose(soft.sum(dim=0), 1, atol=1e-5)


def test_a_lazy_pipeline_without_an_override_interpolates_the_label_and_is_refused(tmp_path):
    store, data = stored_case(tmp_path)
    steps = [transforms.RandAffined(KEYS, **AFFINE, **ZEROS), MixSoftLabeld("label", store)]
    with refused(r"'label' has values between those of classes, such as .* overrides="):
        pipeline(store, *steps, lazy=True)(data)
    found = pipeline(store, *steps, lazy=True, overrides=NEAREST)(data)
    assert set(found["label"].unique().tolist()) == {0, 2, 7}


def test_the_examples_in_docstrings_run(tmp_path, monkeypatch):
    make_stores(tmp_path, cases=2)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(monai_module)
    assert result.attempted > 0
    assert result.failed == 0


# --- the soft label ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["sum", "none"])
def test_the_soft_label_is_that_of_the_store(tmp_path, normalize):
    store, data = stored_case(tmp_path, grid=GRID, ignore=9)
    found = pipeline(store, MixSoftLabeld("label", store, alpha=0.3, normalize=normalize))(data)
    label = store.classes.indices(sitk.GetArrayFromImage(sitk.ReadImage(data["label"])).astype(np.int32))
    expected = store.soft_label("case_a", label, alpha=0.3, normalize=normalize).transpose(0, 3, 2, 1)
    np.testing.assert_allclose(found["soft"].as_tensor(), expected, atol=1e-6)
    assert not expected[..., :3].any()  # ignored
    torch.testing.assert_close(found["soft"].affine, found["image"].affine)
    assert found["present"].tolist() == [True, True, True]


def test_slices_and_batches_go_the_same_way(tmp_path):
    store, data = stored_case(tmp_path)
    found = pipeline(store)(data)
    flat = {**found, "label": found["label"][..., 8], "maps": found["maps"][..., 8]}
    mix = MixSoftLabeld("label", store)
    torch.testing.assert_close(mix(flat)["soft"].as_tensor(), mix(found)["soft"].as_tensor()[..., 8])


def test_what_does_not_fit_is_refused(tmp_path):
    store, data = stored_case(tmp_path)
    found = pipeline(store)(data)
    mix = MixSoftLabeld("label", store)
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\], got 2"):
        MixSoftLabeld("label", store, alpha=2)
    with pytest.raises(InputError, match="one key is needed, got image, label"):
        LoadGeoLSd(("image", "label"), store)
    with pytest.raises(InputError, match="label values without a class: 3 "):
        mix({**found, "label": found["label"] + (found["label"] == 2)})
    with pytest.raises(InputError, match="'label' has 3 channels"):
        mix({**found, "label": found["maps"].repeat(2, 1, 1, 1)[:3]})
    for forgetful in (
        transforms.RandFlipd(("image", "label"), prob=1, spatial_axis=1),
        transforms.SpatialCropd(("image", "label"), roi_start=(1, 1, 1), roi_end=(22, 26, 19)),
        transforms.Rotated(("image", "label"), angle=(0.4, 0.0, 0.0), mode=("bilinear", "nearest")),
    ):
        with pytest.raises(InputError, match=r"give 'maps' to every spatial transform"):
            mix(forgetful(found))


# --- which case, on which grid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["case_a.nii.gz", "case_a_0000.nii.gz", "case_a_img.nii.gz", "b.nii.gz"])
def test_the_case_is_that_of_the_file_or_of_the_key(tmp_path, file):
    store, data = stored_case(tmp_path, file=file)
    if file.startswith("case_a"):
        assert pipeline(store)(data)["maps"].shape == (2, *SHAPE[::-1])
    else:
        with refused(r"no case that the image '.*b.nii.gz' is named after; .* under 'case'"):
            pipeline(store)(data)
    np.testing.assert_array_equal(
        pipeline(store)({**data, "case": "case_a"})["maps"].as_tensor(), store.maps("case_a").transpose(0, 3, 2, 1)
    )
    with refused("no case 'other'"):
        pipeline(store)({**data, "case": "other"})


def test_an_image_on_another_grid_is_refused_in_one_line(tmp_path):
    store, data = stored_case(tmp_path)
    load = transforms.LoadImaged(("image", "label"), ensure_channel_first=True)
    for early in (
        transforms.Spacingd("image", pixdim=(1.0, 1.0, 1.0)),
        transforms.Orientationd("image", axcodes="RAS", labels=None),
        transforms.SpatialCropd("image", roi_start=(0, 0, 0), roi_end=(10, 10, 10)),
    ):
        with refused(r"case_a: the maps lie on \(22, 26, 19\) voxels of \(0.8, 1.1, 2.5\) mm, .*, the image on \("):
            transforms.Compose([load, early, LoadGeoLSd("image", store)])(data)
    elsewhere = {**PLAIN, "origin": (-29.0, 12.0, 5.0)}
    image = write(np.zeros(SHAPE, np.uint8), tmp_path / "other/case_a_0000.nii.gz", **elsewhere)
    with refused("this is not the image that the maps were computed from"):
        pipeline(store)({**data, "image": str(image)})
    with pytest.raises(InputError, match=r"needs 'image' as \[channel,x,y,z\] with its affine"):
        LoadGeoLSd("image", store)({"image": torch.zeros(1, 22, 26, 19)})


def test_a_file_that_declares_no_place_has_its_maps_in_the_order_of_its_voxels(tmp_path):
    import nibabel

    store, data = stored_case(tmp_path, grid={**PLAIN, "origin": (0.0, 0.0, 0.0)})
    image = nibabel.load(data["image"])
    voxels = np.asarray(image.dataobj)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(nibabel.Nifti1Image(voxels, None, image.header), tmp_path / "case_a.nii.gz")
    found = pipeline(store)({**data, "image": str(tmp_path / "case_a.nii.gz")})
    np.testing.assert_array_equal(found["maps"].as_tensor()[0], voxels)


# --- stores with a grid of their own ----------------------------------------------------------------------------------


@pytest.fixture
def oblique(tmp_path) -> Path:
    """An nnU-Net data set of one oblique case."""
    _, data = stored_case(tmp_path / "made", grid=GRID)
    for folder, name, key in (("imagesTr", "case_a_0000", "image"), ("labelsTr", "case_a", "label")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        Path(data[key]).rename(tmp_path / f"data/{folder}/{name}.nii.gz")
    description = '{"channel_names": {"0": "mr"}, "labels": {"background": 0, "inner": 2, "outer": 7},'
    (tmp_path / "data/dataset.json").write_text(description + '"numTraining": 1, "file_ending": ".nii.gz"}')
    return tmp_path / "data"


def case_of(folder: Path) -> dict[str, str]:
    return {"image": str(folder / "imagesTr/case_a_0000.nii.gz"), "label": str(folder / "labelsTr/case_a.nii.gz")}


def test_maps_of_turned_volumes_are_turned_to_the_image(oblique):
    store = LabelStore.open(precompute(oblique, recipe=Recipe(orientation="PIR"), workers=0).labels)
    found = pipeline(store, MixSoftLabeld("label", store))(case_of(oblique))
    file = sitk.ReadImage(case_of(oblique)["image"])
    geometry = Geometry(
        size=file.GetSize(), spacing=file.GetSpacing(), origin=file.GetOrigin(), direction=file.GetDirection()
    )
    assert store.metadata("case_a").geometry.size != geometry.size
    expected = turn_back(store.maps("case_a"), geometry, "PIR")
    np.testing.assert_array_equal(found["maps"].as_tensor(), expected.transpose(0, 3, 2, 1))
    np.testing.assert_allclose(found["soft"].as_tensor().sum(dim=0), 1, atol=1e-5)


def test_maps_of_resampled_volumes_are_resampled_to_the_image(oblique):
    store = LabelStore.open(precompute(oblique, recipe=Recipe(spacing=(2.0, 1.5, 1.0)), workers=0).labels)
    found = pipeline(store)(case_of(oblique))
    geometry = store.metadata("case_a").geometry
    assert geometry.spacing == (1.0, 1.5, 2.0)
    for stored, ours in zip(store.maps("case_a"), found["maps"].as_tensor().numpy(), strict=True):
        moving = sitk.GetImageFromArray(stored.astype(np.float64))
        moving.SetSpacing(geometry.spacing)
        moving.SetOrigin(geometry.origin)
        moving.SetDirection(geometry.direction)
        reference = sitk.ReadImage(case_of(oblique)["image"])
        resampled = sitk.Resample(moving, reference, sitk.Transform(), sitk.sitkLinear, -1.0, sitk.sitkFloat64)
        expected = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
        inside = expected >= 0
        assert inside.mean() > 0.8
        assert np.abs(ours - expected)[inside].max() <= 0.501


def test_another_image_is_refused_where_maps_are_resampled_too(oblique, tmp_path):
    store = LabelStore.open(precompute(oblique, recipe=Recipe(spacing=(2.0, 1.5, 1.0)), workers=0).labels)
    for change in ({"origin": (-12.5, 9.0, 40.75)}, {"direction": np.eye(3).ravel().tolist()}):
        path = write(np.zeros(SHAPE, np.uint8), tmp_path / "case_a.nii.gz", **{**GRID, **change})
        with refused("this is not the image that the maps were computed from"):
            pipeline(store)({**case_of(oblique), "image": str(path)})
    cropped = transforms.SpatialCropd("image", roi_start=(0, 0, 0), roi_end=(14, 20, 19))
    load = transforms.LoadImaged(("image", "label"), ensure_channel_first=True)
    with refused("Put LoadGeoLSd straight after LoadImaged"):
        transforms.Compose([load, cropped, LoadGeoLSd("image", store)])(case_of(oblique))


# --- the loss ---------------------------------------------------------------------------------------------------------


def soft_target(*, alpha=0.1, n=3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    hard = torch.nn.functional.one_hot(torch.randint(0, 3, (1, n, n, n), generator=generator), 3).movedim(-1, 1)
    maps = torch.rand(1, 3, n, n, n, generator=generator)
    return (1 - alpha) * hard + alpha * maps / maps.sum(dim=1, keepdim=True)


def distance_from_minimum(loss, y: torch.Tensor) -> float:
    """Mean of |p - y| where the loss of free logits is smallest."""
    logits = torch.zeros_like(y).requires_grad_()
    optimizer = torch.optim.Adam([logits], 0.1)
    steps = 400
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        loss(logits, y).backward()
        optimizer.step()
    return (logits.detach().softmax(dim=1) - y).abs().mean().item()


def test_its_minimum_is_the_soft_label_where_that_of_monai_is_not():
    y = soft_target()
    assert distance_from_minimum(soft_dice_ce_loss(include_background=False), y) < 1e-3
    assert distance_from_minimum(DiceCELoss(softmax=True, include_background=False), y) > 0.01
    assert distance_from_minimum(DiceLoss(softmax=True), y) > 0.04


def test_on_hard_labels_it_is_the_loss_of_monai():
    y = soft_target(alpha=0.0)
    logits = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = soft_dice_ce_loss(lambda_dice=0.5), DiceCELoss(softmax=True, lambda_dice=0.5)
    torch.testing.assert_close(ours(logits, y), theirs(logits, y))


def test_ignored_voxels_play_no_part_in_it():
    y = soft_target()
    logits = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    ignored = y.clone()
    ignored[..., :1] = 0
    other = logits.clone()
    other[..., :1] = 7 * torch.randn(other[..., :1].shape, generator=torch.Generator().manual_seed(2))
    loss = soft_dice_ce_loss()
    torch.testing.assert_close(loss(logits, ignored), loss(other, ignored))
    cropped = soft_dice_ce_loss(lambda_ce=0.0)
    torch.testing.assert_close(cropped(logits, ignored), cropped(logits[..., 1:], y[..., 1:]))


@pytest.mark.parametrize("option", [{"sigmoid": True}, {"to_onehot_y": True}, {"other_act": torch.tanh}])
def test_options_that_do_not_go_with_soft_labels_are_refused(option):
    with pytest.raises(InputError, match=f"{next(iter(option))} does not go with soft labels"):
        soft_dice_ce_loss(**option)
