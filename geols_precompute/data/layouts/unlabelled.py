"""Images to predict, grouped to cases by their names in any layout; labels beside them are left alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from geols_precompute.data.cases import Case, CaseList, Problem, images_below, stem
from geols_precompute.data.layouts.masks import FOLDER as MASKS
from geols_precompute.data.layouts.modalities import (
    BRATS_ENDINGS,
    BRATS_MODALITIES,
    Channels,
    are_renamed,
    index_of,
    is_modality,
    meaning_of,
    renaming_note,
    split_ending,
)
from geols_precompute.data.layouts.nnunet import channels_of, read_json
from geols_precompute.data.layouts.pairs import LABEL_FILES, own_name
from geols_precompute.data.layouts.table import MANIFEST, columns_of, listed_cases
from geols_precompute.data.rows import csv_rows
from geols_precompute.errors import InputError

#: Folders of a data set that hold its images, the ones to predict first.
IMAGE_FOLDERS = ("imagesTs", "imagesTr", "TrainingImg", "images")
DEPTH = 3

#: Files of cases, each with the place of its modality, by the folder that they are in and the case's id.
Groups = dict[tuple[Path, str], list[tuple[int | None, Path]]]


def find_images(
    root: Path,
    modalities: tuple[str, ...],
    *,
    leave_out: Path | None = None,
    on_note: Callable[[str], object] | None = None,
) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
    """Return (cases, problems), sorted by id; labels that lie beside the images are left alone.

    Args:
        root: one image, a folder (searched three levels deep), or a CSV manifest with the columns case and one per
            modality.
        modalities: what the network takes, in order. A case is a file per modality, or one file with all of them.
        leave_out: a folder whose files are no inputs, such as that of the predictions.
        on_note: told, in one line, where modalities are taken by their order and not by their names.

    Raises:
        InputError: `root` does not exist, or holds no image.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist; name an image or a folder of images")
    manifest = root / MANIFEST if root.is_dir() else root
    if manifest.suffix == ".csv" and manifest.is_file():
        return _manifest_cases(manifest, modalities).checked()
    folder = next((root / name for name in IMAGE_FOLDERS if _holds_image(root / name)), root)
    numbers = _Numbers.of(root.parent if root.is_file() else folder, modalities)
    names = FileNames.of(modalities, numbers.modalities)
    groups: Groups = {}
    not_taken = ""
    paths = [root] if root.is_file() else _inputs(folder, leave_out)
    own = {} if root.is_file() else _named_by_modality(paths, folder, modalities)
    for path in paths:
        not_taken = numbers.contradiction if _has_number(path) else not_taken
        if path.parent in own:
            if (place := index_of(_name(path), modalities)) is not None:
                groups.setdefault((path.parent, path.parent.resolve().name), []).append((place, path))
        elif part := names.read(stem(path)):
            case_id, modality = part
            groups.setdefault((path.parent, case_id), []).append((modality, path))
    if root.is_dir():  # a file that is named is the case
        groups = _called_after_folders(groups, folder)
    if not groups:
        raise InputError(not_taken or f"{root}: no image of a known format in it; name a folder of images")
    by_order = any(m is None or _has_number(path) for files in groups.values() for m, path in files)
    if on_note and by_order and numbers.note:
        on_note(numbers.note)
    if on_note and (note := _several_modalities(groups, modalities)):
        on_note(f"{folder}: {note}")
    found = CaseList()
    for (_, case_id), files in sorted(groups.items()):
        if numbers.contradiction and [modality for modality, _ in files] == [None]:
            found.refuse(case_id, f"{files[0][1]}: {numbers.contradiction}")
        else:
            _add(found, case_id, files, modalities)
    return found.checked()


def _called_after_folders(groups: Groups, folder: Path) -> Groups:
    """Return the groups with the names of their folders where the files of several folders have one name.

    As in CASE/image, or CASE/ct beside masks of organs: the file says what it is, and the folder whose.
    """
    images = Counter(parent for parent, _ in groups)
    places: dict[str, list[Path]] = {}
    for parent, case_id in groups:
        places.setdefault(case_id.lower(), []).append(parent)
    kinds = {
        name
        for name, parents in places.items()
        if (len(parents) > 1 or name == "image") and all(images[p] == 1 and p != folder for p in parents)
    }
    return {
        (parent, parent.resolve().name if case_id.lower() in kinds else case_id): files
        for (parent, case_id), files in groups.items()
    }


def _inputs(folder: Path, leave_out: Path | None) -> list[Path]:
    """Return the images below a folder but for those in `leave_out`, labels and masks of organs."""
    left_out = leave_out.resolve() if leave_out is not None else None
    return [
        path
        for path in images_below(folder, DEPTH)
        if not (left_out is not None and left_out in path.resolve().parents)
        and _name(path) not in LABEL_FILES
        and not (path.parent.name == MASKS and path.parent != folder)
    ]


def _named_by_modality(paths: Sequence[Path], folder: Path, modalities: Sequence[str]) -> set[Path]:
    """Return the folders of one case each: their images bear the names of modalities, as in CASE/image and CASE/t1.

    Other images there are left alone, but not in `folder`, the one that was named: it may hold many cases. That is one
    case if several modalities or labels are in it, and no other image.
    """
    names: dict[Path, list[bool]] = {}
    for path in paths:
        if path != folder:
            names.setdefault(path.parent, []).append(index_of(_name(path), modalities) is not None)
    own = names.pop(folder, [])
    labelled = (folder / MASKS).is_dir() or any(_name(path) in LABEL_FILES for path in images_below(folder, 0))
    one_case = all(own) and (len(own) > 1 or (own != [] and labelled))
    return {parent for parent, named in names.items() if any(named)} | ({folder} if one_case else set())


def _name(path: Path) -> str:
    return own_name(path, path.parent)


@dataclass(frozen=True, kw_only=True)
class FileNames:
    """How file names tell cases and modalities; a modality is given by its place in what the network takes.

    Attributes:
        channels: the modality of each number of nnU-Net's CASE_0000, CASE_0001, ...; None if it is not taken.
        endings: the modality of each ending, `flair` in CASE_flair; None if it is not taken.
    """

    channels: Sequence[int | None]
    endings: Mapping[str, int | None]

    @classmethod
    def of(cls, modalities: Sequence[str], channels: Sequence[int | None]) -> Self:
        """Return the names of a network's modalities, and of those of BraTS if it takes one of them.

        Args:
            modalities: what the network takes.
            channels: the modality of each channel number.
        """
        endings = [name.lower() for name in modalities]
        if any(meaning_of(name) in BRATS_MODALITIES for name in modalities):
            endings = [*BRATS_ENDINGS, *endings]
        return cls(channels=channels, endings={ending: index_of(ending, modalities) for ending in endings})

    def read(self, name: str) -> tuple[str, int | None] | None:
        """Return (case id, modality), (case id, None) for a file of its own, or None for what is no input."""
        if (match := re.fullmatch(r"(.+)_(\d{4})", name)) and int(match[2]) < len(self.channels):
            modality = self.channels[int(match[2])]
            return None if modality is None else (match[1], modality)
        case_id, ending = split_ending(name) or (name, "")
        if ending == "seg":
            return None
        if ending == "img":
            return case_id, None
        if ending in self.endings:
            modality = self.endings[ending]
            return None if modality is None else (case_id, modality)
        return name, None


def _several_modalities(
    groups: Mapping[tuple[Path, str], Sequence[tuple[int | None, Path]]], modalities: Sequence[str]
) -> str:
    """Return what to say where a network of one modality is about to take those of one case for cases."""
    if len(modalities) > 1:
        return ""
    cases: dict[tuple[Path, str], list[Path]] = {}
    for (parent, _), files in groups.items():
        for _, path in files:
            name, ending = split_ending(stem(path)) or ("", "")
            if is_modality(ending) or re.fullmatch(r"\d{4}", ending):
                cases.setdefault((parent, name), []).append(path)
    several = next((paths for paths in cases.values() if len(paths) > 1), None)
    if several is None:
        return ""
    return (
        f"{', '.join(path.name for path in several[:4])} look like the modalities of one case, and each is predicted "
        f"as a case; the network takes one, {modalities[0]}: put its files in a folder of their own, or in a CSV"
    )


def _has_number(path: Path) -> bool:
    return re.fullmatch(r".+_\d{4}", stem(path)) is not None


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


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What channel numbers stand for, and a note where only their order says so.

    Attributes:
        modalities: the place, in what the network takes, of each channel number; None if it is not taken.
        note: empty where names tell.
        contradiction: why a file that holds all channels is not what the network takes; empty where it is.
    """

    modalities: Sequence[int | None]
    note: str = ""
    contradiction: str = ""

    @classmethod
    def of(cls, folder: Path, modalities: Sequence[str]) -> Self:
        """Return the meaning of numbers: by the names of a dataset.json, else in the order of the modalities.

        A run may have renamed the channels.
        """
        described = _described_channels(folder)
        if described is None:
            listed = ", ".join(f"{number:04d} as {name}" for number, name in enumerate(modalities))
            note = f"{folder}: no dataset.json names the channels; taken by their order: {listed}"
            return cls(modalities=range(len(modalities)), note=note if len(modalities) > 1 else "")
        path, channels = described
        places = [index_of(name, modalities) for name in channels.names]
        if any(place is None for place in places) and are_renamed(channels, modalities):
            return cls(modalities=range(len(modalities)), note=renaming_note(channels.names, modalities, path))
        contradiction = ""
        if places != [*range(len(modalities))]:
            contradiction = f"{path} names the channels {', '.join(channels.names)}; the network takes "
            contradiction += f"{', '.join(modalities)}, in this order; write such files, or correct the names there"
        return cls(modalities=places, contradiction=contradiction)


def _described_channels(folder: Path) -> tuple[Path, Channels] | None:
    """Return the dataset.json in or above the folder, and the channels that it names."""
    for path in (folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            try:
                return path, channels_of(read_json(path))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise InputError(f"{path}: not a valid data set description: {error}") from error
    return None


def _manifest_cases(path: Path, modalities: tuple[str, ...]) -> CaseList:
    rows = csv_rows(path)
    if not rows or "case" not in rows[0]:
        raise InputError(f"{path}: needs rows with the columns case, {', '.join(modalities)}")
    columns = [name for name in rows[0] if name not in ("case", "label")]
    return listed_cases(path, rows, columns_of(modalities, columns, path), labelled=False)
