"""Kernels: how numba compiles the loops of this package, and where it keeps the machine code."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

#: The folders of geols_precompute in which functions are compiled.
KERNEL_FOLDERS = ("geodesic", "maps")

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function on first use, without the GIL, kept on disk if possible; no fast-math, so no bit varies."""
    folder = _cache_folder()
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder or "")
    try:
        return numba.njit(cache=folder is not None, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _cache_folder() -> Path | None:
    """Return a folder for machine code, named by the sources of all kernels; None if no place can be written.

    numba itself compares only the file of the kernel, not those of the kernels that it calls, and would go on running
    old code after an update.
    """
    package = Path(__file__).parents[1]
    files = sorted(file for name in KERNEL_FOLDERS for file in (package / name).glob("*.py"))
    sources = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    caches = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(caches) / "geols" / f"kernels-{sources.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
