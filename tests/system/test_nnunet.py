"""GeoLS in nnU-Net v2: maps on its preprocessed cases, cut and moved with its patches, mixed into its loss."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from commands import error_line, precompute, store
from nnunet_data import CASES, NnunetData, preprocess, write_raw

from geols_precompute import LabelStore
from geols_precompute.data.geometry import RAS_TO_LPS
from geols_precompute.errors import InputError, StoreError

pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: pip install nnunetv2")
# what nnU-Net and its packages warn of is their business
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

DATASET = "Dataset901_Positions"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory):
    """Where nnU-Net looks for data; versions before 2.7 ask once only, when they are imported."""
    data = NnunetData(tmp_path_factory.mktemp("nnunet"))
    before = dict(os.environ)
    os.environ.update(data.environment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its tensors are small
    yield data
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def data(places):
    """Two configurations, preprocessed, with maps."""
    write_raw(places)
    preprocess(places, ("3d_fullres", "2d"))
    done = precompute("--nnunet", DATASET, "-c", "3d_fullres", "-c", "2d")
    assert done.exit_code == 0, done.output
    return places


@pytest.fixture
def other(places):
    """Room for another data set in the same place, which is there before and after the test."""
    kept = [(folder, folder.with_name("kept")) for folder in (places.raw, places.base) if folder.exists()]
    for folder, elsewhere in kept:
        folder.rename(elsewhere)
    yield places
    for folder in (places.raw, places.base):
        shutil.rmtree(folder, ignore_errors=True)
    for folder, elsewhere in kept:
        elsewhere.rename(folder)


def store_of(data: NnunetData, configuration="3d_fullres") -> Path:
    return data.base / "geols" / f"nnUNetPlans_{configuration}" / "labels.zarr"


def trainer_of(cls, data: NnunetData, configuration="3d_fullres"):
    """A trainer as nnUNetv2_train makes it."""
    plans = json.loads((data.base / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    description = json.loads((data.base / "dataset.json").read_text())
    return cls(plans=plans, configuration=configuration, fold=0, dataset_json=description, device=torch.device("cpu"))


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  # nnU-Net draws from it
    torch.manual_seed(number)


def losses(cls, data: NnunetData, configuration="3d_fullres", steps=3) -> list[float]:
    """The losses of some steps; training and validation loaders draw alike in every trainer."""
    seed(0)
    trainer = trainer_of(cls, data, configuration)
    trainer.on_train_start()
    seed(1)
    trainer.network.train()
    return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(steps)]


# --- maps on nnU-Net's grid -------------------------------------------------------------------------------------------


def test_a_store_beside_each_configuration_and_how_to_train_on_it(data):
    again = precompute("--nnunet", "901", "-c", "2d", "-c", "3d_fullres")
    assert again.output.count(f"0 cases computed, {CASES} unchanged, 0 failed") == 2
    *_, find, first, second = again.output.strip().splitlines()
    assert ("nnUNet_extTrainer=" in find) or find.startswith("ln -sf ")
    assert (first, second) == (
        "nnUNetv2_train 901 2d 0 -tr nnUNetTrainerGeoLS",
        "nnUNetv2_train 901 3d_fullres 0 -tr nnUNetTrainerGeoLS",
    )
    assert Path(find.split("=")[-1].removeprefix("ln -sf ").split()[0]).exists()
    labels = LabelStore.open(store_of(data))
    assert labels.classes.names == ("background", "inner", "outer")
    assert len(labels) == CASES
    # outside its mask nnU-Net has -1, which is background
    assert labels.class_maps("case_0").min() >= 0


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_an_export_overlays_on_the_source_image(data, tmp_path, configuration):
    """The image holds the position of its voxels, so what nnU-Net has made of it says where its voxels are."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    folder = str(data.folder(configuration))
    for case in ("case_0", "case_3"):
        path = tmp_path / f"{case}.nii.gz"
        assert store("export", store_of(data, configuration), "--case", case, "-o", path).exit_code == 0
        exported = nibabel.load(path)
        positions_mm = np.asarray(infer_dataset_class(folder)(folder).load_case(case)[0][:]) * 100  # [xyz,z,y,x], LPS
        assert exported.shape[:3] == positions_mm.shape[:0:-1]
        # nnU-Net's linear interpolation is exact inside, and flat in the outermost voxels
        inner = np.argwhere(np.ones([n - 4 for n in positions_mm.shape[1:]])) + 2
        assert len(inner) > 0
        found = (RAS_TO_LPS @ exported.affine @ np.c_[inner[:, ::-1], np.ones(len(inner))].T)[:3]
        expected = positions_mm[:, inner[:, 0], inner[:, 1], inner[:, 2]]
        smallest_mm = 0.8
        np.testing.assert_allclose(found, expected, atol=1e-3 * smallest_mm)


def test_corners_of_an_export_lie_in_the_source_image(data, tmp_path):
    """Edges of the crop stay edges: half a voxel beyond the corner is where the crop of the source ends."""
    path = tmp_path / "case_1.nii.gz"
    assert store("export", store_of(data), "--case", "case_1", "-o", path).exit_code == 0
    exported, source = nibabel.load(path), nibabel.load(data.raw / "imagesTr/case_1_0000.nii.gz")
    to_source = np.linalg.inv(source.affine) @ exported.affine
    low, high = np.full(3, -0.5), np.array(exported.shape[:3]) - 0.5
    ends = np.sort([(to_source @ [*end, 1])[:3] for end in (low, high)], axis=0)
    inside = np.argwhere(np.asarray(source.dataobj) != 0)
    np.testing.assert_allclose(ends, [inside.min(0) - 0.5, inside.max(0) + 0.5], atol=1e-3)


def test_what_was_preprocessed_again_is_refused_until_it_is_computed_again(other):
    from geols_train.nnunet import nnUNetTrainerGeoLS

    write_raw(other)
    preprocess(other)
    assert precompute("--nnunet", DATASET).exit_code == 0
    # a copy of the same arrays is the same data
    copied = other.folder().with_name("copy")
    shutil.copytree(other.folder(), copied)
    shutil.rmtree(other.folder())
    copied.rename(other.folder())
    trainer_of(nnUNetTrainerGeoLS, other).on_train_start()
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    kind = infer_dataset_class(str(other.folder()))
    data, label, *_, properties = kind(str(other.folder())).load_case("case_2")
    changed = np.array(label[:])
    changed[0, 2:4, 2:4, 2:4] = 1
    image = np.array(data[:])
    for path in other.folder().glob("case_2*"):
        path.unlink()
    kind.save_case(image, changed, properties, str(other.folder() / "case_2"))
    with pytest.raises(StoreError, match=r"maps of case_2 are of other data \(label differs\); run geols-precompute "):
        trainer_of(nnUNetTrainerGeoLS, other).on_train_start()
    again = precompute("--nnunet", DATASET)
    assert f"1 case computed, {CASES - 1} unchanged" in again.output
    trainer_of(nnUNetTrainerGeoLS, other).on_train_start()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nnunet", "999"], "Could not find a dataset with the ID 999"),
        (["--nnunet", DATASET, "-c", "3d_half"], "has no such configuration; it has 3d_fullres, 2d, 3d_lowres"),
        (["--nnunet", DATASET, "-c", "3d_lowres"], "does not exist; run nnUNetv2_preprocess"),
        (["--nnunet", DATASET, "-p", "others"], "run nnUNetv2_plan_and_preprocess, or name other plans with -p"),
        (["--nnunet", DATASET, "folder"], "leave out DATA"),
        (["--nnunet", DATASET, "--orientation", "RAS"], "nnU-Net trains on these arrays as they lie"),
        (["-c", "2d", "folder"], "-c and -p belong to --nnunet DATASET"),
    ],
)
def test_what_cannot_be_found_or_asked_for_is_said_in_one_line(data, flags, said):
    done = precompute(*flags)
    assert done.exit_code == 2
    assert said in error_line(done)


def test_maps_of_numpy_files_are_those_of_blosc2(data, other, tmp_path):
    """Versions before 2.6 have written .npz, and newer ones still read it."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

    kept = other.base.with_name("kept")
    other.base.mkdir(parents=True)
    for name in ("nnUNetPlans.json", "dataset.json"):
        shutil.copy(kept / name, other.base / name)
    other.folder().mkdir()
    cases = nnUNetDatasetBlosc2(str(kept / other.folder().name))
    for case in cases.identifiers:
        image, label, *_, properties = cases.load_case(case)
        nnUNetDatasetNumpy.save_case(image[:], label[:], properties, str(other.folder() / case))
    assert precompute("--nnunet", DATASET).exit_code == 0
    there = LabelStore.open(kept / "geols" / other.folder().name / "labels.zarr")
    assert LabelStore.open(store_of(other)).digest == there.digest


# --- patches ----------------------------------------------------------------------------------------------------------


def moved_by(transforms, image, label):
    """Image, label and stored maps of a patch after transforms, as the loader gives them."""
    done = transforms(image=image.clone(), segmentation=label.clone())
    return done["image"], done["segmentation"][0], done["segmentation"][-1]


def test_flips_and_quarter_turns_and_crops_move_maps_as_they_move_the_image(data):
    """To the byte: against the maps cut and moved by NumPy."""
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    from geols_train.nnunet import MovesMaps, WithMaps

    labels = LabelStore.open(store_of(data))
    cases = infer_dataset_class(str(data.folder()))(str(data.folder()))
    both, label, *_ = WithMaps(cases, labels).load_case("case_4")
    assert both.shape == (5, *label.shape[1:])
    box = (slice(1, 7), slice(2, 12), slice(3, 13))
    cut = both[(slice(None), *box)]
    np.testing.assert_array_equal(cut[:3], np.asarray(cases.load_case("case_4")[0][:])[(slice(None), *box)])
    np.testing.assert_array_equal(cut[3:], labels.maps("case_4")[(slice(None), *box)])
    mirrored = MovesMaps(ComposeTransforms([MirrorTransform((0, 1, 2)), Rot90Transform(1, (1, 2), (1, 2))]), 2)
    whole = torch.from_numpy(cut)
    index = torch.arange(cut[0].size, dtype=torch.float32).reshape(cut[0].shape)
    whole[0] = index  # where each voxel came from
    for number in range(8):
        seed(number)
        image, _, maps = moved_by(mirrored, whole, torch.from_numpy(np.asarray(label[:])[(slice(None), *box)]))
        source = image[0].long().flatten()
        np.testing.assert_array_equal(
            maps.flatten(1).numpy(), labels.maps("case_4")[(slice(None), *box)].reshape(2, -1)[:, source]
        )
        assert maps.dtype == torch.uint8


def test_rotation_and_scaling_interpolate_maps_as_an_oracle_does(data):
    """Within a rounding: SciPy, at the places that the image says; and the soft label still sums to 1."""
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from scipy.ndimage import map_coordinates

    from geols_train.nnunet import MovesMaps
    from geols_train.targets import class_maps, soft_label

    labels = LabelStore.open(store_of(data))
    stored = labels.maps("case_5")
    spatial = SpatialTransform(
        stored.shape[1:], patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0, p_rotation=1,
        rotation=(-0.5, 0.5), p_scaling=1, scaling=(0.7, 1.4), p_synchronize_scaling_across_axes=1,
    )  # fmt: skip
    # where each voxel came from, and 1, which padding makes less
    places = [*np.indices(stored.shape[1:]), np.ones(stored.shape[1:])]
    both = torch.from_numpy(np.stack([*places, *stored]).astype(np.float32))
    label = torch.zeros((1, *stored.shape[1:]), dtype=torch.int16)
    for number in range(4):
        seed(number)
        image, _, maps = moved_by(MovesMaps(spatial, 2), both, label)
        inside = image[3].numpy() > 0.9999
        assert inside.sum() > 500
        for moved, map_ZYX in zip(maps.numpy(), stored, strict=True):
            expected = map_coordinates(map_ZYX.astype(float), image[:3].numpy(), order=1)
            assert np.abs(moved - expected)[inside].max() <= 0.5 + 0.01
        g = class_maps(maps[None], channels=labels.channels, present=torch.ones(1, 3, dtype=bool), n_classes=3)
        y = soft_label(label.long(), g, alpha=0.1)
        assert (y.sum(1) - 1).abs().max() <= 1e-5


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_alpha_0_trains_as_nnunet_does_to_the_bit_and_alpha_changes_it(data, configuration):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from geols_train.nnunet import trainer_named

    stock = losses(nnUNetTrainer, data, configuration)
    assert losses(trainer_named("nnUNetTrainerGeoLS_a0"), data, configuration) == stock
    assert losses(trainer_named("nnUNetTrainerGeoLS_a0p1"), data, configuration) != stock


def plain_cross_entropy(logits, y, counted):
    return -(y * logits.double().log_softmax(1)).sum(1)[counted].mean()


@pytest.mark.parametrize("ignore", [None, 3])
def test_the_loss_is_soft_cross_entropy_and_nnunets_dice(data, ignore):
    """Against the soft label written out: in float64, at every scale."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    from geols_train.nnunet import SoftLabelLoss

    labels = LabelStore.open(store_of(data))
    stock = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, weight_ce=0.7, weight_dice=1.3,
        ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss,
    )  # fmt: skip
    loss = SoftLabelLoss(DeepSupervisionWrapper(stock, [0.75, 0.25]), labels, alpha=0.3, regions=None, ignore=ignore)
    loss.cases = ["case_0", "case_1"]
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn((2, 3, *shape), generator=generator, requires_grad=True) for shape in ((8, 8, 8), (4, 4, 4))]
    maps = torch.from_numpy(np.stack([labels.maps(c)[:, 1:9, 3:11, 3:11] for c in loss.cases]))
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=generator, dtype=torch.int16)
    if ignore is not None:
        target[:, :, :2] = ignore
    hard = [target, target[..., 1::2, 1::2, 1::2]]
    found = loss(logits, [*hard, maps])
    expected = 0
    for weight, x, label, stored in zip((0.75, 0.25), logits, hard, (maps, maps[..., 1::2, 1::2, 1::2]), strict=True):
        g = np.stack([softlabel_maps(labels, c, s.numpy()) for c, s in zip(loss.cases, stored, strict=True)])
        g = torch.from_numpy(g / g.sum(1, keepdims=True)).double()
        counted = (label != 3)[:, 0]
        onehot = torch.nn.functional.one_hot(torch.where(counted, label[:, 0], 0).long(), 3).movedim(-1, 1)
        y = 0.7 * onehot + 0.3 * g
        dice = stock.dc(
            x, torch.where(counted[:, None], label, 0), loss_mask=None if ignore is None else counted[:, None]
        )
        expected = expected + weight * (0.7 * plain_cross_entropy(x, y, counted) + 1.3 * dice.double())
    assert float(found) == pytest.approx(float(expected), abs=2e-6)
    slopes = torch.autograd.grad(found, logits, retain_graph=True)
    for slope, wanted in zip(slopes, torch.autograd.grad(expected, logits), strict=True):
        torch.testing.assert_close(slope, wanted, atol=1e-7, rtol=1e-4)


def softlabel_maps(labels, case, stored):
    from geols_precompute.softlabel import class_maps

    return class_maps(stored, channels=labels.channels, present=labels.present(case), n_classes=3)


@pytest.mark.parametrize("ignore", [False, True])
def test_regions_take_the_sum_of_their_classes(other, ignore):
    from geols_train.nnunet import SoftLabelLoss, nnUNetTrainerGeoLS

    write_raw(other, labels={"background": 0, "whole": [1, 2], "inner": [1]}, ignore=ignore)
    preprocess(other)
    assert precompute("--nnunet", DATASET).exit_code == 0
    trainer = trainer_of(nnUNetTrainerGeoLS, other)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.train_step(batch)
    loss = trainer.loss
    assert isinstance(loss, SoftLabelLoss)
    assert loss.regions == [[1, 2], [1]]
    *labels, maps = batch["target"]
    x = torch.randn((2, 2, *maps.shape[2:]), generator=torch.Generator().manual_seed(0))
    target = labels[0].float()
    g = np.stack([softlabel_maps(loss.store, c, m.numpy()) for c, m in zip(loss.cases, maps, strict=True)])
    g = torch.from_numpy(g / g.sum(1, keepdims=True))
    y = 0.9 * target[:, :2] + 0.1 * torch.stack([g[:, 1:].sum(1), g[:, 1]], 1)
    mask = 1 - target[:, 2:] if ignore else torch.ones_like(target[:, :1])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none") * mask
    stock = getattr(loss.stock, "loss", loss.stock)
    dice = stock.dc(x, labels[0][:, :2], loss_mask=mask if ignore else None)
    expected = plain.sum() / (mask.sum() if ignore else plain.numel()) + dice
    one = SoftLabelLoss(stock, loss.store, alpha=0.1, regions=[(1, 2), 1], ignore=3 if ignore else None)
    one.cases = loss.cases
    assert float(one(x, [labels[0], maps])) == pytest.approx(float(expected), abs=2e-6)


def test_an_ignored_label_and_the_stages_of_a_cascade_train(other):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from geols_train.nnunet import nnUNetTrainerGeoLS, trainer_named

    write_raw(other, ignore=True)
    preprocess(other, ("3d_fullres", "3d_lowres"))
    done = precompute("--nnunet", DATASET, "-c", "3d_lowres", "-c", "3d_cascade_fullres")
    assert done.exit_code == 0, done.output
    trainer = trainer_of(nnUNetTrainerGeoLS, other, "3d_lowres")
    trainer.on_train_start()
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    # what the first stage has predicted: its own labels, in the folder where nnU-Net looks for them
    for cls in (nnUNetTrainer, trainer_named("nnUNetTrainerGeoLS_a0")):
        cascade = trainer_of(cls, other, "3d_cascade_fullres")
        predicted = Path(cascade.folder_with_segs_from_previous_stage)
        predicted.mkdir(parents=True, exist_ok=True)
        for path in other.folder().glob("*_seg.b2nd"):
            import blosc2

            label = np.clip(np.asarray(blosc2.open(str(path))[0]), 0, 2).astype(np.uint8)
            blosc2.asarray(label, urlpath=str(predicted / path.name.replace("_seg", "")), mode="w")
    alike = [
        losses(cls, other, "3d_cascade_fullres", 2) for cls in (nnUNetTrainer, trainer_named("nnUNetTrainerGeoLS_a0"))
    ]
    assert alike[0] == alike[1]


def test_a_loss_without_plain_cross_entropy_is_refused_by_name(data):
    from nnunetv2.training.loss.compound_losses import DC_and_topk_loss

    from geols_train.nnunet import SoftLabelLoss

    labels = LabelStore.open(store_of(data))
    for loss, name in ((DC_and_topk_loss({}, {"k": 10}), "DC_and_topk_loss"), (torch.nn.MSELoss(), "MSELoss")):
        with pytest.raises(InputError, match=f"this trainer's loss is {name}; put the mixin before"):
            SoftLabelLoss(loss, labels, alpha=0.1, regions=None, ignore=None)


# --- trainers ---------------------------------------------------------------------------------------------------------


def test_trainers_by_name(monkeypatch):
    import geols_train.nnunet as ours

    trainer = ours.nnUNetTrainerGeoLS_a0p25
    assert trainer.geols_alpha == 0.25
    assert trainer.__name__ == "nnUNetTrainerGeoLS_a0p25"
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    assert not hasattr(ours, "nnUNetTrainerOther")
    assert not hasattr(ours, "nnUNetTrainerGeoLS_a2")
    for text, alpha in (("0.3", 0.3), ("1", 1.0)):
        monkeypatch.setenv("GEOLS_ALPHA", text)
        assert ours.alpha_of(None) == alpha
        assert ours.alpha_of(0.0) == 0.0
    for text in ("much", "1.5", "nan"):
        monkeypatch.setenv("GEOLS_ALPHA", text)
        with pytest.raises(InputError, match=f"GEOLS_ALPHA must be a number in \\[0, 1\\], got '{text}'"):
            ours.alpha_of(None)


def test_a_checkpoint_names_nnunets_own_trainer_unless_the_network_is_another(data, tmp_path):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from geols_train.nnunet import GeoLSTrainerMixin, trainer_named

    class OtherNetwork(GeoLSTrainerMixin, nnUNetTrainer):
        @staticmethod
        @functools.wraps(nnUNetTrainer.build_network_architecture)
        def build_network_architecture(*args, **kwargs):
            return nnUNetTrainer.build_network_architecture(*args, **kwargs)

    for cls, name in ((trainer_named("nnUNetTrainerGeoLS_a0p2"), "nnUNetTrainer"), (OtherNetwork, "OtherNetwork")):
        trainer = trainer_of(cls, data)
        trainer.initialize()  # as for validation and prediction: no maps are needed
        trainer.save_checkpoint(str(tmp_path / "c.pth"))
        assert torch.load(tmp_path / "c.pth", weights_only=False)["trainer_name"] == name
        assert cls.__name__ in trainer.output_folder
        assert type(trainer).__name__ == cls.__name__
    # go on, as --c does
    again = trainer_of(trainer_named("nnUNetTrainerGeoLS_a0p2"), data)
    again.load_checkpoint(str(tmp_path / "c.pth"))
    again.on_train_start()
    assert np.isfinite(again.train_step(next(again.dataloader_train))["loss"])


def test_the_trainers_of_the_page_train(data):
    """Before nnU-Net's own variants, too: without Dice the loss is the soft cross-entropy alone."""
    from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
    from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceLoss

    from geols_train.nnunet import GeoLSTrainerMixin

    names: dict[str, type] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/nnunet.md").read_text(), re.DOTALL):
        exec(compile(block, "docs/nnunet.md", "exec"), names)
    short, without_dice = names["nnUNetTrainerGeoLS_short"], names["nnUNetTrainerGeoLSWithoutDice"]
    trainer = trainer_of(short, data)
    trainer.on_train_start()
    assert (trainer.num_epochs, trainer.loss.alpha) == (100, 0.2)
    soft, hard = losses(without_dice, data), losses(nnUNetTrainerCELoss, data)
    assert all(loss > 0 for loss in soft)
    assert soft != hard
    dice = type("OnlyDice", (GeoLSTrainerMixin, nnUNetTrainerDiceLoss), {})
    with pytest.raises(InputError, match="this trainer's loss is MemoryEfficientSoftDiceLoss"):
        trainer_of(dice, data).on_train_start()


def test_maps_that_are_not_there_or_of_other_classes_are_refused(data, monkeypatch):
    from geols_train.nnunet import nnUNetTrainerGeoLS

    monkeypatch.setenv("GEOLS_LABELS", "erosion")
    with pytest.raises(StoreError, match=r"no label store .*erosion.zarr; run geols-precompute --nnunet Dataset901"):
        trainer_of(nnUNetTrainerGeoLS, data).on_train_start()
    assert precompute("--nnunet", DATASET, "--name", "erosion", "--seeds", "erosion").exit_code == 0
    trainer_of(nnUNetTrainerGeoLS, data).on_train_start()
