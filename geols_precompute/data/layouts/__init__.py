"""The layouts of data folders: which one a folder has, and the cases in it."""

from __future__ import annotations

from pathlib import Path

from geols_precompute.data.cases import Dataset
from geols_precompute.data.layouts.folders import read_case_folders, read_flare_folders
from geols_precompute.data.layouts.masks import read_masks
from geols_precompute.data.layouts.nnunet import read_described
from geols_precompute.data.layouts.pairs import read_pair_folders, read_pairs
from geols_precompute.data.layouts.preprocessed import read_preprocessed_folder
from geols_precompute.data.layouts.raters import read_raters
from geols_precompute.data.layouts.table import read_manifest
from geols_precompute.data.layouts.unknown import describe_folder
from geols_precompute.errors import InputError

#: Tried in this order. Each takes the data folder and the modalities wanted (None for those of the layout), and returns
#: the data set, or None if the folder has another layout.
LAYOUTS = (
    read_manifest,
    read_preprocessed_folder,
    read_described,
    read_flare_folders,
    read_masks,
    read_raters,
    read_pairs,
    read_case_folders,
    read_pair_folders,
)
#: What a user reads whose folder is not recognised.
KNOWN = (
    "nnU-Net raw (dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz)",
    'MSD (dataset.json with "training")',
    "nnU-Net preprocessed (CASE.b2nd, CASE_seg.b2nd, CASE.pkl in a folder beside the plans)",
    "BraTS (CASE/CASE_flair.nii.gz, ..., CASE_seg.nii.gz)",
    "FLARE (CASE/CASE_img.nii.gz, CASE_seg.nii.gz, or TrainingImg and TrainingMask)",
    "images/CASE and masks/CASE or labels/CASE",
    "CASE/image and CASE/label, or CASE/CASE_image and CASE/CASE_label",
    "CASE/ct and a mask per organ, CASE/segmentations/ORGAN (TotalSegmentator)",
    "CSV (cases.csv with the columns case, label and one per modality)",
    "several raters (CASE/image with CASE/annotation_1, ... or CASE/seg01, ...; sub-X_desc-rater1_dseg of BIDS; "
    "cases.csv with a column rater_1, ... per rater)",
)


def recognised(root: Path, *, modalities: tuple[str, ...] | None = None) -> Dataset | None:
    """Return the data set in a folder that exists, or None if it has no known layout; see `discover`."""
    return next(filter(None, (read(root, modalities) for read in LAYOUTS)), None)


def discover(root: Path, *, modalities: tuple[str, ...] | None = None) -> Dataset:
    """Recognise the layout of `root` and list its cases; only file names and small text files are read.

    Args:
        root: a data folder, one case's own folder, or a CSV manifest.
        modalities: the modalities wanted, in order; None takes what the layout has.

    Raises:
        InputError: `root` does not exist or has no known layout, its description is not valid, it lacks a
            modality that is asked for, or it holds no case at all.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist; name the data folder, for example: geols-precompute data/")
    dataset = recognised(root, modalities=modalities)
    if dataset is None:
        found, manifest = describe_folder(root)
        how = "; a cases.csv in it would begin like this, with the paths corrected:" if manifest else ""
        error = InputError(f"{root} has no known layout: {found}; known are: {', '.join(KNOWN)}{how}")
        for line in manifest:
            error.add_note(line)
        raise error
    if not dataset.cases and not dataset.problems:
        raise InputError(f"{root}: recognised as {dataset.layout}, but it holds no case")
    return dataset
