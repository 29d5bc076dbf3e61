"""A folder that has no known layout: what is in it, and a cases.csv that would fit."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from geols_precompute.data.cases import ending, is_case_id, is_image, stem

#: Files that are looked at: enough to say what a folder holds.
MOST_FILES = 10_000
#: Words in names of files and folders that hold labels.
_LABEL = re.compile(r"label|mask|seg|annot|roi|contour|manual|truth|gt(?![a-z])", re.IGNORECASE)


def describe_folder(root: Path) -> tuple[str, list[str]]:
    """Return (what a folder holds, the first three lines of a cases.csv that would fit it).

    The lines name files of the folder as far as their names tell images from labels; they are for a person to correct.
    """
    files = list(_files_below(root))
    if not files:
        return "it holds no file", []
    kinds = Counter(ending(path) for path in files)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    more = f" (of its first {MOST_FILES} files)" if len(files) == MOST_FILES else ""
    images = [path for path in files if is_image(path)]
    # two that differ in their names, if there are such
    shown = list({re.sub(r"\d+", "", path.as_posix()): path for path in reversed(images or files)}.values())[::-1][:2]
    examples = ", ".join(path.relative_to(root).as_posix() for path in shown)
    return f"it holds {counts}{more}, such as {examples}", _manifest(root, images)


def _files_below(root: Path) -> Iterator[Path]:
    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))
        for name in sorted(names):
            if not name.startswith(".") and count < MOST_FILES:
                count += 1
                yield Path(folder, name)


def _manifest(root: Path, images: list[Path]) -> list[str]:
    """Return a header and two rows; a label is the one whose name and folder are most like those of the image.

    Where several are as like, it is the one in the same place among the labels.
    """
    below = [path.relative_to(root) for path in images]
    labels = [path for path in below if _LABEL.search(path.as_posix())]
    others = [path for path in below if path not in labels] or below
    rows = [("case", "label", "image")]
    for place, path in enumerate(others[:2]):
        # the first of several that are as like is taken
        in_turn = [*labels[place:], *labels[:place]]
        like = max(in_turn, key=lambda label: _likeness(path, label), default=None)
        case = re.sub(r"[^A-Za-z0-9._-]", "_", stem(path)).lstrip("._-")
        rows.append((case if is_case_id(case) else "case_1", like.as_posix() if like else "LABEL", path.as_posix()))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().splitlines() if others else []


def _likeness(image: Path, label: Path) -> tuple[bool, int]:
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(stem(image), stem(label), strict=False))
    return image.parent == label.parent, len(list(same))
