"""Modalities by their names: which channel of a data set is which one that is asked for, and endings of file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.errors import InputError

#: The two naming schemes of BraTS, under the names of the first.
BRATS_MODALITIES = {
    "flair": ("flair", "t2f"),
    "t1": ("t1", "t1n"),
    "t1ce": ("t1ce", "t1c"),
    "t2": ("t2", "t2w"),
}
#: The modality that each file name ending of BraTS stands for.
BRATS_ENDINGS = {ending: name for name, endings in BRATS_MODALITIES.items() for ending in endings}
#: What each known name means, without regard to letter case and punctuation: those of BraTS, of the MSD, and others
#: that a channel of another meaning can never have.
_MEANINGS = BRATS_ENDINGS | {
    "t2flair": "flair",
    "flairt2": "flair",
    "t1w": "t1",
    "t1gd": "t1ce",
    "t1wce": "t1ce",
    "t1cegd": "t1ce",
    "ct": "ct",
    "pet": "pet",
    "adc": "adc",
    "dwi": "dwi",
}


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of a data set, in the order of their numbers.

    Attributes:
        names: different ones; where several channels share a name, the later ones are numbered (CT, CT_1).
        numbered: whether some were, so that the names say little.
    """

    names: tuple[str, ...]
    numbered: bool = False

    @classmethod
    def of(cls, names: Sequence[str]) -> Channels:
        """Return the channels of a list of names, which may hold one twice: in nnU-Net a name is a normalisation."""
        different: list[str] = []
        for place, name in enumerate(names):
            later = (f"{name}_{number}" for number in range(1, len(names) + place + 1))
            taken = {*different, *names[place + 1 :]}
            different.append(name if name not in different else next(n for n in later if n not in taken))
        return cls(names=tuple(different), numbered=different != list(names))

    def passed_over(self, renaming: str) -> tuple[str, ...]:
        """Return the names instead of which others were taken, if `renaming` is a note of that and they say much."""
        return self.names if renaming and not self.numbered else ()

    def note(self, where: Path) -> str:
        """Return what a person should know about the names, or an empty text."""
        if not self.numbered:
            return ""
        return f"{where}: channels share a name; they are called {', '.join(self.names)}"


def meaning_of(name: str) -> str:
    """Return the modality that a name stands for (`t1ce` for `T1-Gd`), else the name in lower case."""
    return _MEANINGS.get(re.sub(r"[^a-z0-9]", "", name.lower()), name.lower())


def is_modality(name: str) -> bool:
    """Whether a name is that of a modality that is known here."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _MEANINGS


def index_of(name: str, modalities: Sequence[str]) -> int | None:
    """Return the place of a modality in `modalities`; None if it is not there, or several could be meant.

    The name itself comes first, then the name without regard to letter case, then another name of the same modality.
    """
    for same in (str, str.lower, meaning_of):
        found = [place for place, other in enumerate(modalities) if same(other) == same(name)]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def are_renamed(channels: Channels, names: Sequence[str]) -> bool:
    """Whether `names` can be new names for all `channels`, in their order.

    They are as many, have no modality in common unless the channels' own names say little, and no channel is given a
    name of another meaning.
    """
    if len(channels.names) != len(names):
        return False
    in_common = any(index_of(name, channels.names) is not None for name in names)
    known = set(_MEANINGS.values())
    pairs = [(meaning_of(old), meaning_of(new)) for old, new in zip(channels.names, names, strict=True)]
    contradict = any(old in known and new in known and old != new for old, new in pairs)
    return channels.numbered or not (in_common or contradict)


def find_channels(channels: Channels, wanted: Sequence[str], where: Path) -> tuple[list[int], str]:
    """Return (number of the channel of each `wanted` modality, note): by name, else all of them renamed, with a note.

    Raises:
        InputError: neither is possible.
    """
    found = [index_of(name, channels.names) for name in wanted]
    numbers = [number for number in found if number is not None]
    if len(set(numbers)) == len(wanted):
        return numbers, ""
    if are_renamed(channels, wanted):
        return list(range(len(wanted))), renaming_note(channels.names, wanted, where)
    raise InputError(
        f"{where} has the modalities {', '.join(channels.names)}, but {', '.join(wanted)} are asked for; name them in "
        "a recipe (modalities = [...]) as they are named there, or correct the names there"
    )


def renaming_note(channels: Sequence[str], names: Sequence[str], where: Path) -> str:
    """Return the announcement of a renaming by position, the only thing that tells a person of swapped modalities."""
    pairs = ", ".join(f"{old} as {new}" for old, new in zip(channels, names, strict=True))
    return f"{where}: no modality has the name that is asked for; taken by their order: {pairs}"


def split_ending(name: str) -> tuple[str, str] | None:
    """Return (`CASE`, `flair`) of the file name `CASE_flair` or `CASE-FLAIR`; None if it has no such ending."""
    match = re.fullmatch(r"(.+)[_-]([^_-]+)", name)
    return (match[1], match[2].lower()) if match else None
