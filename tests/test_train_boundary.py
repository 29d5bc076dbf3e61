"""geols_train imports little of geols_precompute, and runs where nothing of a cluster is installed."""

from __future__ import annotations

import subprocess
import sys

from conftest import write
from test_import_boundaries import BLOCKER, ROOT, imports_of
from train_fixtures import ball_label, make_stores

ALLOWED = {
    "cases", "digests", "errors", "geometry", "help", "layouts", "nifti", "options", "preparation", "progress",
    "recipe", "softlabel", "store", "tables", "volumes",
}  # fmt: skip
CLUSTER = {"dask", "distributed", "numba", "skimage", "GeodisTK"}


def test_imports_from_precompute():
    for file in (ROOT / "geols_train").glob("*.py"):
        assert imports_of(file, "geols_precompute") <= ALLOWED, file


def test_training_and_prediction_run_without_cluster_packages(tmp_path):
    import numpy as np

    make_stores(tmp_path / "geols")
    write(ball_label(np.random.default_rng(0)), tmp_path / "images/a.nii.gz")
    code = f"""
import torch
torch.set_num_threads(1)
from geols_train.cli import train, predict
def call(command, *args):
    try:
        command(list(args))
    except SystemExit as error:
        assert error.code == 0, error.code
root = {str(tmp_path)!r}
call(train, root, "--epochs", "1", "--features", "4,8", "--split", "3,1,2", "--out", root + "/run", "--device", "cpu")
call(predict, root + "/run", root + "/images", "-o", root + "/out", "--device", "cpu")
"""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=CLUSTER) + code], capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a.nii.gz").exists()
