"""The voxels of a class that its geodesic distance is measured from (six strategies and a fallback)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geols_precompute.arrays import BoolArray, UInt8Array
from geols_precompute.maps.skeleton import skeleton

Box = tuple[slice, slice, slice]

_6_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)  # with the voxel itself, the ball of radius 1


def class_seeds(
    class_ZYX: BoolArray,
    strategy: str,
    spacing: Sequence[float],
    *,
    fallback: bool = True,
    ignore_ZYX: BoolArray | None = None,
    random_key: str = "",
) -> tuple[BoolArray, int]:
    """Return the seed mask [z,y,x] of one class and how many of its seeds are fallbacks.

    The volume, or a box of `class_boxes`, has the same seeds; of the box they are found sooner.

    The fallback gives a seed to every 26-connected component that skeleton, erosion or margin left without one,
    and to a class that any other strategy left without one: scikit-image's skeleton of a cube of even side, for
    instance, is empty.

    Args:
        class_ZYX: the voxels of the class; at least one.
        strategy: skeleton, erosion, centroid, boundary, margin-W (W mm from other classes), or random-K (K distinct
            voxels).
        spacing: (z,y,x) in mm.
        fallback: whether to use the fallback.
        ignore_ZYX: voxels with the ignore label, which are no other class for `boundary` and margin-W.
        random_key: what random-K draws from; equal keys give equal voxels.

    Example:
        >>> cube = np.zeros((6, 6, 6), bool); cube[1:5, 1:5, 1:5] = True
        >>> class_seeds(cube, "skeleton", (1, 1, 1))[1]
        1
    """
    if strategy == "skeleton":
        seeds = skeleton(class_ZYX)
    elif strategy == "erosion":
        seeds = _erosion(class_ZYX)
    elif strategy == "boundary":
        seeds = _boundary(class_ZYX, ignore_ZYX)
    elif strategy.startswith("margin-"):
        seeds = _margin(class_ZYX, ignore_ZYX, spacing, float(strategy.removeprefix("margin-")))
    elif strategy == "centroid":
        seeds = _centroid(class_ZYX, spacing)
    else:
        seeds = _random(class_ZYX, int(strategy.removeprefix("random-")), random_key)
    if fallback and (strategy.startswith(("skeleton", "erosion", "margin-")) or not seeds.any()):
        return seeds, _add_fallbacks(seeds, class_ZYX, spacing)
    return seeds, 0


def class_boxes(label_ZYX: UInt8Array) -> dict[int, Box]:
    """Return, per class index of a label map, a box with all its voxels and, inside the volume, one voxel around them.

    That of the background, index 0, is the whole volume.
    """
    found = ndimage.find_objects(label_ZYX)
    boxes = {index: box for index, box in enumerate(found, start=1) if box is not None}
    if not label_ZYX.all():
        z, y, x = (slice(0, n) for n in label_ZYX.shape)
        boxes[0] = (z, y, x)
    return {index: _with_margin(box, label_ZYX.shape) for index, box in boxes.items()}


def _with_margin(box: Box, shape: Sequence[int]) -> Box:
    z, y, x = (slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, shape, strict=True))
    return z, y, x


def _erosion(class_ZYX: BoolArray) -> BoolArray:
    """Erosion by a ball of radius 1; beyond the volume counts as inside the class, as in scikit-image."""
    return ndimage.binary_erosion(class_ZYX, _6_NEIGHBOURS, border_value=1)


def _boundary(class_ZYX: BoolArray, ignore_ZYX: BoolArray | None) -> BoolArray:
    """Voxels with a 6-neighbour of another class; beyond the volume, and ignored voxels, are no class."""
    same = class_ZYX if ignore_ZYX is None else class_ZYX | ignore_ZYX
    return class_ZYX & ~_erosion(same)


def _margin(inside: BoolArray, ignore_ZYX: BoolArray | None, spacing: Sequence[float], width_mm: float) -> BoolArray:
    """Voxels at least `width_mm` from every voxel of another class; beyond the volume, and ignored voxels, are none."""
    same = inside if ignore_ZYX is None else inside | ignore_ZYX
    if same.all():
        return inside
    # spacings of files are rounded, so distances that should be equal to the width may fall short of it
    return inside & (ndimage.distance_transform_edt(same, sampling=spacing) >= width_mm * (1 - 1e-6))


def _centroid(inside: BoolArray, spacing: Sequence[float]) -> BoolArray:
    """The voxel nearest (mm) to the class's centroid, the lowest index in C order on ties."""
    voxels = np.argwhere(inside) * np.asarray(spacing, float)
    squared_mm = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)
    # distances that differ by rounding only are ties
    nearest = np.flatnonzero(squared_mm <= squared_mm.min() * (1 + 1e-9) + 1e-12)[0]
    return _only(inside, np.flatnonzero(inside)[nearest : nearest + 1])


def _random(inside: BoolArray, count: int, key: str) -> BoolArray:
    """`count` distinct voxels, or all if there are fewer.

    The voxels with the smallest raw PCG64 numbers are taken: NumPy promises the bit stream of a generator, not what
    `choice` makes of it.
    """
    voxels = np.flatnonzero(inside)
    numbers = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")).random_raw(voxels.size)
    return _only(inside, voxels[np.argsort(numbers, kind="stable")[:count]])


def _only(inside: BoolArray, flat_indices: NDArray[np.intp]) -> BoolArray:
    seeds = np.zeros_like(inside)
    seeds.reshape(-1)[flat_indices] = True
    return seeds


def _add_fallbacks(seeds: BoolArray, inside: BoolArray, spacing: Sequence[float]) -> int:
    """Seed, in place, the deepest voxel of every 26-connected component without a seed; return how many there were."""
    # as bytes: of booleans, cc3d 4.1.1 refuses a row of voxels that alternate ("maximum length exception")
    components = cc3d.connected_components(inside.view(np.uint8), connectivity=26)
    seedless = set(range(1, int(components.max()) + 1)) - set(np.unique(components[seeds]).tolist())
    if not seedless:
        return 0
    boxes = ndimage.find_objects(components)
    for number in seedless:
        box = boxes[number - 1]
        component = components[box] == number
        seeds[box][np.unravel_index(_deepest(component, spacing), component.shape)] = True
    return len(seedless)


def _deepest(component: BoolArray, spacing: Sequence[float]) -> int:
    """Flat index of the voxel farthest (mm) from the component's border, which beyond the volume is outside."""
    depth = ndimage.distance_transform_edt(np.pad(component, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    return int(np.argmax(depth))
