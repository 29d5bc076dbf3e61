"""The class table: which value of a label file is which class, under which name."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np

from geols_precompute.arrays import Int32Array, UInt8Array
from geols_precompute.errors import InputError, RecipeError

#: Class indices are stored in 8 bits, of which one value is for ignored voxels.
MAX_CLASSES = 255
#: Class index of ignored voxels: they have no seeds, no loss and no metrics.
IGNORE_INDEX = 255
#: Characters of the name of a class, a modality or a region.
MAX_NAME = 200


def problem_of_names(names: Sequence[Any]) -> str:
    """Return why these cannot name classes, modalities or regions in a store; empty if they can."""
    if not names:
        return "there is none"
    for name in names:
        if not isinstance(name, str) or not name:
            return f"{reprlib.repr(name)} is no text, or empty"
        if len(name) > MAX_NAME:
            return f"{reprlib.repr(name)} has {len(name)} characters"
        if not name.isprintable():
            return f"{reprlib.repr(name)} has a character that cannot be seen, such as a tab or a no-break space"
    return "" if len(set(names)) == len(names) else f"{reprlib.repr(list(names))} repeats one"


@dataclass(frozen=True, kw_only=True)
class ClassLabel:
    """One class: the integer that label files hold, and its name."""

    value: int
    name: str


@dataclass(frozen=True)
class ClassTable(Sequence[ClassLabel]):
    """The classes in ascending order of their file values, background first: a class's index is its place.

    Attributes:
        labels: value and name of each class.
        ignore: the file value of voxels without a class; None if there is none.

    Example:
        >>> table = ClassTable.from_names({1: "liver", 5: "kidney"})
        >>> table.values, table.names
        ((0, 1, 5), ('background', 'liver', 'kidney'))
        >>> table.find("kidney"), table.index_of(5)
        (2, 2)
    """

    labels: tuple[ClassLabel, ...]
    ignore: int | None = None

    def __post_init__(self) -> None:
        values, names = self.values, self.names
        if len(self) < 2:
            raise RecipeError(
                "no foreground class is named; name the label values, for example --classes 1=liver,2=kidney"
            )
        if len(self) > MAX_CLASSES:
            raise RecipeError(f"{len(self)} classes, but at most {MAX_CLASSES} are supported (background included)")
        if values[0] < 0:
            raise RecipeError(f"class value {values[0]} is negative; label values start at 0, the background")
        if problem := problem_of_names(names):
            raise RecipeError(
                f"class names must be different and not empty, of at most {MAX_NAME} printable characters: {problem}"
            )
        if self.ignore is not None and not (type(self.ignore) is int and self.ignore > 0):
            raise RecipeError(f"ignore must be a positive label value, got {self.ignore!r}")
        if self.ignore in values:
            raise RecipeError(f"label value {self.ignore} is both a class and the ignore label")

    @classmethod
    def from_names(cls, names: Mapping[int, str], *, ignore: int | None = None) -> Self:
        """Return the table of `names` (file value to name); the background is added if it is not named.

        Raises:
            RecipeError: no foreground class, more than 255 classes, a negative value, an empty or repeated name, or an
                ignore value that is also a class.
        """
        ordered = sorted({0: "background", **names}.items())
        return cls(tuple(ClassLabel(value=value, name=name) for value, name in ordered), ignore)

    @classmethod
    def from_json(cls, document: Sequence[Mapping[str, Any]], *, ignore: int | None = None) -> Self:
        """Return the table of a list of {value, name}, as stores and checkpoints hold it.

        Raises:
            RecipeError, LookupError, TypeError: it is not such a list.
        """
        return cls(tuple(ClassLabel(value=entry["value"], name=entry["name"]) for entry in document), ignore)

    def as_json(self) -> list[dict[str, Any]]:
        """Return a list of {value, name}; `ignore` stands with the preprocessing."""
        return [{"value": label.value, "name": label.name} for label in self.labels]

    @property
    def values(self) -> tuple[int, ...]:
        """The file value of each class."""
        return tuple(label.value for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return tuple(label.name for label in self.labels)

    @property
    def foreground(self) -> tuple[str, ...]:
        """The names of all classes but the background."""
        return self.names[1:]

    def index_of(self, value: int) -> int:
        """Return the index of the class with this file value.

        Raises:
            InputError: there is none.
        """
        if value not in self.values:
            raise InputError(f"no class has the label value {value}; there are {self}")
        return self.values.index(value)

    def find(self, wanted: str) -> int:
        """Return the index of the class with this name or file value.

        Raises:
            InputError: there is none.
        """
        for index, label in enumerate(self.labels):
            if wanted in (label.name, str(label.value)):
                return index
        raise InputError(f"no class {wanted!r}; there are {self}")

    def indices(self, label_ZYX: Int32Array) -> UInt8Array:
        """Return a label map of file values as class indices, uint8; ignored voxels become 255.

        Raises:
            InputError: a voxel has a value that is neither that of a class nor `ignore`.
        """
        values = [*self.values] if self.ignore is None else [*self.values, self.ignore]
        order = np.argsort(values)
        ascending = np.array(values)[order]
        indices = np.array([*range(len(self)), IGNORE_INDEX], np.uint8)[order]
        found = np.empty(label_ZYX.shape, np.uint8)
        known = np.empty(label_ZYX.shape, bool)
        # a look-up for every class at once, for there may be hundreds; slice by slice, for its places take 64 bits each
        for label, target, is_known in zip(label_ZYX, found, known, strict=True):
            places = np.searchsorted(ascending, label).clip(max=len(values) - 1)
            np.equal(ascending[places], label, out=is_known)
            target[...] = indices[places]
        if not known.all():
            strange, counts = np.unique(label_ZYX[~known], return_counts=True)
            listed = ", ".join(f"{v} ({n} voxels)" for v, n in zip(strange[:5], counts[:5], strict=True))
            raise InputError(
                f"label values without a class: {listed}; named are {', '.join(map(str, self.values))}. "
                "Name every value with --classes, a recipe or dataset.json"
            )
        return found

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> ClassLabel: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ClassLabel, ...]: ...

    def __getitem__(self, index: int | slice) -> ClassLabel | tuple[ClassLabel, ...]:
        return self.labels[index]

    def __iter__(self) -> Iterator[ClassLabel]:
        return iter(self.labels)

    def __str__(self) -> str:
        return ", ".join(f"{label.value} {label.name}" for label in self.labels)
