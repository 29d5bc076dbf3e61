"""Data sets that describe themselves in a dataset.json: nnU-Net raw and the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geols_precompute.data.cases import CaseList, Dataset, stem
from geols_precompute.data.layouts.modalities import are_renamed, index_of
from geols_precompute.errors import InputError


def read_described(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the data set that `root`/dataset.json describes; None if there is no such file.

    Raises:
        InputError: the description is not valid, or lacks a modality that is wanted.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        return _described(root, json.loads(path.read_text()), wanted)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a valid data set description: {type(error).__name__}: {error}") from error


def channel_names(description: Mapping[str, Any]) -> list[str]:
    """Return the modalities of a dataset.json in the order of their numbers, of nnU-Net or the MSD.

    Raises:
        TypeError, ValueError, AttributeError: it does not name them.
    """
    channels = description.get("channel_names", description.get("modality"))
    if not isinstance(channels, Mapping):
        raise TypeError("channel_names is not an object")
    return [str(channels[key]) for key in sorted(channels, key=int)]


def _described(root: Path, description: Mapping[str, Any], wanted: tuple[str, ...] | None) -> Dataset:
    path = root / "dataset.json"
    names = channel_names(description)
    classes, ignore = _label_names(description["labels"])
    channels = _choose(names, wanted, path)
    training = description.get("training")
    if isinstance(training, list) and any(_is_msd(root, entry) for entry in training):
        if channels != list(range(len(names))):
            raise InputError(f"{path}: each image holds {', '.join(names)}; a recipe must name them in this order")
        layout, found = "MSD", _msd_cases(root, training)
    else:
        layout, found = "nnU-Net", _nnunet_cases(root, description, channels)
    cases, problems = found.checked()
    return Dataset(
        layout=layout,
        root=root,
        modalities=wanted or tuple(names),
        cases=cases,
        problems=problems,
        classes=classes,
        ignore=ignore,
        licence=_text(description, "licence", "license"),
        citation=_text(description, "reference"),
    )


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


def _choose(names: Sequence[str], wanted: tuple[str, ...] | None, where: Path) -> list[int]:
    """Return the positions of the `wanted` modalities: by name, or all of them renamed when the count fits."""
    if wanted is None or are_renamed(names, wanted):
        return list(range(len(names)))
    found = [index for name in wanted if (index := index_of(name, names)) is not None]
    if len(found) < len(wanted):
        raise InputError(f"{where} has the modalities {', '.join(names)}, but {', '.join(wanted)} are asked for")
    return found


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


def _text(description: Mapping[str, Any], *keys: str) -> str | None:
    return next((str(description[key]) for key in keys if description.get(key)), None)
