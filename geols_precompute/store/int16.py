"""Images as int16 with a scale and an offset per modality: intensity = stored · scale + offset."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LOW, _HIGH = -(2**15), 2**15 - 1


def to_int16(image_MZYX: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], list[float], list[float]]:
    """Return (stored int16 [modality,z,y,x], scales, offsets).

    Whole numbers whose range fits 16 bits are kept exactly; other intensities to 1/131070 of their range.
    """
    stored = np.empty(image_MZYX.shape, np.int16)
    scales, offsets = [], []
    for source, target in zip(image_MZYX, stored, strict=True):
        scale, offset = _fill(source, target)
        scales.append(scale)
        offsets.append(offset)
    return stored, scales, offsets


def _fill(source: npt.NDArray[np.float32], target: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Write one modality [z,y,x] to `target` and return its scale and offset."""
    low, high = float(source.min()), float(source.max())
    if low >= _LOW and high <= _HIGH:
        np.copyto(target, source, casting="unsafe")
        if np.array_equal(target, source):
            return 1.0, 0.0
    if low == high:
        target[...] = 0
        return 1.0, low
    if high - low <= _HIGH - _LOW and np.array_equal(np.rint(source), source):
        scale, offset = 1.0, low - _LOW
    else:
        scale = (high - low) / (_HIGH - _LOW)
        offset = low - _LOW * scale
    np.copyto(target, np.clip(np.rint((source - np.float64(offset)) / scale), _LOW, _HIGH), casting="unsafe")
    return scale, offset
