"""Tiny stores with maps made by hand, and configurations that train on them in a second."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from geols_precompute.data.geometry import Geometry
from geols_precompute.data.prepare import to_int16
from geols_precompute.digests import sha256_hex
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters, Preprocessing, ResolvedRecipe, TrainingHints
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.writer import commit_case, create_store, write_manifest
from geols_train.checkpoint import NetworkSpec
from geols_train.config import TrainConfig
from geols_train.data import CaseReader
from geols_train.device import ONE_PROCESS
from geols_train.log import read_log
from geols_train.predict import Predictor
from geols_train.run import make_spec
from geols_train.softening import Softening
from geols_train.splits import make_split
from geols_train.stores import Stores
from geols_train.training import Trainer

# the networks of the tests are so small that threads only wait for each other
torch.set_num_threads(1)


SHAPE = (10, 12, 11)


NAMES = {2: "inner", 5: "outer"}


def ball_label(rng, shape=SHAPE, classes=2):
    """Class indices [z,y,x]: balls of all classes, side by side along y."""
    grid = np.indices(shape).astype(float)
    label = np.zeros(shape, np.uint8)
    for index in range(1, classes + 1):
        centre = np.array([0.5, index / (classes + 1), 0.5]) * shape + rng.uniform(-1, 1, 3)
        label[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= (0.2 * min(shape)) ** 2] = index
    return label


def make_stores(
    out: Path,
    *,
    cases=6,
    shape=SHAPE,
    names=NAMES,
    modalities=1,
    hints=None,
    background="complement",
    ignore=None,
    spacing=(1.0, 1.5, 2.0),
    absent=(),
    vary=False,
) -> Path:
    """Write volumes.zarr and labels.zarr of `cases` cases; class index 2 is absent from the cases in `absent`."""
    recipe = ResolvedRecipe(
        classes=ClassTable.from_names(names, ignore=ignore),
        preprocessing=Preprocessing(modalities=tuple(f"m{i}" for i in range(modalities))),
        maps=MapParameters(background=background),
        hints=hints or TrainingHints(),
    )
    volumes, labels = out / "volumes.zarr", out / "labels.zarr"
    training = {"training": recipe.hints.as_json()}
    create_store(volumes, root_metadata("geols-volumes", recipe.preprocessing_json(), recipe.classes, training))
    create_store(labels, root_metadata("geols-labels", recipe.as_json(), recipe.classes, {}))
    for number in range(cases):
        rng = np.random.default_rng(number)
        size = tuple(n + int(rng.integers(-2, 4)) for n in shape) if vary else shape
        label = ball_label(rng, size, len(names))
        if number in absent:
            label[label == 2] = 0
        if ignore is not None:
            label[0] = 255
        commit_fixture(out, f"case_{number:02d}", label, recipe, rng, spacing)
    write_manifest(volumes)
    write_manifest(labels)
    return out


def commit_fixture(out, case, label, recipe, rng, spacing):
    geometry = Geometry(
        size=label.shape[::-1], spacing=spacing[::-1], origin=(1.0, -2.0, 3.0), direction=tuple(np.eye(3).ravel())
    )
    hard = np.where(label == 255, 0, label)
    count = len(recipe.preprocessing.modalities)
    image = np.stack([100.0 * (m + 1) * hard + rng.normal(0, 15, label.shape) for m in range(count)])
    stored, scale, offset = to_int16(np.rint(image).astype(np.float32))
    values = recipe.classes.values
    present = [i for i in recipe.channels if (label == i).any()]
    distances = {i: ndimage.distance_transform_edt(label != i) for i in recipe.channels}
    maps = np.stack([np.rint(255 * np.exp(-d / 3)) * (i in present) for i, d in distances.items()]).astype(np.uint8)
    digest = sha256_hex(case.encode())
    source = {"image_sha256": [digest] * len(image), "label_sha256": digest, "geometry_sha256": digest}
    document = {"source": source, "source_geometry": geometry.as_json(), "image": {"scale": scale, "offset": offset}}
    commit_case(out / "volumes.zarr", case, {"image": stored, "label": label}, geometry, document)
    document = {
        "source": source,
        "present": [values[i] for i in present],
        "channels": [values[i] for i in recipe.channels],
        "seeds": {},
    }
    commit_case(out / "labels.zarr", case, {"maps": maps}, geometry, {**document, "stats": {}})


def open_fixture(out: Path) -> Stores:
    return Stores(volumes=VolumeStore.open(out / "volumes.zarr"), labels=LabelStore.open(out / "labels.zarr"))


def make_fixture_reader(out: Path) -> CaseReader:
    stores = open_fixture(out)
    reader = CaseReader(stores=stores, maps_needed=True)
    zscores = {case: reader.examined(case) for case in stores.cases}
    return CaseReader(stores=stores, maps_needed=True, zscores=zscores)


def tiny_config(out: Path, **changes) -> TrainConfig:
    """Two levels, two epochs, three training cases: about a second."""
    settings = {
        "data": out,
        "epochs": 2,
        "batch_size": 2,
        "lr": 1e-2,
        "features": (4, 8),
        "split": "3,1,2",
        "device": "cpu",
        "precision": "float32",
        "crop": (8, 10, 8),
    }
    return TrainConfig(**{**settings, **changes})


def make_trainer(out: Path, reader: CaseReader, folder: Path, **changes) -> Trainer:
    """A trainer of `tiny_config` over the stores in `out`."""
    config = tiny_config(out, **changes)
    folder.mkdir(exist_ok=True)
    split = make_split(config.split, reader.stores.cases, seed=0)
    reader = replace(reader, softening=Softening.of(config))
    return Trainer(config, reader, split, make_spec(config, reader.stores), folder, config.random_seed, ONE_PROCESS)


def trainers(out: Path, reader: CaseReader, parent: Path):
    """A function that makes trainers, each in a new folder below `parent` unless it is given one."""
    numbers = itertools.count()

    def make(folder=None, **changes):
        return make_trainer(out, reader, folder or parent / f"run{next(numbers)}", **changes)

    return make


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in read_log(trainer.folder) if "epoch" not in line]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.network.state_dict().values()])


#: A rotation about two axes, and spacings that differ.
ANGLE = 0.37


ROTATION = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, np.cos(1.1), -np.sin(1.1)], [0, np.sin(1.1), np.cos(1.1)]]
)


GRID = {"spacing": (0.7, 1.3, 2.9), "origin": (-12.5, 3.25, 40.75), "direction": ROTATION.ravel().tolist()}


class Threshold(nn.Module):
    """Tells the two values of a label-like image apart: class 1 where it is bright, class 2 where it is brightest."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, image):
        low, high = image.amin(), image.amax()
        level = (image - low) / (high - low)
        return -self.scale * torch.cat([(level - v).abs() for v in (0.0, 0.5, 1.0)], dim=1)


def predictor(spacing=None, window=(8, 8, 8)):
    spec = NetworkSpec(
        features=(4, 8),
        classes=ClassTable.from_names({7: "a", 300: "b"}),
        skull_stripped=False,
        window=window,
        overlap=0.5,
        preprocessing=Preprocessing(modalities=("ct",), spacing=spacing),
        regions={},
    )
    return Predictor(network=Threshold(), spec=spec, precision="float32")


def label_like():
    label = np.zeros((9, 14, 17), np.int16)
    label[2:7, 3:9, 4:13] = 1
    label[3:6, 5:8, 6:10] = 2
    return label


SPEC = NetworkSpec(
    features=(4, 8),
    classes=ClassTable.from_names({2: "inner", 900: "outer"}, ignore=3),
    preprocessing=Preprocessing(modalities=("a", "b"), spacing=(2.5, 2.0, 2.0), clip=(0.5, 99.5)),
    skull_stripped=True,
    window=(8, 9, 10),
    overlap=0.25,
    regions={"all": (2, 900)},
)
