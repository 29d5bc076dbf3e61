"""A small data set that nnU-Net has preprocessed: its axes transposed, cropped to non-zero, resampled, anisotropic.

The three channels are the position of each voxel, in units of 100 mm along SimpleITK's axes, not normalised. So what
nnU-Net makes of them says where it has put its voxels.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

CASES = 6
SPACING = (3.0, 1.2, 0.8)  # x, y, z: the axis of the largest spacing becomes the first
TRANSPOSE = [2, 0, 1]
ORIGIN = (-150.0, 220.0, 310.0)
MARGIN = 3
NAME = "Dataset901_Positions"


@dataclass(frozen=True)
class NnunetData:
    """Where nnU-Net's data set lies."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw" / NAME

    @property
    def base(self) -> Path:
        return self.root / "preprocessed" / NAME

    def folder(self, configuration: str = "3d_fullres") -> Path:
        return self.base / f"nnUNetPlans_{configuration}"

    @property
    def environment(self) -> dict[str, str]:
        names = ("raw", "preprocessed", "results")
        return {f"nnUNet_{name}": str(self.root / name) for name in names} | {
            "nnUNet_n_proc_DA": "0",
            "nnUNet_compile": "f",
            "nnUNet_def_n_proc": "1",
        }


def direction() -> np.ndarray:
    """Axes that are turned by 20 degrees, the second one the other way round."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.0, -1.0, 1.0])


def positions(image: sitk.Image) -> np.ndarray:
    """Position of each voxel [3,z,y,x] in mm, as SimpleITK has it."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in image.GetSize()), indexing="ij")
    index = np.stack([x, y, z]).reshape(3, -1)
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    mm = matrix @ index + np.reshape(image.GetOrigin(), (3, 1))
    return mm.reshape(3, *image.GetSize()).transpose(0, 3, 2, 1)


def write_raw(data: NnunetData, *, labels: dict | None = None, ignore: bool = False) -> None:
    """Write nnU-Net's raw data set."""
    labels = labels or {"background": 0, "inner": 1, "outer": 2}
    for folder in ("imagesTr", "labelsTr"):
        (data.raw / folder).mkdir(parents=True, exist_ok=True)
    for number in range(CASES):
        shape = (20 + number, 24, 20)  # z, y, x
        label = np.zeros(shape, np.uint8)
        grid = np.indices(shape)
        centre = np.array(shape).reshape(3, 1, 1, 1) / 2 + number / 4
        radius = np.sqrt((((grid - centre) * np.reshape(SPACING[::-1], (3, 1, 1, 1))) ** 2).sum(0))
        label[radius < 8] = 2
        label[radius < 5] = 1
        if ignore:
            label[:, :5] = 3
        image = sitk.GetImageFromArray(label)
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(direction().ravel().tolist())
        sitk.WriteImage(image, str(data.raw / f"labelsTr/case_{number}.nii.gz"))
        inside = np.zeros(shape, bool)
        inside[(slice(MARGIN, -MARGIN),) * 3] = True
        for channel, mm in enumerate(positions(image)):
            written = sitk.GetImageFromArray(np.where(inside, mm / 100, 0).astype(np.float32))
            written.CopyInformation(image)
            sitk.WriteImage(written, str(data.raw / f"imagesTr/case_{number}_{channel:04d}.nii.gz"))
    description = {
        "channel_names": {str(c): f"noNorm{c}" for c in range(3)},
        "labels": labels | ({"ignore": 3} if ignore else {}),
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    if any(isinstance(value, list) for value in labels.values()):
        description["regions_class_order"] = list(range(1, len(labels)))
    (data.raw / "dataset.json").write_text(json.dumps(description))


def plans() -> dict:
    """Plans as nnU-Net writes them, with a network that a test can wait for."""

    def configuration(name: str, patch: list[int], spacing: list[float], batch: int) -> dict:
        dim = len(patch)
        resampling = {
            f"resampling_fn_{what}{end}": value
            for what, is_seg, order in (("data", False, 1), ("seg", True, 1), ("probabilities", False, 1))
            for end, value in (
                ("", "resample_data_or_seg_to_shape"),
                ("_kwargs", {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": False}),
            )
        }
        return {
            "data_identifier": f"nnUNetPlans_{name}",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": batch,
            "patch_size": patch,
            "median_image_size_in_voxels": patch,
            "spacing": spacing,
            "normalization_schemes": ["NoNormalization"] * 3,
            "use_mask_for_norm": [False] * 3,
            **resampling,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3,
                    "features_per_stage": [4, 8, 8],
                    "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
                    "kernel_sizes": [[3] * dim] * 3,
                    "strides": [[1] * dim, [2] * dim, [2] * dim],
                    "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1],
                    "conv_bias": True,
                    "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
                    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
            "batch_dice": False,
        }

    return {
        "dataset_name": NAME,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 0.8, 1.2],
        "original_median_shape_after_transp": [8, 16, 18],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": TRANSPOSE,
        "transpose_backward": [1, 2, 0],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): {} for c in range(3)},
        "configurations": {
            "3d_fullres": configuration("3d_fullres", [8, 16, 16], [2.5, 1.0, 1.0], 2),
            "2d": configuration("2d", [16, 16], [1.0, 1.0], 4),
            "3d_lowres": configuration("3d_lowres", [8, 8, 8], [3.5, 2.0, 2.0], 2)
            | {"next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


def preprocess(data: NnunetData, configurations=("3d_fullres",)) -> None:
    """Let nnU-Net preprocess, in this process."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    data.base.mkdir(parents=True, exist_ok=True)
    description = json.loads((data.raw / "dataset.json").read_text())
    cases = [f"case_{number}" for number in range(CASES)]
    documents = {
        "nnUNetPlans.json": plans(),
        "dataset.json": description,
        "dataset_fingerprint.json": {},
        "splits_final.json": [{"train": cases[:4], "val": cases[4:]}],
    }
    for name, document in documents.items():
        (data.base / name).write_text(json.dumps(document))
    shutil.copytree(data.raw / "labelsTr", data.base / "gt_segmentations", dirs_exist_ok=True)
    manager = PlansManager(plans())
    for name in configurations:
        configuration = manager.get_configuration(name)
        folder = data.base / configuration.data_identifier
        folder.mkdir(exist_ok=True)
        for case in cases:
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case),
                [str(data.raw / f"imagesTr/{case}_{channel:04d}.nii.gz") for channel in range(3)],
                str(data.raw / f"labelsTr/{case}.nii.gz"),
                manager,
                configuration,
                description,
            )
