"""Kernels: how numba compiles the loops of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile a function on first use, without the GIL, into numba's cache on disk; no fast-math, so no bit varies.

    numba notices a change in the function's own file only: after changing a kernel that another file's kernel calls,
    delete ``__pycache__``.
    """
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
