"""Slices of a case in three directions, in few bytes, with all that the page needs to mix soft labels there."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import BoolArray, Float32Array, UInt8Array
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.report.cases import ReportCase

#: Voxels shown around the foreground.
MARGIN = 24
#: The letter of the other end of an axis of the body.
_AGAINST = dict(zip("RLAPSI", "LRPAIS", strict=True))
#: What a slice is called by where the axis across it runs.
_DIRECTIONS = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
#: Levels of intensities that are not whole numbers.
_LEVELS = 4095
#: Nothing but Hounsfield units is as far below 0; z-scores and MR are not.
_AIR = -500


@dataclass(frozen=True, kw_only=True)
class View:
    """How slices across an axis are shown, as radiologists look at them.

    Rows run down from the head, or else from the front; columns run from the patient's right, or else from the front.

    Attributes:
        axis, rows, columns: of the array z,y,x.
        steps: 1 where rows and columns are counted as the array counts, -1 where against it.
        edges: letters of the body at the left, right, top and bottom; empty where the files do not say.
        direction: axial, coronal or sagittal, of the axis that is nearest.
    """

    axis: int
    rows: int
    columns: int
    steps: tuple[int, int]
    edges: tuple[str, ...]
    direction: str

    @classmethod
    def across(cls, axis: int, orientation: str, *, placed: bool) -> View:
        """Return the view across an axis of z,y,x of a grid whose axes x,y,z run as `orientation` says."""
        letters = orientation[::-1]
        up_first = ("SI", "AP", "RL")
        rows, columns = sorted(
            _others(axis),
            key=lambda other: next(n for n, pair in enumerate(up_first) if letters[other] in pair),
        )
        steps = tuple(1 if letters[shown] in "IPL" else -1 for shown in (rows, columns))
        bottom, right = (
            letters[shown] if step == 1 else _AGAINST[letters[shown]]
            for shown, step in zip((rows, columns), steps, strict=True)
        )
        return cls(
            axis=axis,
            rows=rows,
            columns=columns,
            steps=(steps[0], steps[1]),
            edges=(_AGAINST[right], right, _AGAINST[bottom], bottom) if placed else (),
            direction=_DIRECTIONS[letters[axis]] if placed else "",
        )

    def seen(self, slab: NDArray[Any]) -> NDArray[Any]:
        """Return an array [...,z,y,x] as [...,axis,row,column]."""
        leading = slab.ndim - 3
        moved = slab.transpose(*range(leading), *(leading + axis for axis in (self.axis, self.rows, self.columns)))
        return moved[..., :: self.steps[0], :: self.steps[1]]


def case_slices(case: ReportCase, most_bytes: int) -> dict[str, Any]:
    """Return the JSON document of a case: slices across each axis, all or as many as `most_bytes` have room for.

    One goes through the place of its axis that has the most foreground, whatever room there is; the others are at equal
    distances from it. The bytes of a slice, compressed and in base64, are, one after the other: the modalities as the
    high bytes [m,row,column] and the low bytes [m,row,column] of levels, which are intensities by `low` and `step`; the
    stored maps [k,row,column]; the labels of the slice and of its two neighbours with a border of one voxel
    [3,row + 2,column + 2], which SVLS asks for; and the labels of every rater [r,row,column].
    """
    foreground = (case.label > 0) & (case.label != IGNORE_INDEX)
    if not foreground.any():
        foreground = np.ones_like(foreground)
    box = tuple(slice(*_bounds(foreground, axis)) for axis in range(3))
    images = [_levels(modality[box]) for modality in case.image]
    shown = _Shown(
        levels=np.stack([levels for levels, _ in images]),
        maps=case.maps[(slice(None), *box)],
        # the volume's edge continues beyond it, as SVLS has it
        padded=np.pad(case.label, 1, mode="edge")[tuple(slice(s.start, s.stop + 2) for s in box)],
        raters=np.array([label[box] for label in case.raters.values()], np.uint8).reshape(-1, *case.label[box].shape),
    )
    centre = [int(foreground.sum(axis=_others(axis)).argmax()) for axis in range(3)]
    views = [View.across(axis, case.orientation, placed=case.placed) for axis in range(3)]
    return {
        "id": case.id,
        "present": list(case.present),
        "centre": centre,
        "raters": list(case.raters),
        "images": [described for _, described in images],
        "views": [
            _view_document(view, shown, box, centre[view.axis], case.spacing, most_bytes // 3)
            for view in sorted(views, key=lambda view: view.direction != "axial")
        ],
    }


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The part of a case that is shown.

    Attributes:
        levels: of the modalities [m,z,y,x].
        maps: as stored [k,z,y,x].
        padded: labels with a voxel more at every side [z + 2,y + 2,x + 2].
        raters: labels [r,z,y,x].
    """

    levels: NDArray[np.uint16]
    maps: UInt8Array
    padded: UInt8Array
    raters: UInt8Array

    def pack(self, view: View, number: int) -> str:
        """Return the slice of a number across the view's axis, compressed, in base64."""
        levels, maps, raters = (view.seen(a)[:, number] for a in (self.levels, self.maps, self.raters))
        parts = (levels >> 8, levels & 255, maps, view.seen(self.padded)[number : number + 3], raters)
        content = b"".join(part.astype(np.uint8).tobytes() for part in parts)
        return base64.b64encode(zlib.compress(content, 9)).decode()


def _view_document(
    view: View,
    shown: _Shown,
    box: Sequence[slice],
    centre: int,
    spacing: Sequence[float],
    most_bytes: int,
) -> dict[str, Any]:
    low, high = box[view.axis].start, box[view.axis].stop
    middle = shown.pack(view, centre - low)
    every = math.ceil((high - low) / max(1, most_bytes // len(middle)))
    places = [at for at in range(low, high) if (at - centre) % every == 0]
    starts = [
        box[axis].start if step == 1 else box[axis].stop - 1
        for axis, step in zip((view.rows, view.columns), view.steps, strict=True)
    ]
    return {
        **asdict(view),
        "size": [box[axis].stop - box[axis].start for axis in (view.rows, view.columns)],
        "starts": starts,
        "spacing": [spacing[view.rows], spacing[view.columns]],
        "every": every,
        "slices": [{"at": at, "data": middle if at == centre else shown.pack(view, at - low)} for at in places],
    }


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _bounds(mask_ZYX: BoolArray, axis: int) -> tuple[int, int]:
    """Return where along an axis a mask lies, with a margin."""
    there = np.flatnonzero(mask_ZYX.any(axis=_others(axis)))
    return max(0, int(there[0]) - MARGIN), min(mask_ZYX.shape[axis], int(there[-1]) + 1 + MARGIN)


def _levels(modality_ZYX: Float32Array) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Return a modality in levels, intensity = low + level · step, and what the page has to know of it.

    Whole numbers are exact; of others, the 0.05 and 99.95 % percentiles are the least and the most.
    """
    low, begin, end, high = (float(v) for v in np.percentile(modality_ZYX, [0.05, 0.5, 99.5, 99.95]))
    least, most = float(modality_ZYX.min()), float(modality_ZYX.max())
    step = (high - low) / _LEVELS or 1.0
    if most - least < 2**16 and np.array_equal(modality_ZYX, np.rint(modality_ZYX)):
        low, high, step = least, most, 1.0
    levels = np.rint((np.clip(modality_ZYX, low, high) - low) / step).astype(np.uint16)
    return levels, {"low": low, "step": step, "window": [begin, end], "hounsfield": least < _AIR}
