"""A prepared case in memory to its maps: seeds, geodesic distances, decay, modalities, quantisation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from geols_precompute import softlabel
from geols_precompute.arrays import BoolArray, Float32Array, Int32Array, UInt8Array
from geols_precompute.errors import InputError
from geols_precompute.geodesic import geodesic_distance
from geols_precompute.geodesic.checks import checked_image, checked_spacing
from geols_precompute.geodesic.options import CLASSES_AT_ONCE
from geols_precompute.maps.decay import DistanceStatistics, make_map, quantise
from geols_precompute.maps.seeds import class_boxes, class_seeds
from geols_precompute.recipe.classes import IGNORE_INDEX, ClassTable
from geols_precompute.recipe.parameters import MapParameters, Recipe, stored_channels

#: Below this range of intensities the 1e-5 in the gradient metric's step cost outweighs the image.
SMALL_INTENSITY_RANGE = 1e-2


@dataclass(frozen=True, kw_only=True)
class SeedCount:
    """Seeds of one class, and how many of them the fallback placed."""

    count: int
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class Maps:
    """The maps of one case.

    Attributes:
        stored: g·255, uint8 [channel,z,y,x]; zero where a class is absent.
        channels: class index of each channel: every foreground class, and the background if it has seeds.
        present: class indices that the volume has, in ascending order; without the fallback, of classes with seeds.
        classes: the class table.
        seeds: per present channel's class index.
        statistics: of the distances, per present channel's class index.
        notes: what a person should know about this case.
    """

    stored: UInt8Array
    channels: tuple[int, ...]
    present: tuple[int, ...]
    classes: ClassTable
    seeds: Mapping[int, SeedCount]
    statistics: Mapping[int, DistanceStatistics]
    notes: tuple[str, ...] = ()

    def class_maps(self) -> Float32Array:
        """Return g of every class, float32 [class,z,y,x], background first; what `soft_label` takes."""
        return softlabel.class_maps(
            self.stored, channels=self.channels, present=self.present, n_classes=len(self.classes)
        )


@dataclass(frozen=True, kw_only=True)
class FloatMaps:
    """Maps before quantisation: sums over modalities, float32 [present channel,z,y,x], and how many were added."""

    sums: Float32Array
    count: int
    statistics: tuple[DistanceStatistics, ...] = field(default=())


def compute_maps(
    image: Float32Array,
    label: Int32Array,
    spacing: Sequence[float],
    *,
    classes: ClassTable | Mapping[int, str],
    recipe: Recipe | None = None,
    modalities: Sequence[str] | None = None,
    case: str = "",
) -> Maps:
    """Compute the geodesic maps of one case in memory, on the grid of its arrays; no store is needed.

    Give the whole volume: mean distance and min-max depend on the field of view.

    Args:
        image: float32 [z,y,x] or [modality,z,y,x], finite, prepared as you like; the recipe's spacing and clip are
            not applied.
        label: integers [z,y,x], the values of label files.
        spacing: voxel size (z,y,x) in mm.
        classes: the table of the label values, or {value: name}.
        recipe: whose map parameters are used; by default those of the published code with this package's fallback.
        modalities: names along the image's first axis, for a recipe that chooses one by name.
        case: name from which random-K seeds are drawn, together with the recipe's random_seed and the class value.

    Returns:
        The maps, as a label store would hold them.

    Raises:
        InputError: an array has a shape, type or value that the distance transform cannot take, or a label value has
            no class.
        RecipeError: `classes` is not a valid table.

    Example:
        >>> import numpy as np
        >>> label = np.zeros((8, 9, 10), np.int32)
        >>> label[2:6, 3:6, 2:8] = 7
        >>> maps = compute_maps(label.astype(np.float32), label, (2.0, 1.0, 1.0), classes={7: "liver"})
        >>> maps.stored.shape, maps.channels, maps.present
        ((1, 8, 9, 10), (1,), (0, 1))
    """
    recipe = recipe or Recipe()
    table = classes if isinstance(classes, ClassTable) else ClassTable.from_names(classes, ignore=recipe.ignore)
    image_MZYX, shape, spacing = checked_image(image), image.shape[-3:], checked_spacing(spacing)
    if not isinstance(label, np.ndarray):
        raise InputError(f"label is a {type(label).__name__}; it must be a NumPy array of whole numbers")
    if label.dtype.kind not in "iu" or label.shape != shape:
        raise InputError(f"label is {label.dtype} of shape {label.shape}; it must be whole numbers of shape {shape}")
    names = list(modalities) if modalities is not None else [f"modality {m}" for m in range(len(image_MZYX))]
    if recipe.maps.modalities not in ("average", "joint", *names) or len(names) != len(image_MZYX):
        raise InputError(
            f"image has {len(image_MZYX)} modalities, named {', '.join(names)}; the recipe asks for "
            f"{recipe.maps.modalities}"
        )
    return maps_of_case(
        image_MZYX, table.indices(label), spacing, parameters=recipe.maps, classes=table, modalities=names, case=case
    )


def maps_of_case(
    image_MZYX: Float32Array,
    label_ZYX: UInt8Array,
    spacing: Sequence[float],
    *,
    parameters: MapParameters,
    classes: ClassTable,
    modalities: Sequence[str],
    case: str,
) -> Maps:
    """Compute the maps of a prepared case; `label_ZYX` holds class indices, 255 where ignored. See `compute_maps`.

    Raises:
        InputError: an array has a shape, type or value that the distance transform cannot take.
    """
    channels = stored_channels(len(classes), background_is_stored=parameters.background_is_stored)
    stored = np.zeros((len(channels), *label_ZYX.shape), np.uint8)
    seeds: dict[int, SeedCount] = {}
    statistics: dict[int, DistanceStatistics] = {}
    chosen_MZYX = _chosen(image_MZYX, modalities, parameters)
    room = np.empty((2, CLASSES_AT_ONCE, *label_ZYX.shape), np.float32)  # for all groups: new pages cost time
    found = _seeds_of_classes(label_ZYX, channels, spacing, parameters, classes, case)
    while group := list(itertools.islice(found, CLASSES_AT_ONCE)):
        masks_KZYX = np.array([mask_ZYX for _, mask_ZYX, _ in group])
        maps = float_maps(chosen_MZYX, masks_KZYX, spacing, parameters, room=room[:, : len(group)])
        for (index, _, count), sum_ZYX, of_class in zip(group, maps.sums, maps.statistics, strict=True):
            quantise(sum_ZYX, maps.count, stored[channels.index(index)])
            seeds[index], statistics[index] = count, of_class
    present = tuple(seeds)
    if not parameters.background_is_stored and (label_ZYX == 0).any():
        present = (0, *present)
    return Maps(
        stored=stored,
        channels=channels,
        present=present,
        classes=classes,
        seeds=seeds,
        statistics=statistics,
        notes=_notes(image_MZYX, modalities, parameters),
    )


def float_maps(
    image_MZYX: Float32Array,
    masks_KZYX: BoolArray,
    spacing: Sequence[float],
    parameters: MapParameters,
    *,
    room: Float32Array | None = None,
) -> FloatMaps:
    """Return the maps of K seed masks: per modality and averaged, or of one joint distance.

    `room` [2,K,z,y,x] is memory for them, so that a caller can keep it; the second half is for further modalities only.
    """
    groups = image_MZYX[np.newaxis] if parameters.modalities == "joint" else image_MZYX[:, np.newaxis]
    room = np.empty((2, *masks_KZYX.shape), np.float32) if room is None else room
    maps = sums = room[0]
    found: list[list[DistanceStatistics]] = []
    for number, group_MZYX in enumerate(groups):
        geodesic_distance(
            group_MZYX,
            masks_KZYX,
            spacing,
            metric=parameters.metric,
            lam=parameters.lam,
            gamma=parameters.gamma,
            iterations=parameters.iterations,
            engine=parameters.engine,
            out=maps,
        )
        found.append([make_map(distances_ZYX, parameters.decay) for distances_ZYX in maps])
        if number > 0:
            sums += maps
        # the first maps become the sums; only further modalities need room of their own
        maps = room[1]
    statistics = tuple(
        DistanceStatistics(
            mean=sum(s.mean for s in of_class) / len(of_class),
            low=min(s.low for s in of_class),
            high=max(s.high for s in of_class),
        )
        for of_class in zip(*found, strict=True)
    )
    return FloatMaps(sums=sums, count=len(groups), statistics=statistics)


def _seeds_of_classes(
    label_ZYX: UInt8Array,
    channels: Sequence[int],
    spacing: Sequence[float],
    parameters: MapParameters,
    classes: ClassTable,
    case: str,
) -> Iterator[tuple[int, BoolArray, SeedCount]]:
    """Yield the index of each channel that has seeds, their mask [z,y,x], and their count."""
    boxes = class_boxes(label_ZYX)
    for index in channels:
        if (box := boxes.get(index)) is None:
            continue
        seeds, fallbacks = class_seeds(
            label_ZYX[box] == index,
            parameters.seeds,
            spacing,
            fallback=parameters.seed_fallback,
            ignore_ZYX=label_ZYX[box] == IGNORE_INDEX,
            random_key=f"{parameters.random_seed}/{case}/{classes.values[index]}",
        )
        if count := np.count_nonzero(seeds):
            mask_ZYX = np.zeros(label_ZYX.shape, bool)
            mask_ZYX[box] = seeds
            yield index, mask_ZYX, SeedCount(count=int(count), fallbacks=fallbacks)


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
