"""Compute: a prepared case in memory to its maps: seeds, geodesic distances, decay, modalities, quantisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geols_precompute.data.prepare import IGNORE_INDEX
from geols_precompute.geodesic import geodesic_distance
from geols_precompute.maps.decay import DistanceStatistics, Float32Array, UInt8Array, add_map, quantise
from geols_precompute.maps.seeds import BoolArray, class_seeds
from geols_precompute.recipe.parameters import ClassLabel, MapParameters

#: Below this range of intensities the 1e-5 in the gradient metric's step cost outweighs the image.
SMALL_INTENSITY_RANGE = 1e-2


@dataclass(frozen=True, kw_only=True)
class SeedCount:
    """Seeds of one class, and how many of them the fallback placed."""

    count: int
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class CaseMaps:
    """The maps of one case.

    Attributes:
        stored: g·255, uint8 [channel,z,y,x]; zero where a class is absent.
        channels: class index of each channel: every foreground class, and the background if it has seeds.
        present: class indices that the volume has, in ascending order; without the fallback, of classes with seeds.
        seeds: per present channel's class index.
        statistics: of the distances, per present channel's class index.
        notes: what a person should know about this case.
    """

    stored: UInt8Array
    channels: tuple[int, ...]
    present: tuple[int, ...]
    seeds: Mapping[int, SeedCount]
    statistics: Mapping[int, DistanceStatistics]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FloatMaps:
    """Maps before quantisation: sums over modalities, float32 [present channel,z,y,x], and how many were added."""

    sums: Float32Array
    count: int
    statistics: tuple[DistanceStatistics, ...] = field(default=())


def compute_maps(
    image_MZYX: Float32Array,
    label_ZYX: UInt8Array,
    spacing: Sequence[float],
    *,
    parameters: MapParameters,
    classes: Sequence[ClassLabel],
    modalities: Sequence[str],
    case_id: str,
) -> CaseMaps:
    """Compute the maps of one case on its full prepared volume.

    Args:
        image_MZYX: float32, finite.
        label_ZYX: class indices, 255 for ignored voxels.
        spacing: (z,y,x) in mm.
        parameters: of the recipe.
        classes: the class table; class index is the place in it.
        modalities: names along the image's first axis.
        case_id: random-K seeds are drawn from it, the recipe's random_seed and the class value.

    Raises:
        InputError: an array has a shape, type or value that the distance transform cannot take.
    """
    channels = tuple(range(0 if parameters.background == "seeds" else 1, len(classes)))
    masks, counts = _seed_masks(label_ZYX, channels, spacing, parameters, classes, case_id)
    present = tuple(counts)
    stored = np.zeros((len(channels), *label_ZYX.shape), np.uint8)
    statistics: dict[int, DistanceStatistics] = {}
    if present:
        maps = float_maps(_chosen(image_MZYX, modalities, parameters), masks, spacing, parameters)
        statistics = dict(zip(present, maps.statistics, strict=True))
        for sum_ZYX, index in zip(maps.sums, present, strict=True):
            quantise(sum_ZYX, maps.count, stored[channels.index(index)])
    if parameters.background == "complement" and (label_ZYX == 0).any():
        present = (0, *present)
    return CaseMaps(
        stored=stored, channels=channels, present=present, seeds=counts, statistics=statistics,
        notes=_notes(image_MZYX, modalities, parameters),
    )  # fmt: skip


def float_maps(
    image_MZYX: Float32Array, masks_KZYX: BoolArray, spacing: Sequence[float], parameters: MapParameters
) -> FloatMaps:
    """Return the maps of K seed masks: per modality and averaged, or of one joint distance."""
    groups = image_MZYX[np.newaxis] if parameters.modalities == "joint" else image_MZYX[:, np.newaxis]
    sums = np.empty(masks_KZYX.shape, np.float32)
    distances = sums
    found: list[list[DistanceStatistics]] = []
    for number, group_MZYX in enumerate(groups):
        geodesic_distance(
            group_MZYX, masks_KZYX, spacing, metric=parameters.metric, lam=parameters.lam, gamma=parameters.gamma,
            iterations=parameters.iterations, engine=parameters.engine, out=distances,
        )  # fmt: skip
        pairs = zip(distances, sums, strict=True)
        found.append([add_map(d, parameters.decay, s, start=number == 0) for d, s in pairs])
        # the first distances become the first maps in place; only further modalities need room of their own
        distances = np.empty_like(sums) if number == 0 and len(groups) > 1 else distances
    statistics = tuple(
        DistanceStatistics(
            mean=sum(s.mean for s in of_class) / len(of_class),
            low=min(s.low for s in of_class),
            high=max(s.high for s in of_class),
        )
        for of_class in zip(*found, strict=True)
    )
    return FloatMaps(sums=sums, count=len(groups), statistics=statistics)


def _seed_masks(
    label_ZYX: UInt8Array,
    channels: Sequence[int],
    spacing: Sequence[float],
    parameters: MapParameters,
    classes: Sequence[ClassLabel],
    case_id: str,
) -> tuple[BoolArray, dict[int, SeedCount]]:
    """Return the seed masks [present channel,z,y,x] and, per class index that has seeds, their count."""
    ignore_ZYX = label_ZYX == IGNORE_INDEX
    masks: list[npt.NDArray[np.bool_]] = []
    counts: dict[int, SeedCount] = {}
    for index in channels:
        class_ZYX = label_ZYX == index
        if not class_ZYX.any():
            continue
        mask, fallbacks = class_seeds(
            class_ZYX, parameters.seeds, spacing, fallback=parameters.seed_fallback, ignore_ZYX=ignore_ZYX,
            random_key=f"{parameters.random_seed}/{case_id}/{classes[index].value}",
        )  # fmt: skip
        if count := np.count_nonzero(mask):
            masks.append(mask)
            counts[index] = SeedCount(count=int(count), fallbacks=fallbacks)
    return np.array(masks, bool), counts


def _chosen(image_MZYX: Float32Array, modalities: Sequence[str], parameters: MapParameters) -> Float32Array:
    if parameters.modalities in ("average", "joint"):
        return image_MZYX
    return image_MZYX[[list(modalities).index(parameters.modalities)]]


def _notes(image_MZYX: Float32Array, modalities: Sequence[str], parameters: MapParameters) -> tuple[str, ...]:
    if parameters.metric != "gradient" or parameters.lam == 0:
        return ()
    ranges = [float(np.ptp(modality)) for modality in image_MZYX]
    return tuple(
        f"intensities of {name} span only {span:.3g}, so the 1e-5 in the step cost outweighs the image; rescale them"
        for name, span in zip(modalities, ranges, strict=True)
        if span < SMALL_INTENSITY_RANGE
    )
