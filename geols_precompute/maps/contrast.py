"""How strongly an image changes where classes meet: the unit in which `contrast = "border"` measures intensities."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from geols_precompute.arrays import Float32Array, UInt8Array
from geols_precompute.recipe.classes import IGNORE_INDEX

#: Voxels on either side of a border that count.
SHELL = 2
_6_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)


def in_border_contrast(image_MZYX: Float32Array, label_ZYX: UInt8Array) -> Float32Array:
    """Return an image whose intensities are measured in its contrast at the borders of classes, [modality,z,y,x].

    So γ = 3 mm makes a path across an average border about 3 mm longer, whatever the scanner and its units.
    """
    return image_MZYX / border_contrast(image_MZYX, label_ZYX)[:, None, None, None]


def border_contrast(image_MZYX: Float32Array, label_ZYX: UInt8Array) -> Float32Array:
    """Return the contrast of each modality at the borders of the foreground classes, float32 [modality], above 0.

    Of a class it is the difference of two medians, of the two outermost shells of its voxels and of the two shells
    around it, ignored voxels left out; but at least the median absolute deviation inside, so that noise is not taken
    for an edge where there is none. It is averaged over classes; 1 where there is no border, or no contrast at all.

    Args:
        image_MZYX: intensities.
        label_ZYX: class indices, 255 where ignored.
    """
    found = []
    for index, box in enumerate(ndimage.find_objects(label_ZYX), start=1):
        if box is None or index == IGNORE_INDEX:
            continue
        around = tuple(
            slice(max(0, s.start - SHELL), min(n, s.stop + SHELL)) for s, n in zip(box, label_ZYX.shape, strict=True)
        )
        label = label_ZYX[around]
        inside_ZYX, ignored_ZYX = label == index, label == IGNORE_INDEX
        deep_ZYX = ndimage.binary_erosion(inside_ZYX | ignored_ZYX, _6_NEIGHBOURS, iterations=SHELL, border_value=1)
        near_ZYX = ndimage.binary_dilation(inside_ZYX, _6_NEIGHBOURS, iterations=SHELL)
        inner, outer = inside_ZYX & ~deep_ZYX, near_ZYX & ~inside_ZYX & ~ignored_ZYX
        if inner.any() and outer.any():
            found.append([_contrast(modality[around][inner], modality[around][outer]) for modality in image_MZYX])
    if not found:
        return np.ones(len(image_MZYX), np.float32)
    mean_M = np.mean(found, axis=0).astype(np.float32)
    return np.where(mean_M > 0, mean_M, np.float32(1))


def _contrast(inside: Float32Array, outside: Float32Array) -> float:
    median = float(np.median(inside))
    return max(abs(median - float(np.median(outside))), float(np.median(np.abs(inside - np.float32(median)))))
