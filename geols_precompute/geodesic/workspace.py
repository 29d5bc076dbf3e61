"""Scratch memory of the kernels: one buffer per thread, kept between calls.

Fresh pages cost as much time as the fast kernel itself, so a thread that computes map after map keeps its memory.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

_local = threading.local()


def scratch(size: int) -> NDArray[np.float32]:
    """Return `size` float32 values, not initialised, that this thread's next call takes back."""
    buffer: NDArray[np.float32] | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < size:
        _local.buffer = None  # let go of the old memory before asking for the new
        _local.buffer = buffer = np.empty(size, np.float32)
    return buffer[:size]
