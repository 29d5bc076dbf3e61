"""Intensity: the z-score per case and modality, the same in training and in prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ZScore:
    """How one case's stored int16 intensities become z-scores.

    A z-score does not change with a scale and an offset, so it is taken from the stored numbers as they are.

    Attributes:
        mean: per modality, in stored units.
        std: per modality, in stored units; 1 where the modality is constant.
        empty: per modality, the stored number of intensity 0 where only non-zero voxels count, else None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    empty: tuple[int | None, ...]

    def apply(self, stored_MZYX: npt.NDArray[np.int16]) -> Float32Array:
        """Return z-scores [modality,z,y,x] float32; voxels outside a stripped skull are 0."""
        result = np.empty(stored_MZYX.shape, np.float32)
        for stored, target, mean, std, empty in zip(stored_MZYX, result, self.mean, self.std, self.empty, strict=True):
            np.subtract(stored, np.float32(mean), out=target)
            target /= np.float32(std)
            if empty is not None:
                target[stored == empty] = 0
        return result


def zscore(
    stored_MZYX: npt.NDArray[np.int16], scale: npt.NDArray[Any], offset: npt.NDArray[Any], *, skull_stripped: bool
) -> ZScore:
    """Measure a whole prepared volume: mean and standard deviation of all voxels, or of the non-zero ones.

    Args:
        stored_MZYX: int16 [modality,z,y,x].
        scale: per modality; intensity = stored · scale + offset.
        offset: per modality.
        skull_stripped: leave out the voxels of intensity 0.
    """
    zeros: list[int | None] = [None] * len(stored_MZYX)
    if skull_stripped:
        zeros = [round(-float(o) / float(s)) for s, o in zip(scale, offset, strict=True)]
    moments = [_moments(m if z is None else m[m != z]) for m, z in zip(stored_MZYX, zeros, strict=True)]
    return ZScore(mean=tuple(m for m, _ in moments), std=tuple(s for _, s in moments), empty=tuple(zeros))


def _moments(values: npt.NDArray[np.int16]) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0
