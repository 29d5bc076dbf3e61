"""Numbers and texts as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def readable(size: float) -> str:
    """Return a number of bytes as people read it."""
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if size >= u), (1e3, "kB"))
    return f"{size / unit:.3g} {name}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Iterable[str]) -> str:
    """Return names as people list them: a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and that there are more."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


#: How much of a line is shown; what a file or a server says may be megabytes.
MAX_LINE = 5000
#: What `atomic` calls a file until it is whole.
_TEMPORARY = re.compile(r"/?\.tmp-[0-9a-f]{32}")
#: User and password of an address, and its query or fragment, which may be a signature.
_SECRETS = (
    (re.compile(r"(\w:/+)[^\s/'\"]*@"), r"\1"),
    (re.compile(r"(?<=[^\s?#])[?#][^\s'\"<>()?#]*=[^\s'\"<>()]*"), "?..."),
)


def without_temporary_names(text: str) -> str:
    """Return a text in which a temporary file stands for the folder that it lies in: its name helps nobody."""
    return _TEMPORARY.sub("", text)


def printable(text: str, limit: int = MAX_LINE) -> str:
    """Return a text in one line that does nothing to a terminal, wherever it came from.

    Names of temporary files are left out. Control characters, escape sequences and whatever else cannot be seen are
    replaced. Of a text longer than `limit` characters the first and the last are shown.
    """
    text = without_temporary_names(text)
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
    one_line = " ".join(text.splitlines()).replace("\t", " ")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in one_line)


def printable_lines(text: str) -> str:
    """Return a text of several lines, each as `printable` gives it, with its indentation."""
    return "\n".join(printable(line) for line in text.split("\n"))


def without_secrets(text: str) -> str:
    """Return a text in which addresses have neither user and password nor a query."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
