"""Binary masks of organs to one label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from geols_precompute.arrays import BoolArray, Int32Array
from geols_precompute.errors import InputError

#: Pairs of overlapping organs that a message names.
_SHOWN = 5


def merged(
    masks: Iterable[tuple[str, int, BoolArray]], shape_ZYX: Sequence[int], *, order: Sequence[str] = ()
) -> Int32Array:
    """Return the label map [z,y,x], int32, in which every organ has its value and all else is 0.

    Args:
        masks: name, label value and mask [z,y,x] of each organ, one after the other, so that one is in memory at a
            time; those of `order` in that order.
        shape_ZYX: of the masks.
        order: the organs that may overlap: of two, the later one has the voxels that both claim.

    Raises:
        InputError: two organs of which one is not in `order` claim a voxel; the message counts these.
    """
    label_ZYX = np.zeros(tuple(shape_ZYX), np.int32)
    names: dict[int, str] = {}
    overlaps: list[str] = []
    for name, value, mask_ZYX in masks:
        found, counts = np.unique(label_ZYX[mask_ZYX], return_counts=True)
        for other, count in zip(map(int, found), map(int, counts), strict=True):
            if other and not (name in order and names[other] in order):
                overlaps.append(f"{names[other]} and {name} in {count}")
        label_ZYX[mask_ZYX] = value
        names[value] = name
    if overlaps:
        more = f" and {len(overlaps) - _SHOWN} more pairs" if len(overlaps) > _SHOWN else ""
        raise InputError(
            f"masks overlap: {', '.join(overlaps[:_SHOWN])} voxels{more}; a recipe's mask_order, such as "
            'mask_order = ["liver", "tumour"], says which covers which (the later one), or leave one of them out'
        )
    return label_ZYX
