"""Kernels: how numba compiles the loops of this package, and where it keeps the machine code."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

#: The folders of geols_precompute in which functions are compiled.
KERNEL_FOLDERS = ("geodesic", "maps")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function on first use, without the GIL, kept on disk if possible; no fast-math, so no bit varies."""
    folder = _cache_folder()
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder or "")
    try:
        return numba.njit(cache=folder is not None, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before


def is_cached(module: str) -> bool:
    """Whether kernels of a module of this name have been compiled before, and kept."""
    folder = _cache_folder()
    # numba names what it keeps after the module and the function
    return folder is not None and next(folder.rglob(f"{module}.*.nbi"), None) is not None


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
        _make_private(folder)
        if problem := untrusted(folder):
            warnings.warn(
                f"kernels are compiled anew in every process, as {problem}: what lies in {folder} might be of others; "
                "give NUMBA_CACHE_DIR a folder of your own",
                stacklevel=1,
            )
            return None
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _make_private(folder: Path) -> None:
    """Make a folder that is not there, and the one above it, for nobody else."""
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        if (mode := each.stat().st_mode) & _WRITABLE_BY_OTHERS and each.stat().st_uid == os.geteuid():
            each.chmod(stat.S_IMODE(mode) & ~_WRITABLE_BY_OTHERS)


def untrusted(folder: Path) -> str:
    """Return why what lies in a folder may be from another user; empty if it cannot be.

    Such a user owns it, a folder above it, or something in it, or can write to one of these; a folder such as /tmp,
    where nobody removes what others have, is no danger to what lies in it.

    Raises:
        OSError: something cannot be looked at.
    """
    ours = (os.geteuid(), 0)
    real = folder.resolve()
    for path in (real, *real.parents):
        status = path.stat()
        if status.st_uid not in ours:
            return f"{path} belongs to another user"
        if status.st_mode & _WRITABLE_BY_OTHERS and (path == real or not status.st_mode & stat.S_ISVTX):
            return f"other users can write to {path}"
    entered = real.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    for path in real.rglob("*"):
        status = path.lstat()
        if status.st_uid not in ours or (entered and status.st_mode & _WRITABLE_BY_OTHERS):
            return f"{path} belongs to another user, or others can write to it"
    return ""
