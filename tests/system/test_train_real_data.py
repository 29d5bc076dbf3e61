"""Real volumes: a short training by the commands, prediction on a CT's own grid, and the judged comparison."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from geols_precompute.cli.precompute import precompute
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.data.volumes import read_image
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing
from geols_train import cli
from geols_train.checkpoint import NetworkSpec
from geols_train.predict import Predictor

torch.set_num_threads(1)


def run(command, *args):
    result = CliRunner().invoke(command, list(map(str, args)))
    assert result.exit_code == 0, result.output
    return result


def test_hippocampus_from_files_to_files(real_data, tmp_path):
    source, data = real_data("hippocampus"), tmp_path / "data"
    description = json.loads((source / "dataset.json").read_text())
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))[:6]
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    for label in labels:
        image = label.name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(label, data / "labelsTr")
        shutil.copy(source / "imagesTr" / image, data / "imagesTr")
    (data / "dataset.json").write_text(json.dumps(description | {"numTraining": 6}))
    run(precompute, "--workers", "0", data)
    small = ["--epochs", "1", "--features", "4,8,16", "--split", "3,1,2", "--crop", "24", "32", "24"]
    run(cli.train, *small, "--overlap", "0", "--out", tmp_path / "run", data)
    result = run(cli.predict, tmp_path / "run", data, "-o", tmp_path / "out")
    assert "6 cases predicted, 0 failed" in result.output
    for label in labels:
        found, geometry, _ = read_image(tmp_path / "out" / label.name)
        reference, expected, _ = read_image(label)
        assert geometry == expected
        assert found.shape == reference.shape
        assert set(np.unique(found)) <= {0, 1, 2}


def test_a_ct_comes_back_from_the_recipes_grid(real_data, tmp_path):
    spec = NetworkSpec(
        features=(2, 4),
        classes=ClassTable.from_names({1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}),
        overlap=0.0,
        preprocessing=Preprocessing(modalities=("ct",), spacing=(2.5, 2.0, 2.0), clip=(0.5, 99.5)),
        skull_stripped=False,
        window=(48, 160, 192),
        regions={},
    )
    torch.manual_seed(0)
    predictor = Predictor(network=spec.network().eval(), spec=spec, precision="float32")
    (case,), problems = predictor.find(real_data("flare"))
    assert (case.id, problems) == ("ct_001", ())
    _, geometry, _ = read_image(predictor.predict(case, tmp_path))
    assert geometry == read_image(case.images[0])[1]


def test_brats_modalities_are_grouped(real_data):
    modalities = ("flair", "t1", "t1ce", "t2")
    (case,), problems = find_images(real_data("brats/BraTS-GLI-00001-000"), modalities)
    assert not problems
    assert [path.name.split("_")[-1] for path in case.images] == [f"{m}.nii.gz" for m in modalities]


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("method", ["ce", "geols"])
def test_hippocampus_reaches_the_dice_that_is_asked_for(real_data, tmp_path, method):
    run(precompute, "--workers", "0", "--out", tmp_path / "stores", real_data("hippocampus"))
    run(
        cli.train,
        tmp_path / "stores",
        "--method",
        method,
        "--split",
        "140,20,40",
        "--features",
        "16,32,64,128",
        "--lr",
        "1e-3",
        "--schedule",
        "poly",
        "--batch-size",
        "2",
        "--epochs",
        "12",
        "--augment",
        "flips",
        "--flip-axes",
        "x",
        "--cache",
        "ram",
        "--out",
        tmp_path / "run",
    )
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["cases"] == 40
    assert summary["mean_foreground_dice"] >= 0.86
    assert min(found["dice"] for found in summary["structures"].values()) >= 0.84
