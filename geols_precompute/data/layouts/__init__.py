"""The layouts of data folders that are recognised: nnU-Net, MSD, BraTS, FLARE and a CSV manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geols_precompute.data.cases import CaseList, Dataset, images_below, is_image, stem
from geols_precompute.data.layouts.table import csv_rows
from geols_precompute.errors import InputError

KNOWN = (
    "nnU-Net raw (dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz), MSD (dataset.json with "
    '"training"), BraTS (CASE/CASE_flair.nii.gz, ..., CASE_seg.nii.gz), FLARE (CASE/CASE_img.nii.gz, CASE_seg.nii.gz, '
    "or TrainingImg and TrainingMask), CSV (cases.csv with the columns case, label and one per modality)"
)
#: The two naming schemes of BraTS, under the names of the first.
BRATS_MODALITIES = {
    "flair": ("flair", "t2f"), "t1": ("t1", "t1n"), "t1ce": ("t1ce", "t1c"), "t2": ("t2", "t2w"),
}  # fmt: skip
_BRATS_SUFFIX = {suffix: name for name, suffixes in BRATS_MODALITIES.items() for suffix in suffixes} | {"seg": "seg"}
_BRATS_FILE = re.compile(rf"(?P<id>.+)[_-](?P<suffix>{'|'.join(_BRATS_SUFFIX)})", re.IGNORECASE)
_FLARE_FILE = re.compile(r"(?P<id>.+)_(?P<kind>img|seg)", re.IGNORECASE)
_CHANNEL_FILE = re.compile(r"(?P<id>.+)_0000")


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
    manifest = root if root.is_file() else root / "cases.csv"
    if manifest.is_file():
        dataset = _csv(manifest, modalities)
    elif (root / "dataset.json").is_file():
        dataset = _described(root, modalities)
    elif (root / "TrainingImg").is_dir():
        dataset = _flare_flat(root, modalities)
    else:
        dataset = _case_folders(root, modalities)
    if not dataset.cases and not dataset.problems:
        raise InputError(f"{root}: recognised as {dataset.layout}, but it holds no case")
    return dataset


# --- nnU-Net and MSD: folders with a dataset.json -----------------------------------------------------------------


def _described(root: Path, wanted: tuple[str, ...] | None) -> Dataset:
    path = root / "dataset.json"
    try:
        description = json.loads(path.read_text())
        names = channel_names(description)
        classes, ignore = _label_names(description["labels"])
        channel_numbers = _choose(names, wanted, path)
        training = description.get("training")
        if isinstance(training, list) and any(_is_msd(root, entry) for entry in training):
            if channel_numbers != list(range(len(names))):
                raise InputError(f"{path}: each image holds {', '.join(names)}; a recipe must name them in this order")
            layout, found = "MSD", _msd_cases(root, training)
        else:
            layout, found = "nnU-Net", _nnunet_cases(root, description, channel_numbers)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a valid data set description: {type(error).__name__}: {error}") from error
    cases, problems = found.checked()
    return Dataset(
        layout=layout, root=root, modalities=wanted or tuple(names), cases=cases, problems=problems, classes=classes,
        ignore=ignore, licence=_text(description, "licence", "license"), citation=_text(description, "reference"),
    )  # fmt: skip


def channel_names(description: Mapping[str, Any]) -> list[str]:
    """Return the modalities of a dataset.json in the order of their numbers, of nnU-Net or the MSD."""
    channels = description.get("channel_names", description.get("modality"))
    if not isinstance(channels, Mapping):
        raise TypeError("channel_names is not an object")
    return [str(channels[key]) for key in sorted(channels, key=int)]


def _label_names(labels: Mapping[str, Any]) -> tuple[dict[int, str], int | None]:
    """Return ({value: name}, ignore value) of nnU-Net's {name: value} or the MSD's {value: name}."""
    if all(key.lstrip("-").isdigit() for key in labels):
        by_name: dict[str, Any] = {str(name): int(value) for value, name in labels.items()}
    else:
        by_name = dict(labels)
    if regions := [name for name, value in by_name.items() if isinstance(value, list)]:
        raise InputError(
            f"label {regions[0]!r} is a region (a list of values); maps need classes that exclude each other, so list "
            "plain labels and give regions in a recipe"
        )
    if fractions := [name for name, value in by_name.items() if int(value) != float(value)]:
        raise ValueError(f"the value of label {fractions[0]!r} is not a whole number")
    ignore = by_name.pop("ignore", None)
    names = {int(value): name for name, value in by_name.items()}
    if len(names) < len(by_name):
        raise ValueError("two labels share one value")
    return names, ignore if ignore is None else int(ignore)


def _choose(names: list[str], wanted: tuple[str, ...] | None, where: Path) -> list[int]:
    """Return the positions of the `wanted` modalities: by name, or all of them renamed when the count fits."""
    if wanted is None:
        return list(range(len(names)))
    lower = [name.lower() for name in names]
    if all(name.lower() in lower for name in wanted):
        return [lower.index(name.lower()) for name in wanted]
    if len(wanted) == len(names) and not any(name.lower() in lower for name in wanted):
        return list(range(len(names)))
    raise InputError(f"{where} has the modalities {', '.join(names)}, but {', '.join(wanted)} are asked for")


def _is_msd(root: Path, entry: Any) -> bool:
    return isinstance(entry, Mapping) and (root / str(entry.get("image"))).is_file()


def _msd_cases(root: Path, training: list[Any]) -> CaseList:
    found = CaseList()
    for entry in training:
        image = root / entry["image"]
        found.add(stem(image), [image], root / entry["label"])
    return found


def _nnunet_cases(root: Path, description: Mapping[str, Any], channels: list[int]) -> CaseList:
    found = CaseList()
    explicit = description.get("dataset")
    if isinstance(explicit, Mapping):
        for case_id, entry in explicit.items():
            found.add(case_id, [root / entry["images"][c] for c in channels], root / entry["label"])
        return found
    images, labels = root / "imagesTr", root / "labelsTr"
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{root} has a dataset.json but no folder {folder.name}; expected nnU-Net raw or MSD")
    ending = str(description.get("file_ending", ".nii.gz"))
    labelled = {path.name.removesuffix(ending): path for path in sorted(labels.glob(f"[!.]*{ending}"))}
    for case_id, label in labelled.items():
        found.add(case_id, [images / f"{case_id}_{channel:04d}{ending}" for channel in channels], label)
    for path in sorted(images.glob(f"[!.]*_0000{ending}")):
        if (case_id := path.name.removesuffix(f"_0000{ending}")) not in labelled:
            found.refuse(case_id, f"image {path} has no label {labels / (case_id + ending)}")
    return found


# --- BraTS and FLARE: a folder per case, or a folder per kind ------------------------------------------------------


def _case_folders(root: Path, wanted: tuple[str, ...] | None) -> Dataset:
    """Read `root` as folders of cases (up to three levels deep, for HGG/CASE), or as the folder of one case."""
    brats: dict[str, dict[str, Path]] = {}
    flare: dict[str, dict[str, Path]] = {}
    for path in images_below(root, depth=3):
        if match := _FLARE_FILE.fullmatch(stem(path)):
            _put(flare.setdefault(str(path.parent / match["id"]), {}), match["kind"].lower(), path)
        if match := _BRATS_FILE.fullmatch(stem(path)):
            _put(brats.setdefault(str(path.parent / match["id"]), {}), _BRATS_SUFFIX[match["suffix"].lower()], path)
    if any("img" in files for files in flare.values()):
        return _flare_folders(root, flare, wanted)
    if any(files.keys() & BRATS_MODALITIES.keys() for files in brats.values()):
        return _brats_folders(root, brats, wanted)
    raise InputError(f"{root} has no known layout; known are: {KNOWN}")


def _put(files: dict[str, Path], key: str, path: Path) -> None:
    """Add a file under its key; two files for one volume leave no way to know which is meant."""
    if key in files:
        raise InputError(f"{files[key]} and {path} are the same volume of one case; remove one of them")
    files[key] = path


def _brats_folders(root: Path, folders: dict[str, dict[str, Path]], wanted: tuple[str, ...] | None) -> Dataset:
    present = {name for files in folders.values() for name in files}
    modalities = wanted or tuple(name for name in BRATS_MODALITIES if name in present)
    if unknown := set(modalities) - BRATS_MODALITIES.keys():
        raise InputError(
            f"{root}: BraTS folders have the modalities {', '.join(BRATS_MODALITIES)}; not {', '.join(sorted(unknown))}"
        )
    found = CaseList()
    for folder, files in sorted(folders.items()):
        case_id = Path(folder).name
        if missing := [name for name in (*modalities, "seg") if name not in files]:
            kind = "modality" if missing[0] in BRATS_MODALITIES else "label"
            found.refuse(
                case_id, f"{Path(folder).parent}: no {kind} {', '.join(missing)}; it has {', '.join(sorted(files))}"
            )
        else:
            found.add(case_id, [files[name] for name in modalities], files["seg"])
    cases, problems = found.checked()
    return Dataset(layout="BraTS", root=root, modalities=modalities, cases=cases, problems=problems)


def _flare_folders(root: Path, folders: dict[str, dict[str, Path]], wanted: tuple[str, ...] | None) -> Dataset:
    modalities = _single_modality(root, wanted)
    found = CaseList()
    for folder, files in sorted(folders.items()):
        if missing := {"img", "seg"} - files.keys():
            found.refuse(
                Path(folder).name,
                f"{Path(folder).parent}: no file *_{missing.pop()} beside {next(iter(files.values()))}",
            )
        else:
            found.add(Path(folder).name, [files["img"]], files["seg"])
    cases, problems = found.checked()
    return Dataset(layout="FLARE", root=root, modalities=modalities, cases=cases, problems=problems)


def _flare_flat(root: Path, wanted: tuple[str, ...] | None) -> Dataset:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    if not (root / "TrainingMask").is_dir():
        raise InputError(f"{root} has TrainingImg but no folder TrainingMask; expected the layout of FLARE")
    for path in sorted((root / "TrainingImg").iterdir()):
        if is_image(path) and (match := _CHANNEL_FILE.fullmatch(stem(path))):
            _put(images, match["id"], path)
    for path in sorted((root / "TrainingMask").iterdir()):
        if is_image(path):
            _put(labels, stem(path), path)
    found = CaseList()
    for case_id in sorted({*images, *labels}):
        if case_id not in images:
            found.refuse(case_id, f"label {labels[case_id]} has no image {case_id}_0000 in {root / 'TrainingImg'}")
        elif case_id not in labels:
            found.refuse(case_id, f"image {images[case_id]} has no label {case_id} in {root / 'TrainingMask'}")
        else:
            found.add(case_id, [images[case_id]], labels[case_id])
    cases, problems = found.checked()
    modalities = _single_modality(root, wanted)
    return Dataset(layout="FLARE", root=root, modalities=modalities, cases=cases, problems=problems)


def _single_modality(root: Path, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    if wanted is not None and len(wanted) != 1:
        raise InputError(f"{root} has the layout of FLARE, one modality (ct), but {', '.join(wanted)} are asked for")
    return wanted or ("ct",)


# --- CSV manifest --------------------------------------------------------------------------------------------------


def _csv(manifest: Path, wanted: tuple[str, ...] | None) -> Dataset:
    """Read a manifest: columns case and label, every other column a modality; paths are relative to the manifest."""
    rows = csv_rows(manifest)
    columns = [name for name in rows[0] if name not in ("case", "label")] if rows else []
    if not rows or not columns or "case" not in rows[0] or "label" not in rows[0]:
        raise InputError(
            f"{manifest}: needs a header with the columns case, label and one per modality, separated by commas"
        )
    modalities = wanted or tuple(columns)
    if unknown := [name for name in modalities if name not in columns]:
        raise InputError(f"{manifest} has the modalities {', '.join(columns)}; not {', '.join(unknown)}")
    found = CaseList()
    for row in rows:
        if empty := [name for name in ("case", "label", *modalities) if not row[name]]:
            found.refuse(row["case"] or "?", f"{manifest}: case {row['case']!r} has nothing in column {empty[0]}")
        else:
            found.add(row["case"], [manifest.parent / row[m] for m in modalities], manifest.parent / row["label"])
    cases, problems = found.checked()
    return Dataset(
        layout="CSV", root=manifest.parent, modalities=modalities, cases=cases, problems=problems,
        classes=_csv_classes(manifest.parent / "classes.csv"),
    )  # fmt: skip


def _csv_classes(path: Path) -> dict[int, str] | None:
    """Return {value: name} of a classes.csv (columns value, name) beside the manifest, if there is one."""
    if not path.is_file():
        return None
    try:
        return {int(row["value"]): row["name"] for row in csv_rows(path)}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: needs the columns value (a whole number) and name") from error


def _text(description: Mapping[str, Any], *keys: str) -> str | None:
    return next((str(description[key]) for key in keys if description.get(key)), None)
