"""Data sets that describe themselves in a dataset.json: nnU-Net raw and the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geols_precompute.data.cases import CaseList, Dataset, stem
from geols_precompute.data.layouts.modalities import Channels, find_channels
from geols_precompute.data.layouts.regions import Labels
from geols_precompute.errors import InputError


def read_described(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the data set that `root`/dataset.json describes; None if there is no such file.

    Raises:
        InputError: the description is not valid, or lacks a modality that is wanted.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    with valid_description(path):
        return _described(root, read_json(path), wanted)


@contextmanager
def valid_description(path: Path) -> Iterator[None]:
    """Say of what goes wrong while a dataset.json is understood that it is not valid.

    Raises:
        InputError: whatever it was, in one line.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a valid data set description: {type(error).__name__}: {error}") from error


def read_json(path: Path) -> Any:
    """Return the document of a JSON file, in any Unicode encoding, with or without a byte order mark.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, or is not JSON.
    """
    return json.loads(path.read_bytes())


def channels_of(description: Mapping[str, Any]) -> Channels:
    """Return the modalities of a dataset.json in the order of their numbers, of nnU-Net or the MSD.

    Raises:
        TypeError, ValueError, AttributeError: it does not name them.
    """
    channels = description.get("channel_names", description.get("modality"))
    if not isinstance(channels, Mapping):
        raise TypeError("channel_names is not an object")
    return Channels.of([str(channels[key]) for key in sorted(channels, key=int)])


def require_order(numbers: Sequence[int], channels: Channels, where: Path) -> None:
    """Refuse a choice of modalities from images that hold all of them.

    Raises:
        InputError: naming them.
    """
    if numbers != list(range(len(channels.names))):
        raise InputError(
            f"{where}: each image holds {', '.join(channels.names)}; a recipe must name them in this order"
        )


def _described(root: Path, description: Mapping[str, Any], wanted: tuple[str, ...] | None) -> Dataset:
    path = root / "dataset.json"
    channels, labels = channels_of(description), Labels.of(description["labels"], path)
    numbers, renaming = find_channels(channels, wanted or channels.names, path)
    training = description.get("training")
    if isinstance(training, list) and any(_is_msd(root, entry) for entry in training):
        require_order(numbers, channels, path)
        layout, found = "MSD", _msd_cases(root, training)
    else:
        layout, found = "nnU-Net", _nnunet_cases(root, description, numbers)
    cases, problems = found.checked()
    return Dataset(
        layout=layout,
        root=root,
        modalities=wanted or channels.names,
        cases=cases,
        problems=problems,
        renamed=channels.passed_over(renaming),
        classes=labels.classes,
        ignore=labels.ignore,
        regions=labels.regions,
        why_no_classes=labels.why_no_classes,
        licence=_text(description, "licence", "license"),
        citation=_text(description, "reference"),
        notes=tuple(filter(None, (channels.note(path), renaming))),
    )


def _is_msd(root: Path, entry: Any) -> bool:
    return isinstance(entry, Mapping) and (root / str(entry.get("image"))).exists()


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
