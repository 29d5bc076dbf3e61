"""Data sets in which several raters have labelled every case: a folder per case (CURVAS, QUBIQ), and BIDS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset, images_below, stem
from geols_precompute.data.layouts.modalities import Channels, are_renamed, index_of, is_modality

#: annotation_1 (CURVAS), seg01 and task01_seg01 (QUBIQ).
_RATER_FILE = re.compile(r"annotation_(?P<rater>\d+)|(?P<task>task\d+_)?seg(?P<number>\d+)", re.IGNORECASE)
_BIDS_FILE = re.compile(r"(?P<id>sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?)_(?P<rest>.+)")
_BIDS_RATER = re.compile(r"(.+_)?desc-rater(?P<rater>[A-Za-z0-9]+)_dseg", re.IGNORECASE)
#: What BIDS derivatives hold beside images.
_NO_IMAGES = ("dseg", "probseg", "mask")


class _Files:
    """The files of one case: images by modality, label maps by rater; `problem` says why it cannot be used."""

    def __init__(self) -> None:
        self.images: dict[str, Path] = {}
        self.raters: dict[str, Path] = {}
        self.problem = ""

    def put(self, kind: dict[str, Path], key: str, path: Path) -> None:
        if key in kind:
            self.problem = f"{kind[key]} and {path} are the same volume of one case; remove one of them"
        kind.setdefault(key, path)


def read_raters(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of folders with an image and label maps of several raters; None if no file is named as such.

    CURVAS has CASE/image and CASE/annotation_1, QUBIQ CASE/image and CASE/task01_seg01 (or seg01); every other image
    file of the folder is a modality, named by its file. BIDS has sub-X_..._desc-rater1_dseg among derivatives, and
    modalities by suffix (T1w). Numbers of raters lose their leading zeros.
    """
    if any(root.glob("sub-*")):
        layout, files = "BIDS, several raters", _bids(root)
    else:
        layout, files = "several raters", _case_folders(root)
    if not any(case.raters for case in files.values()):
        return None
    modalities = wanted or _modalities(files)
    found = CaseList()
    for case_id, case in sorted(files.items()):
        where = next(iter((*case.raters.values(), *case.images.values()))).parent
        images = _chosen_images(case.images, modalities)
        if case.problem:
            found.refuse(case_id, case.problem)
        elif not case.raters:
            found.refuse(case_id, f"{where}: no label map of any rater")
        elif images is None:
            found.refuse(
                case_id, f"{where}: no image of {', '.join(modalities)}; it has {', '.join(case.images) or 'none'}"
            )
        else:
            found.add(case_id, images, None, raters=dict(sorted(case.raters.items(), key=lambda item: _order(item[0]))))
    cases, problems = found.checked()
    own = _modalities(files)
    # a name such as image says little
    renamed = len(modalities) == len(own) == 1 and is_modality(own[0]) and index_of(modalities[0], own) is None
    return Dataset(
        layout=layout,
        root=root,
        modalities=modalities,
        cases=cases,
        problems=problems,
        renamed=own if renamed else (),
    )


def _case_folders(root: Path) -> dict[str, _Files]:
    folders: dict[Path, _Files] = {}
    tasks: dict[Path, set[str]] = {}
    for path in images_below(root, depth=3):
        case = folders.setdefault(path.parent, _Files())
        if match := _RATER_FILE.fullmatch(stem(path)):
            case.put(case.raters, str(int(match["rater"] or match["number"])), path)
            tasks.setdefault(path.parent, set()).add(match["task"] or "")
        else:
            case.put(case.images, stem(path), path)
    for folder, names in tasks.items():
        if len(names) > 1:
            folders[folder].problem = f"{folder}: has {', '.join(sorted(names))}; keep the files of one task"
    # folders without raters among those that have some are cases that lack them, if they have an image of that name
    known = {name for case in folders.values() if case.raters for name in case.images}
    return {
        str(folder.resolve().name): case
        for folder, case in folders.items()
        if case.raters or known & case.images.keys()
    }


def _bids(root: Path) -> dict[str, _Files]:
    cases: dict[str, _Files] = {}
    for path in images_below(root, depth=5):
        if not (name := _BIDS_FILE.fullmatch(stem(path))):
            continue
        case, suffix = cases.setdefault(name["id"], _Files()), name["rest"].rsplit("_", 1)[-1]
        if match := _BIDS_RATER.fullmatch(name["rest"]):
            rater = match["rater"]
            case.put(case.raters, str(int(rater)) if rater.isdigit() else rater, path)
        elif suffix not in _NO_IMAGES:
            case.put(case.images, suffix, path)
    return cases


def _modalities(files: Mapping[str, _Files]) -> tuple[str, ...]:
    """Return the names of the images that every case with raters has, or of those of the first."""
    named = [case.images.keys() for case in files.values() if case.raters]
    common = set(named[0]).intersection(*named[1:]) or named[0]
    return tuple(sorted(common)) or ("image",)


def _chosen_images(images: Mapping[str, Path], modalities: tuple[str, ...]) -> list[Path] | None:
    """Return the file of each modality, or the only one, which may hold all of them; None if one is missing."""
    if len(images) == 1 and (len(modalities) > 1 or are_renamed(Channels.of([*images]), modalities)):
        return [*images.values()]
    places = [index_of(name, list(images)) for name in modalities]
    return [[*images.values()][place] for place in places if place is not None] if None not in places else None


def _order(rater: str) -> tuple[int, str]:
    """Numbers by size, then names."""
    return (int(rater), "") if rater.isdigit() else (10**9, rater)
