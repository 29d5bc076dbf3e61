"""Inputs: the images to predict, grouped to cases by their names in any layout that geols-precompute knows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.data.cases import Case, CaseList, Problem, images_below, stem
from geols_precompute.data.layouts import BRATS_MODALITIES, channel_names
from geols_precompute.data.layouts.table import csv_rows
from geols_precompute.errors import InputError

#: Folders of a data set that hold its images, the ones to predict first.
IMAGE_FOLDERS = ("imagesTs", "imagesTr", "TrainingImg")
DEPTH = 3


def find_images(
    root: Path, modalities: tuple[str, ...], *, leave_out: Path | None = None
) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Return (cases, problems), sorted by id; labels that lie beside the images are left alone.

    Args:
        root: one image, a folder (searched three levels deep), or a CSV manifest with the columns case and one per
            modality.
        modalities: what the network takes, in order. A case is a file per modality, or one file with all of them.
        leave_out: a folder whose files are no inputs, such as that of the predictions.

    Raises:
        InputError: `root` does not exist, or holds no image.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist; name an image or a folder of images")
    manifest = root / "cases.csv" if root.is_dir() else root
    if manifest.suffix == ".csv" and manifest.is_file():
        return _manifest(manifest, modalities).checked()
    folder = next((root / name for name in IMAGE_FOLDERS if _holds_image(root / name)), root)
    naming = Naming(modalities=modalities, channels=_channels(folder, modalities))
    groups: dict[tuple[Path, str], list[tuple[int | None, Path]]] = {}
    for path in [root] if root.is_file() else images_below(folder, DEPTH):
        if leave_out is not None and leave_out.absolute() in path.absolute().parents:
            continue
        if part := naming.read(stem(path)):
            case_id, modality = part
            groups.setdefault((path.parent, case_id), []).append((modality, path))
    if not groups:
        raise InputError(f"{root}: no image of a known format in it; name a folder of images")
    found = CaseList()
    for (_, case_id), files in sorted(groups.items()):
        _add(found, case_id, files, modalities)
    return found.checked()


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How file names tell cases and modalities.

    Attributes:
        modalities: what the network takes.
        channels: what the numbers of nnU-Net's CASE_0000, CASE_0001, ... stand for.
    """

    modalities: tuple[str, ...]
    channels: tuple[str, ...]

    def read(self, name: str) -> tuple[str, int | None] | None:
        """Return (case id, modality index), (case id, None) for a file of its own, or None for what is no input."""
        if match := re.fullmatch(r"(.+)_(\d{4})", name):
            number = int(match[2])
            if number < len(self.channels):
                return self._known(match[1], self.channels[number])
        if match := re.fullmatch(r"(.+)[_-]([^_-]+)", name):
            case_id, suffix = match[1], match[2].lower()
            if suffix == "seg":
                return None
            if suffix == "img":
                return case_id, None
            if suffix in self._suffixes:
                return self._known(case_id, self._suffixes[suffix])
        return name, None

    @property
    def _suffixes(self) -> dict[str, str]:
        """File name suffix to modality: a modality's own name, and both schemes of BraTS if the network knows one."""
        lower = {name.lower() for name in self.modalities}
        brats = {s: name for name, suffixes in BRATS_MODALITIES.items() for s in suffixes}
        return ({} if lower.isdisjoint(BRATS_MODALITIES) else brats) | {name: name for name in lower}

    def _known(self, case_id: str, modality: str) -> tuple[str, int] | None:
        lower = [name.lower() for name in self.modalities]
        return (case_id, lower.index(modality.lower())) if modality.lower() in lower else None


def _holds_image(folder: Path) -> bool:
    return folder.is_dir() and any(images_below(folder, DEPTH))


def _add(found: CaseList, case_id: str, parts: list[tuple[int | None, Path]], modalities: tuple[str, ...]) -> None:
    files = dict(parts)
    if len(files) < len(parts) or (None in files and len(files) > 1):
        listed = " and ".join(str(path) for _, path in parts)
        found.refuse(case_id, f"{listed} are the same volume of one case; remove what is not meant")
    elif None in files:
        found.add(case_id, [files[None]], None)
    elif missing := [name for index, name in enumerate(modalities) if index not in files]:
        there = next(iter(files.values()))
        found.refuse(case_id, f"{there.parent}: no file of modality {', '.join(missing)} beside {there.name}")
    else:
        found.add(case_id, [files[index] for index in range(len(modalities))], None)


def _channels(folder: Path, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Return what channel numbers stand for: by the names of a dataset.json, else in the order of the modalities.

    A run may have renamed the channels: as many modalities, none of a channel's name, mean the same order.
    """
    channels = _channel_names(folder)
    if channels is None:
        return modalities
    renamed = {name.lower() for name in channels}.isdisjoint(name.lower() for name in modalities)
    return modalities if renamed and len(channels) == len(modalities) else channels


def _channel_names(folder: Path) -> tuple[str, ...] | None:
    """Return the channels that a dataset.json in or above the folder names, in the order of their numbers."""
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            try:
                return tuple(channel_names(json.loads(path.read_text())))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(f"{path}: not a valid data set description: {error}") from error
    return None


def _manifest(path: Path, modalities: tuple[str, ...]) -> CaseList:
    rows = csv_rows(path)
    if not rows or not {"case", *modalities} <= set(rows[0]):
        raise InputError(f"{path}: needs rows with the columns case, {', '.join(modalities)}")
    found = CaseList()
    for row in rows:
        if empty := [name for name in ("case", *modalities) if not row[name]]:
            found.refuse(row["case"] or "?", f"{path}: case {row['case']!r} has nothing in column {empty[0]}")
        else:
            found.add(row["case"], [path.parent / row[name] for name in modalities], None)
    return found
