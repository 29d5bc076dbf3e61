"""nnU-Net on GeoLS soft labels: the demo's simulated brain scans, preprocessed, mapped, trained for a few epochs.

Usage: python workflows/nnunet_demo.py [FOLDER]      (default: nnunet-demo)

Needs nnU-Net: pip install "geols[nnunet,demo]". FOLDER receives what nnU-Net keeps in its three folders. The trainer is
one of the user's own, with the mixin before nnU-Net's: it stops after a few short epochs, and the plans have voxels of
4 mm, so that a CPU is done in minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from demo import simulate_dataset

DATASET, PLANS = "Dataset099_SimulatedBrain", "nnUNetCoarsePlans"
TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from geols_train.nnunet import GeoLSTrainerMixin


class nnUNetTrainerGeoLS_demo(GeoLSTrainerMixin, nnUNetTrainer):
    def on_train_start(self):
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 10, 2
        super().on_train_start()
"""


def main(folder: Path) -> None:
    """Run every step; a step that has been done is done again only by the commands that find it undone."""
    folder = folder.absolute()
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    os.environ.update({name: str(folder / place) for name, place in names.items()})
    os.environ |= {"nnUNet_extTrainer": str(folder / "trainers")}
    raw = folder / "raw" / DATASET
    simulate_dataset(raw)
    (folder / "trainers").mkdir(exist_ok=True)
    (folder / "trainers/demo_trainer.py").write_text(TRAINER)
    if not (folder / "preprocessed" / DATASET / f"{PLANS}_3d_fullres").is_dir():
        coarse = f"-overwrite_target_spacing 4 4 4 -overwrite_plans_name {PLANS}"
        run("nnUNetv2_plan_and_preprocess", *f"-d 99 -c 3d_fullres -np 2 {coarse}".split())
    run("geols-precompute", *f"--nnunet 99 -c 3d_fullres -p {PLANS}".split())
    run("nnUNetv2_train", *f"99 3d_fullres 0 -tr nnUNetTrainerGeoLS_demo -p {PLANS} -device cpu".split())
    # a model that geols has trained predicts without it
    os.environ.pop("nnUNet_extTrainer")  # it is nnU-Net's
    options = f"-d 99 -c 3d_fullres -f 0 -tr nnUNetTrainerGeoLS_demo -p {PLANS} -device cpu"
    run("nnUNetv2_predict", "-i", str(raw / "imagesTr"), "-o", str(folder / "predictions"), *options.split())
    print(f"\nresults      {folder / 'results' / DATASET}\npredictions  {folder / 'predictions'}")


def run(*command: str) -> None:
    """Run a command as a user would, and stop with it if it fails."""
    print("\n$ " + " ".join(command), flush=True)
    if status := subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], check=False).returncode:
        sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("nnunet-demo"))
