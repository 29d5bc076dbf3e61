"""A small case made of whole numbers, by whose maps two machines find out whether they compute a recipe alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geols_precompute.arrays import Float32Array, UInt8Array
from geols_precompute.digests import array_sha256
from geols_precompute.maps.case import MapStream
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters

#: Rows longer than the widest vector of a processor, and no multiple of one.
_SHAPE = (13, 24, 37)
_SPACING = (2.5, 1.25, 0.75)
_CLASSES = ClassTable.from_names({1: "a", 2: "b", 3: "c"})
#: More than so small a case needs; a store may come from anywhere, and ask for a million.
_MOST_ITERATIONS = 64


def check_sha256(parameters: MapParameters, modalities: int) -> str:
    """Return the SHA-256 of the maps of the check case, as `maps_sha256` is that of any case.

    docs/store-format.md defines the case: whoever computes with the same parameters gets the same digest, or another
    kind of processor or library than this software knows is at work.

    Args:
        parameters: of the maps.
        modalities: how many the recipe has; two stand for more.
    """
    if parameters.modalities not in ("average", "joint"):
        parameters, modalities = replace(parameters, modalities="average"), 1
    if parameters.iterations != "exact":
        parameters = replace(parameters, iterations=min(parameters.iterations, _MOST_ITERATIONS))
    names = ("one", "two")[:modalities]
    label_ZYX = _label()
    image_MZYX = np.stack([_intensities(m, label_ZYX) for m in range(len(names))])
    stream = MapStream(
        image_MZYX, label_ZYX, _SPACING, parameters=parameters, classes=_CLASSES, modalities=names, case="check"
    )
    return array_sha256(stream.whole().stored)


def _label() -> UInt8Array:
    """An ellipsoid, a box that cuts into it, a second small box of the first class, and a class of one voxel."""
    z, y, x = np.indices(_SHAPE)
    label = np.zeros(_SHAPE, np.uint8)
    label[36 * (z - 6) ** 2 + 9 * (y - 11) ** 2 + 4 * (x - 14) ** 2 < 900] = 1
    label[4:9, 9:18, 17:27] = 2
    label[1:4, 1:5, 30:36] = 1
    label[11, 21, 3] = 3
    return label


def _intensities(modality: int, label_ZYX: UInt8Array) -> Float32Array:
    z, y, x = np.indices(_SHAPE)
    texture = (7 * z * z + 13 * x * y + 3 * x * x + 5 * y + modality * (11 * z + 17 * x)) % 61
    return (100 * label_ZYX.astype(int) + texture).astype(np.float32)
