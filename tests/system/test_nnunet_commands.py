"""nnU-Net's own commands with our trainers: from preprocessed cases to a prediction where geols is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from nnunet_data import NAME, NnunetData, write_raw

pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: pip install nnunetv2")
pytestmark = pytest.mark.slow  # half a dozen processes, each of which imports torch and nnU-Net

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
#: A user's trainer that a test can wait for, as the page on nnU-Net shows one.
TINY = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from geols_train.nnunet import GeoLSTrainerMixin


class nnUNetTrainerGeoLS_tiny(GeoLSTrainerMixin, nnUNetTrainer):
    geols_alpha = 0.2

    def on_train_start(self):
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
        super().on_train_start()
"""
#: In a process of its own: nnU-Net looks for trainers by importing all that it has.
PREPROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
from nnunet_data import NnunetData, preprocess
preprocess(NnunetData(Path({root!r})))
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """nnU-Net's variables, and what lets it import its own trainers here."""
    found = {**os.environ, **NnunetData(tmp_path).environment, "PATH": f"{BIN}:{os.environ['PATH']}"}
    broken = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode
    paths = [str(ROOT), str(ROOT / "tests/helpers/torchvision_elsewhere")] if broken else [str(ROOT)]
    return found | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def run(environment, *command: str) -> str:
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        cwd=environment["nnUNet_raw"],
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_train_validate_and_predict_where_geols_is_not(environment, tmp_path):
    data = NnunetData(tmp_path)
    write_raw(data)
    run(environment, sys.executable, "-c", PREPROCESS.format(helpers=str(ROOT / "tests/helpers"), root=str(tmp_path)))
    said = run(environment, "geols-precompute", "--nnunet", NAME, "--workers", "0")
    (exported,) = [line for line in said.splitlines() if line.startswith(("export", "ln"))]
    if not exported.startswith("export"):
        pytest.skip("nnU-Net before 2.8 has no folders of trainers; a link would change the installed package")
    shim = exported.split("=", 1)[1]
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers/tiny.py").write_text(TINY)
    # ours by their names, as nnU-Net looks for them
    find = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "print(find('nnUNetTrainerGeoLS').__name__, find('nnUNetTrainerGeoLS_a0p2').geols_alpha)"
    )
    found = run(environment | {"nnUNet_extTrainer": shim}, sys.executable, "-c", find)
    assert found.splitlines()[-1] == "nnUNetTrainerGeoLS 0.2"
    trained = run(
        environment | {"nnUNet_extTrainer": os.pathsep.join([shim, str(tmp_path / "trainers")])},
        *("nnUNetv2_train", NAME, "3d_fullres", "0", "-tr", "nnUNetTrainerGeoLS_tiny", "-device", "cpu"),
    )
    assert "GeoLS: alpha 0.2, maps " in trained
    assert "Mean Validation Dice" in trained
    # nnU-Net's own code predicts; no trainer of ours is found
    lone = ("-d", NAME, "-c", "3d_fullres", "-f", "0", "-tr", "nnUNetTrainerGeoLS_tiny", "-device", "cpu")
    images, out = tmp_path / "images", tmp_path / "predictions"
    images.mkdir()
    for channel in range(3):
        name = f"case_0_{channel:04d}.nii.gz"
        (images / name).symlink_to(data.raw / "imagesTr" / name)
    run(environment, "nnUNetv2_predict", "-i", str(images), "-o", str(out), *lone, "--disable_tta")
    predicted, image = (sitk.ReadImage(str(p)) for p in (out / "case_0.nii.gz", images / "case_0_0000.nii.gz"))
    assert predicted.GetSize() == image.GetSize()
