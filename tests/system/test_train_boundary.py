"""Training reads stores and needs little else; prediction also reads files; neither needs what a cluster does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from blocking import BLOCKER, ROOT
from datasets import write
from train_fixtures import ball_label, make_stores

CLUSTER = {"dask", "distributed", "numba", "skimage", "GeodisTK", "zarr"}
FILES = {"SimpleITK"}


def run_without(blocked, code):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMANDS = """
import torch
torch.set_num_threads(1)
from geols_train.cli import train, predict
def call(command, *args):
    try:
        command(list(args))
    except SystemExit as error:
        assert error.code == 0, error.code
root = {root!r}
"""
TRAIN = """
call(train, root, "--epochs", "1", "--features", "4,8", "--split", "3,1,2", "--out", root + "/run", "--device", "cpu")
"""
PREDICT = """
call(predict, root + "/run", root + "/images", "-o", root + "/out", "--device", "cpu")
"""


def test_training_reads_no_files_and_prediction_needs_no_cluster(tmp_path):
    import numpy as np

    make_stores(tmp_path / "geols")
    write(ball_label(np.random.default_rng(0)), tmp_path / "images/a.nii.gz")
    commands = COMMANDS.format(root=str(tmp_path))
    run_without(CLUSTER | FILES, commands + TRAIN)
    assert (tmp_path / "run/best.pt").exists()
    run_without(CLUSTER, commands + PREDICT)
    assert (tmp_path / "out/a.nii.gz").exists()


def test_only_prediction_reads_files():
    others = ("__init__", "predict", "evaluate_files", "nnunet")  # nnU-Net reads its own files
    modules = sorted(path.stem for path in (ROOT / "geols_train").glob("*.py") if path.stem not in others)
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(f'geols_train.{{name}}')"
    run_without(CLUSTER | FILES, code)


def test_without_monai_the_extra_is_named():
    code = """
from geols_precompute.errors import MissingExtraError
try:
    import geols_train.monai
except MissingExtraError as error:
    print(error)
"""
    assert run_without({"monai"}, code).strip() == 'monai is not installed; run: pip install "geols[monai]"'


def test_the_public_names_are_imported_when_they_are_used():
    code = "import sys, geols_train\nassert 'torch' not in sys.modules\n"
    code += "for name in geols_train.__all__: assert getattr(geols_train, name).__name__ == name\n"
    run_without(CLUSTER | FILES, code + "from geols_train import SoftCrossEntropy")


def test_a_name_that_does_not_exist_is_an_error():
    import geols_train

    with pytest.raises(AttributeError, match="module 'geols_train' has no attribute 'SoftCrossEntrpy'"):
        geols_train.SoftCrossEntrpy  # noqa: B018
