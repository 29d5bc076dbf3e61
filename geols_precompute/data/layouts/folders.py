"""Data sets without a description: a folder per case (BraTS, FLARE), or a folder per kind of file (FLARE)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset, images_below, is_image, stem
from geols_precompute.data.layouts.modalities import BRATS_ENDINGS, BRATS_MODALITIES, meaning_of, split_ending
from geols_precompute.errors import InputError

_FLARE_FILE = re.compile(r"(?P<id>.+)_(?P<kind>img|seg)", re.IGNORECASE)
_CHANNEL_FILE = re.compile(r"(?P<id>.+)_0000")

#: The files of each case, by kind (a modality, "img" or "seg"), under the path of the folder with the case's id.
Files = dict[str, dict[str, Path]]


def read_flare_folders(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of TrainingImg/CASE_0000 and TrainingMask/CASE.

    None if there is no TrainingImg, or no image in it has a label.

    Raises:
        InputError: there is no TrainingMask, two files are the same volume, or several modalities are wanted.
    """
    image_folder, label_folder = root / "TrainingImg", root / "TrainingMask"
    if not image_folder.is_dir():
        return None
    if not label_folder.is_dir():
        raise InputError(f"{root} has TrainingImg but no folder TrainingMask; expected the layout of FLARE")
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in filter(is_image, sorted(image_folder.iterdir())):
        if match := _CHANNEL_FILE.fullmatch(stem(path)):
            _put(images, match["id"], path)
    for path in filter(is_image, sorted(label_folder.iterdir())):
        _put(labels, stem(path), path)
    if (images or labels) and not images.keys() & labels.keys():
        return None
    found = CaseList()
    for case_id in sorted({*images, *labels}):
        if case_id not in images:
            found.refuse(case_id, f"label {labels[case_id]} has no image {case_id}_0000 in {image_folder}")
        elif case_id not in labels:
            found.refuse(case_id, f"image {images[case_id]} has no label {case_id} in {label_folder}")
        else:
            found.add(case_id, [images[case_id]], labels[case_id])
    return _dataset("FLARE", root, _single_modality(root, wanted), found)


def read_case_folders(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of folders up to three levels deep (HGG/CASE), or the one case of its own folder.

    None if no case has an image and a label: a T1 or an img in a file name alone says little.

    Raises:
        InputError: two files are the same volume, or a modality is wanted that the layout does not have.
    """
    brats: Files = {}
    flare: Files = {}
    for path in images_below(root, depth=3):
        if match := _FLARE_FILE.fullmatch(stem(path)):
            _put(flare.setdefault(str(path.parent / match["id"]), {}), match["kind"].lower(), path)
        case_id, ending = split_ending(stem(path)) or ("", "")
        if kind := "seg" if ending == "seg" else BRATS_ENDINGS.get(ending):
            _put(brats.setdefault(str(path.parent / case_id), {}), kind, path)
    if any({"img", "seg"} <= files.keys() for files in flare.values()):
        return _flare(root, flare, wanted)
    if any("seg" in files and len(files) > 1 for files in brats.values()):
        return _brats(root, brats, wanted)
    return None


def _put(files: dict[str, Path], key: str, path: Path) -> None:
    """Add a file under its key; two files for one volume leave no way to know which is meant."""
    if key in files:
        raise InputError(f"{files[key]} and {path} are the same volume of one case; remove one of them")
    files[key] = path


def _brats(root: Path, folders: Files, wanted: tuple[str, ...] | None) -> Dataset:
    present = {name for files in folders.values() for name in files}
    modalities = wanted or tuple(name for name in BRATS_MODALITIES if name in present)
    if unknown := [name for name in modalities if meaning_of(name) not in BRATS_MODALITIES]:
        raise InputError(
            f"{root}: BraTS folders have the modalities {', '.join(BRATS_MODALITIES)}; not {', '.join(sorted(unknown))}"
        )
    found = CaseList()
    for folder, files in sorted(folders.items()):
        parent, case_id = Path(folder).parent, Path(folder).name
        kinds = [meaning_of(name) for name in modalities]
        if not {*kinds, "seg"} <= files.keys():
            found.refuse(case_id, f"{parent}: {_missing(kinds, files)}")
        else:
            found.add(case_id, [files[name] for name in kinds], files["seg"])
    return _dataset("BraTS", root, modalities, found)


def _missing(kinds: Sequence[str], files: Mapping[str, Path]) -> str:
    """Return what a case of BraTS lacks, what it has, and the flag that does with that."""
    there = [name for name in BRATS_MODALITIES if name in files]
    absent = ", ".join(name for name in kinds if name not in files)
    lacks = ([f"no modality {absent}"] if absent else []) + (["no label seg"] if "seg" not in files else [])
    remedy = f"; --channels {','.join(there)} takes what it has" if there and "seg" in files else ""
    return f"{' and '.join(lacks)}; it has {', '.join(there) or 'no modality'}{remedy}"


def _flare(root: Path, folders: Files, wanted: tuple[str, ...] | None) -> Dataset:
    modalities = _single_modality(root, wanted)
    found = CaseList()
    for folder, files in sorted(folders.items()):
        parent, case_id = Path(folder).parent, Path(folder).name
        if missing := {"img", "seg"} - files.keys():
            found.refuse(case_id, f"{parent}: no file *_{missing.pop()} beside {next(iter(files.values()))}")
        else:
            found.add(case_id, [files["img"]], files["seg"])
    return _dataset("FLARE", root, modalities, found)


def _single_modality(root: Path, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    if wanted is not None and len(wanted) != 1:
        raise InputError(f"{root} has the layout of FLARE, one modality (ct), but {', '.join(wanted)} are asked for")
    return wanted or ("ct",)


def _dataset(layout: str, root: Path, modalities: tuple[str, ...], found: CaseList) -> Dataset:
    cases, problems = found.checked()
    return Dataset(layout=layout, root=root, modalities=modalities, cases=cases, problems=problems)
