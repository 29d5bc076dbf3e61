"""File formats: what each declares, whether a file is whole, and how it is read and written."""

from __future__ import annotations

from pathlib import Path


def suffix(path: Path) -> str:
    """Return the ending of a file name in lower case, a .gz aside: `.nii` for `a.nii.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix
