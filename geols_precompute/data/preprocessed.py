"""What nnU-Net v2 has preprocessed: its arrays, read through its own data set class, and where they lie in space.

nnU-Net transposes an image, crops it to its non-zero part, normalises it, and resamples it. The arrays lie in
nnUNet_preprocessed/DATASET/DATA_IDENTIFIER, a folder for each way to preprocess; the plans beside the folder say how
axes were transposed, and a pickle for each case how it was cropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geols_precompute.arrays import Float64Array
from geols_precompute.data.cases import Case
from geols_precompute.data.geometry import RAS_TO_LPS, Geometry
from geols_precompute.data.volumes import Volume, require_finite, require_modalities
from geols_precompute.errors import InputError, MissingExtraError


def dataset_of(folder: Path, cases: Sequence[str] | None = None) -> Any:
    """Return nnU-Net's own data set of all or some cases of a folder of preprocessed ones: blosc2 or NumPy files.

    Raises:
        InputError: the folder is not one of preprocessed cases.
        MissingExtraError: nnU-Net is not installed.
    """
    try:
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    except ImportError as error:
        raise MissingExtraError("nnunetv2 2.6 or newer", "nnunet") from error
    try:
        return infer_dataset_class(str(folder))(str(folder), None if cases is None else list(cases))
    except (OSError, AssertionError, LookupError) as error:
        raise InputError(
            f"{folder}: holds no cases as nnU-Net preprocesses them ({type(error).__name__}: {error}); run "
            "nnUNetv2_preprocess again"
        ) from error


def read_preprocessed(case: Case, *, modalities: int) -> Volume:
    """Read a case that nnU-Net has preprocessed: intensities as it trains on them, labels with 0 outside its crop mask.

    Raises:
        InputError: the arrays or what stands beside them cannot be read, or do not fit together.
        MissingExtraError: nnU-Net is not installed.
    """
    data, label, geometry = _open(case)
    require_modalities(case.images[0], data.shape[0], modalities)
    image = np.ascontiguousarray(data[:], np.float32)
    for channel in image:
        require_finite(channel, case.images[0])
    # nnU-Net marks what is outside its mask of non-zero voxels by -1, and trains on it as background
    return Volume(image=image, label=np.maximum(np.asarray(label[:])[0], 0).astype(np.int32), geometry=geometry)


def read_preprocessed_header(case: Case, *, modalities: int) -> Geometry:
    """Return the grid of a case that nnU-Net has preprocessed; no voxel is read.

    Raises:
        InputError, MissingExtraError: as `read_preprocessed` does.
    """
    data, _, geometry = _open(case)
    require_modalities(case.images[0], data.shape[0], modalities)
    return geometry


def _open(case: Case) -> tuple[Any, Any, Geometry]:
    """Open a case: (intensities [modality,z,y,x], label [1,z,y,x], both arrays of nnU-Net's kind, the grid)."""
    assert case.plans is not None
    path = case.images[0]
    try:
        # of another stage's prediction, which newer versions have between label and properties, there is none
        data, label, *_, properties = dataset_of(path.parent, [case.id]).load_case(case.id)
        transposed = json.loads(case.plans.read_bytes())["transpose_forward"]
        if data.shape[1:] != label.shape[1:]:
            raise InputError(f"{path}: an image of {data.shape[1:]} voxels, and a label of {label.shape[1:]}")
        return data, label, preprocessed_geometry(data.shape[1:], properties, transposed)
    except InputError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read as nnU-Net preprocesses cases ({type(error).__name__}: {error}); run "
            "nnUNetv2_preprocess again"
        ) from error


def preprocessed_geometry(
    shape: Sequence[int], properties: Mapping[str, Any], transpose_forward: Sequence[int]
) -> Geometry:
    """Return where an array of nnU-Net lies in space.

    nnU-Net's resampling keeps the edges of the cropped volume where they are, so that the voxel size follows from the
    numbers of voxels before and after, and the centre of the first voxel moves.

    Args:
        shape: of the preprocessed array, its three axes.
        properties: of the case: spacing and position of its files, crop.
        transpose_forward: of the plans: the axis of the files' array (z,y,x) that each axis comes from.

    Raises:
        LookupError: the properties lack what nnU-Net writes.
    """
    before = properties["shape_after_cropping_and_before_resampling"]
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    for axis, source_axis in enumerate(transpose_forward):
        step = before[axis] / shape[axis]
        # matrices have the axes in the order x,y,z, arrays in the order z,y,x
        to_source[2 - source_axis, 2 - axis] = step
        to_source[2 - source_axis, 3] = properties["bbox_used_for_cropping"][axis][0] + (step - 1) / 2
    z, y, x = (int(n) for n in shape)
    return Geometry.of_affine(_source_affine(properties) @ to_source, (x, y, z))


def _source_affine(properties: Mapping[str, Any]) -> Float64Array:
    """Return the 4×4 matrix of the files of a case: voxel indices (x,y,z) to mm in SimpleITK's axes."""
    if nibabel := properties.get("nibabel_stuff"):
        return RAS_TO_LPS @ nibabel.get("reoriented_affine", nibabel["original_affine"])
    x, y, z = (float(mm) for mm in properties["spacing"][::-1])
    affine = np.diag([x, y, z, 1.0])
    simpleitk = properties.get("sitk_stuff", {})
    # formats such as PNG and TIFF, and files of two dimensions, say no more than the spacing
    if len(simpleitk.get("spacing", ())) == 3:
        affine[:3, :3] = np.reshape(simpleitk["direction"], (3, 3)) * simpleitk["spacing"]
        affine[:3, 3] = simpleitk["origin"]
    return affine
