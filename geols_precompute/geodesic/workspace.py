"""Memory that a thread keeps from one case to the next: new pages cost as much as a kernel."""

from __future__ import annotations

import threading

import numpy as np

from geols_precompute.arrays import Float32Array
from geols_precompute.geodesic.simd import LANES

#: Values that a thread keeps at most for one purpose (1 GiB); what a larger volume needs is given back.
KEPT = 2**28

_thread = threading.local()


def scratch(size: int, purpose: str = "transform") -> Float32Array:
    """Return `size` values, not initialised, from a cache line on; the thread's next call uses their memory again.

    Calls for different purposes do not share memory.
    """
    buffer: Float32Array | None = getattr(_thread, purpose, None)
    if buffer is None or buffer.size < size:
        setattr(_thread, purpose, None)  # let go of the old memory before asking for the new
        buffer = _aligned(size)
        if size <= KEPT:
            setattr(_thread, purpose, buffer)
    return buffer[:size]


def _aligned(size: int) -> Float32Array:
    """Return an array whose first sixteen values fill one cache line, as a load across two takes twice as long."""
    buffer = np.empty(size + LANES, np.float32)
    start = -buffer.ctypes.data // buffer.itemsize % LANES
    return buffer[start : start + size]
