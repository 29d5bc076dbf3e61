"""What nnU-Net finds when it looks for a trainer by its name here: export nnUNet_extTrainer=THIS FOLDER.

nnU-Net imports every module of such a folder, and forgets it afterwards; so the trainers are made elsewhere.
"""

from geols_train.nnunet import nnUNetTrainerGeoLS, trainer_named


def __getattr__(name: str) -> type:
    return trainer_named(name)


__all__ = ["nnUNetTrainerGeoLS"]
