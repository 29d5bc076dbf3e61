"""Modalities by their names: those of a description, and the endings of file names."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The two naming schemes of BraTS, under the names of the first.
BRATS_MODALITIES = {
    "flair": ("flair", "t2f"),
    "t1": ("t1", "t1n"),
    "t1ce": ("t1ce", "t1c"),
    "t2": ("t2", "t2w"),
}
#: The modality that each file name ending of BraTS stands for.
BRATS_ENDINGS = {ending: name for name, endings in BRATS_MODALITIES.items() for ending in endings}


def split_ending(name: str) -> tuple[str, str] | None:
    """Return (`CASE`, `flair`) of the file name `CASE_flair` or `CASE-FLAIR`; None if it has no such ending."""
    match = re.fullmatch(r"(.+)[_-]([^_-]+)", name)
    return (match[1], match[2].lower()) if match else None


def index_of(name: str, modalities: Sequence[str]) -> int | None:
    """Return the place of a modality in `modalities`, letter case aside; None if it is not there."""
    lower = [modality.lower() for modality in modalities]
    return lower.index(name.lower()) if name.lower() in lower else None


def are_renamed(modalities: Sequence[str], names: Sequence[str]) -> bool:
    """Whether `names` are new names for all `modalities`, in their order: as many, and no name in common."""
    return len(modalities) == len(names) and all(index_of(name, modalities) is None for name in names)
