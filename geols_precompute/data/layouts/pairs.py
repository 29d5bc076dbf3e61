"""Pairs of an image and a label: two folders with equal file names, or a folder per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset, images_below, stem
from geols_precompute.data.layouts.modalities import index_of
from geols_precompute.errors import InputError

IMAGES = "images"
#: Names of the folder with the labels beside `images`, and of the label in a case's own folder.
LABEL_FOLDERS = ("masks", "labels")
LABEL_FILES = ("label", "mask", "seg", "segmentation")


def read_pairs(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of images/CASE and masks/CASE or labels/CASE.

    None if there are no such folders, or no image in them has a label of its name. An image may be the folder of a
    DICOM series. What has no partner is a problem.

    Raises:
        InputError: there are masks and labels, two files are the same volume, or several modalities are wanted.
    """
    folders = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    if not (root / IMAGES).is_dir() or not folders:
        return None
    if len(folders) > 1:
        raise InputError(f"{root}: has {folders[0].name} and {folders[1].name}; move away the folder that is not meant")
    if wanted is not None and len(wanted) != 1:
        raise InputError(
            f"{root}: has one image per case in {IMAGES}, but {', '.join(wanted)} are asked for; list the files of the "
            "modalities in a cases.csv"
        )
    images, labels = named_images(root / IMAGES, depth=1), named_images(folders[0], depth=0)
    if (images or labels) and not images.keys() & labels.keys():
        return None
    found = CaseList()
    for case in sorted({*images, *labels}):
        if case not in labels:
            found.refuse(case, f"image {images[case]} has no label of its name in {folders[0]}")
        elif case not in images:
            found.refuse(case, f"label {labels[case]} has no image of its name in {root / IMAGES}")
        else:
            found.add(case, [images[case]], labels[case])
    return _dataset("images and labels of equal names", root, wanted or ("image",), found)


def read_pair_folders(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of CASE/image and CASE/label (or mask, seg, segmentation), or of one such folder.

    The names may begin with that of the case, as in CASE/CASE_image. Every other image file of the folders is a
    modality, named by its file, such as CASE/t1 and CASE/flair. An image may be the folder of a DICOM series.

    Raises:
        InputError: two files are the same volume.
    """
    folders = {folder: _in_case(named_images(folder, depth=1), folder) for folder in case_folders(root)}
    labelled = {
        folder: files for folder, files in folders.items() if set(LABEL_FILES) & files.keys() and len(files) > 1
    }
    if not labelled:
        return None
    modalities = wanted or common_names([files.keys() - set(LABEL_FILES) for files in labelled.values()])
    found = CaseList()
    for folder, files in labelled.items():
        case, labels = folder.resolve().name, [name for name in LABEL_FILES if name in files]
        images = {name: path for name, path in files.items() if name not in LABEL_FILES}
        chosen = chosen_images(images, modalities)
        if len(labels) > 1:
            found.refuse(case, f"{folder}: has {' and '.join(labels)}; keep one label map")
        elif chosen is None:
            found.refuse(case, f"{folder}: no image of {', '.join(modalities)}; it has {', '.join(images)}")
        else:
            found.add(case, chosen, files[labels[0]])
    for folder in folders:
        if folder not in labelled and set(modalities) & folders[folder].keys():
            found.refuse(folder.name, f"{folder}: no label map ({', '.join(LABEL_FILES)})")
    return _dataset("image and label per case folder", root, modalities, found)


def _in_case(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Return files by their names without that of their case: CASE/CASE_image is CASE/image."""
    short = {own_name(path, folder): path for path in files.values()}
    return short if len(short) == len(files) else dict(files)


def own_name(path: Path, folder: Path) -> str:
    """Return the name of an image in the folder of a case, without its ending and the case's name before it."""
    name = path.name if path.is_dir() else stem(path)
    case = folder.resolve().name
    begins = name.lower().startswith(case.lower()) and name[len(case) : len(case) + 1] in ("_", "-", ".")
    return name[len(case) + 1 :] or name if begins else name


def case_folders(root: Path) -> list[Path]:
    """Return the folders that may be those of cases: `root` itself, and those in it."""
    below = (path for path in sorted(root.iterdir()) if not path.name.startswith(".") and path.suffix != ".zarr")
    return [root, *filter(Path.is_dir, below)]


def common_names(named: Sequence[Set[str]]) -> tuple[str, ...]:
    """Return the names that all cases have, else those of the first."""
    return tuple(sorted(set.intersection(*map(set, named)) or named[0])) if named else ()


def chosen_images(images: Mapping[str, Path], modalities: Sequence[str]) -> list[Path] | None:
    """Return the file of each modality, by its name or another name of the same modality; None if one is missing."""
    names = list(images)
    places = [index_of(name, names) for name in modalities]
    found = [images[names[place]] for place in places if place is not None]
    return found if len(found) == len(modalities) else None


def named_images(folder: Path, depth: int) -> dict[str, Path]:
    """Return the images in a folder by name; below it only the folders of DICOM series count."""
    named: dict[str, Path] = {}
    for path in images_below(folder, depth):
        if path == folder or path.parent != folder:
            continue  # a series of its own, or files of folders below
        name = path.name if path.is_dir() else stem(path)
        if name in named:
            raise InputError(f"{named[name]} and {path} are the same volume of one case; remove one of them")
        named[name] = path
    return named


def _dataset(layout: str, root: Path, modalities: tuple[str, ...], found: CaseList) -> Dataset:
    cases, problems = found.checked()
    return Dataset(layout=layout, root=root, modalities=modalities, cases=cases, problems=problems)
