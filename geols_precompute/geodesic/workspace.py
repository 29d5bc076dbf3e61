"""Memory that a thread's transforms share, one after another: new pages cost as much as a kernel."""

from __future__ import annotations

import threading

import numpy as np

from geols_precompute.arrays import Float32Array
from geols_precompute.geodesic.simd import LANES

#: Values that a thread keeps at most between two calls (1 GiB); what a larger volume needs is given back.
KEPT = 2**28

_thread = threading.local()


def scratch(size: int) -> Float32Array:
    """Return `size` values, not initialised, from a cache line on; the thread's next call uses their memory again."""
    buffer: Float32Array | None = getattr(_thread, "buffer", None)
    if buffer is None or buffer.size < size:
        _thread.buffer = None  # let go of the old memory before asking for the new
        buffer = _aligned(size)
        if size <= KEPT:
            _thread.buffer = buffer
    return buffer[:size]


def _aligned(size: int) -> Float32Array:
    """Return an array whose first sixteen values fill one cache line, as a load across two takes twice as long."""
    buffer = np.empty(size + LANES, np.float32)
    start = -buffer.ctypes.data // buffer.itemsize % LANES
    return buffer[start : start + size]
