"""Parts: the cases of a data set dealt out to jobs that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from geols_precompute.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that a text such as 2/8 names.

        Raises:
            InputError: it names none.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--part {text}: give i/n with i from 1 to n, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return every `count`-th item, so that large and small ones, which often lie together, are spread."""
        return tuple(items[self.index - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """What the names of files have that the part alone writes: -2-of-8."""
        return f"-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
