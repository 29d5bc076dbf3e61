"""Three orthogonal cuts through a case, in few bytes, with all that the page needs to mix soft labels there."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array, UInt8Array
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.report.cases import ReportCase

#: Voxels shown around the foreground.
MARGIN = 24
#: The letter of the other end of an axis of the body.
_AGAINST = dict(zip("RLAPSI", "LRPAIS", strict=True))


def case_slices(case: ReportCase) -> dict[str, Any]:
    """Return the JSON document of a case's cuts, each through the place of its axis that has the most foreground.

    A cut across an axis has the two other axes, in their order, as rows and columns. Its bytes, compressed and in
    base64, are, one after the other: the modalities (0 to 255 between the case's 0.5 and 99.5 % percentiles)
    [m,row,column], the stored maps [k,row,column], and the labels of the cut and of its two neighbours with a border
    of one voxel [3,row + 2,column + 2], which SVLS asks for.
    """
    foreground = (case.label > 0) & (case.label != IGNORE_INDEX)
    if not foreground.any():
        foreground = np.ones_like(foreground)
    image = np.stack([_windowed(modality) for modality in case.image])
    # the volume's edge continues beyond it, as SVLS has it
    label = np.pad(case.label, 1, mode="edge")
    box = [_bounds(foreground, axis) for axis in range(3)]
    centre = [int(foreground.sum(axis=_others(axis)).argmax()) for axis in range(3)]
    cuts = [_cut(case, image, label, axis, centre, box) for axis in range(3)]
    return {"id": case.id, "present": list(case.present), "centre": centre, "cuts": cuts}


def _cut(
    case: ReportCase,
    image: UInt8Array,
    padded: UInt8Array,
    axis: int,
    centre: list[int],
    box: list[tuple[int, int]],
) -> dict[str, Any]:
    first, second = _others(axis)
    place: list[slice] = [slice(*bounds) for bounds in box]
    place[axis] = slice(centre[axis], centre[axis] + 1)
    around = tuple(slice(s.start, s.stop + 2) for s in place)
    labels = np.moveaxis(padded[around], axis, 0)
    content = b"".join(
        np.ascontiguousarray(array).tobytes()
        for array in (image[(slice(None), *place)], case.maps[(slice(None), *place)], labels)
    )
    return {
        "axis": axis,
        "rows": first,
        "columns": second,
        "size": [place[first].stop - place[first].start, place[second].stop - place[second].start],
        "start": [place[first].start, place[second].start],
        "spacing": [case.spacing[first], case.spacing[second]],
        "edges": _edges(case.orientation, first, second),
        "data": base64.b64encode(zlib.compress(content, 9)).decode(),
    }


def _edges(orientation: str, rows: int, columns: int) -> list[str]:
    """Return the letters of the body at the left, right, top and bottom of a cut whose rows and columns are these axes.

    Axes count z,y,x; the orientation names those of x,y,z.
    """
    right, bottom = orientation[2 - columns], orientation[2 - rows]
    return [_AGAINST[right], right, _AGAINST[bottom], bottom]


def _others(axis: int) -> tuple[int, ...]:
    """Return the axes of a cut across `axis`, its rows and its columns."""
    return tuple(other for other in range(3) if other != axis)


def _bounds(mask_ZYX: BoolArray, axis: int) -> tuple[int, int]:
    """Return where along an axis a mask lies, with a margin."""
    there = np.flatnonzero(mask_ZYX.any(axis=_others(axis)))
    return max(0, int(there[0]) - MARGIN), min(mask_ZYX.shape[axis], int(there[-1]) + 1 + MARGIN)


def _windowed(modality_ZYX: Float32Array) -> UInt8Array:
    low, high = np.percentile(modality_ZYX, [0.5, 99.5])
    return np.clip((modality_ZYX - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
