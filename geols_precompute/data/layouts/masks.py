"""A binary mask per organ, as TotalSegmentator writes them: CASE/ct and CASE/segmentations/ORGAN."""

from __future__ import annotations

from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset
from geols_precompute.data.layouts.pairs import case_folders, chosen_images, common_names, named_images

FOLDER = "segmentations"
#: Organs that the line for --classes names.
_SHOWN = 200


def read_masks(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases of CASE/IMAGE and CASE/segmentations/ORGAN, or of one such folder; None if there is none.

    Every image file beside the folder of masks is a modality, named by its file. Which organ has which label value is
    asked for, as many have no use for all of them.

    Raises:
        InputError: two files are the same volume.
    """
    masks = {
        folder: named_images(folder / FOLDER, depth=0) for folder in case_folders(root) if (folder / FOLDER).is_dir()
    }
    if not any(masks.values()):
        return None
    files = {folder: named_images(folder, depth=1) for folder in masks}
    for named in files.values():
        named.pop(FOLDER, None)
    modalities = wanted or common_names([named.keys() for named in files.values() if named]) or ("image",)
    found = CaseList()
    for folder, organs in masks.items():
        case, images = folder.resolve().name, chosen_images(files[folder], modalities)
        if not organs:
            found.refuse(case, f"{folder / FOLDER}: no mask of any organ")
        elif images is None:
            there = ", ".join(files[folder]) or "none"
            found.refuse(case, f"{folder}: no image of {', '.join(modalities)}; it has {there}")
        else:
            found.add(case, images, None, masks=organs)
    cases, problems = found.checked()
    names = list(dict.fromkeys(name for organs in masks.values() for name in organs))
    flag = ",".join(f"{value}={name}" for value, name in enumerate(names[:_SHOWN], start=1))
    return Dataset(
        layout="a mask per organ",
        root=root,
        modalities=modalities,
        cases=cases,
        problems=problems,
        why_no_classes=f"{root}: a mask per organ; name those that are to be classes, each with a label value: all "
        f"would be --classes {flag}",
    )
