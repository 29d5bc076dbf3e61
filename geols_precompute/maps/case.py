"""A prepared case in memory to its maps: seeds, geodesic distances, decay, modalities, quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from geols_precompute import softlabel
from geols_precompute.arrays import BoolArray, Float32Array, Int32Array, UInt8Array
from geols_precompute.errors import InputError
from geols_precompute.geodesic import geodesic_distance
from geols_precompute.geodesic.checks import checked_image, checked_spacing
from geols_precompute.geodesic.workspace import scratch
from geols_precompute.maps.contrast import in_border_contrast
from geols_precompute.maps.decay import DistanceStatistics, make_maps, quantise
from geols_precompute.maps.seeds import Box, class_boxes, class_seeds
from geols_precompute.maps.shuffle import shuffled
from geols_precompute.recipe.classes import IGNORE_INDEX, ClassTable
from geols_precompute.recipe.parameters import MapParameters, Recipe, channel_parts, stored_channels

#: Below this range of intensities the 1e-5 in the gradient metric's step cost outweighs the image.
SMALL_INTENSITY_RANGE = 1e-2


@dataclass(frozen=True, kw_only=True)
class SeedCount:
    """Seeds of one class, and how many of them the fallback placed."""

    count: int
    fallbacks: int


@dataclass(frozen=True, kw_only=True)
class MapFacts:
    """What is known of the maps of one case beside the maps themselves.

    Attributes:
        channels: class index of each channel: every foreground class, and the background if it has seeds.
        present: class indices that the volume has, in ascending order; without the fallback, of classes with seeds.
        classes: the class table.
        seeds: per present channel's class index.
        statistics: of the distances, per present channel's class index.
        notes: what a person should know about this case.
    """

    channels: tuple[int, ...]
    present: tuple[int, ...]
    classes: ClassTable
    seeds: Mapping[int, SeedCount]
    statistics: Mapping[int, DistanceStatistics]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Maps(MapFacts):
    """The maps of one case.

    Attributes:
        stored: g·255, uint8 [channel,z,y,x]; zero where a class is absent.
    """

    stored: UInt8Array

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
        case: name from which random-K seeds are drawn, together with the recipe's random_seed and the class value, and
            the places of a shuffled image.

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
    return MapStream(
        image_MZYX, table.indices(label), spacing, parameters=recipe.maps, classes=table, modalities=names, case=case
    ).whole()


@dataclass(eq=False)
class MapStream:
    """The maps of a prepared case, a few channels at a time: those of a whole class table may not fit into memory.

    Iterate over it once for the maps, uint8 [some channels,z,y,x], which are those of `channel_parts`. `whole` returns
    all together.

    Args:
        image: prepared intensities [modality,z,y,x].
        label: class indices [z,y,x], 255 where ignored.
        spacing: (z,y,x) in mm.
        parameters: of the maps.
        classes: the class table.
        modalities: names along the image's first axis.
        case: name from which random seeds, and the places of a shuffled image, are drawn.

    Attributes:
        facts: what is known of the maps beside them, once all have been taken.

    Raises:
        InputError: while it is iterated, an array has a shape, type or value that the distance transform cannot take.
    """

    image: Float32Array
    label: UInt8Array
    spacing: Sequence[float]
    _: KW_ONLY
    parameters: MapParameters
    classes: ClassTable
    modalities: Sequence[str]
    case: str
    facts: MapFacts = field(init=False)

    @property
    def channels(self) -> tuple[int, ...]:
        """The class index of each channel."""
        return stored_channels(len(self.classes), background_is_stored=self.parameters.background_is_stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all maps together, [channel,z,y,x]."""
        return (len(self.channels), *self.label.shape)

    def whole(self) -> Maps:
        """Return all maps, and what is known of them."""
        stored = np.empty(self.shape, np.uint8)
        for part, maps_KZYX in zip(channel_parts(len(stored)), self, strict=True):
            stored[part] = maps_KZYX
        return Maps(stored=stored, **vars(self.facts))

    def __iter__(self) -> Iterator[UInt8Array]:
        """Compute the maps."""
        image_MZYX = _chosen(self.image, self.modalities, self.parameters)
        if self.parameters.contrast == "border":
            image_MZYX = in_border_contrast(image_MZYX, self.label)
        if self.parameters.control == "shuffled":  # after the contrast, so that only the places differ
            image_MZYX = shuffled(image_MZYX, self.case)
        boxes = class_boxes(self.label)
        seeds: dict[int, SeedCount] = {}
        statistics: dict[int, DistanceStatistics] = {}
        for part in channel_parts(len(self.channels)):
            channels = self.channels[part]
            stored = np.zeros((len(channels), *self.label.shape), np.uint8)
            masks = np.zeros(stored.shape, bool)
            present: list[int] = []
            for index in channels:
                if index in boxes and (count := self._enter_seeds(index, boxes[index], masks[len(present)])):
                    present.append(index)
                    seeds[index] = count
            if present:
                masks_KZYX = masks[: len(present)]
                # the thread's own memory for the floats of every part and case: new pages cost as much as a kernel
                room = scratch(2 * masks_KZYX.size, "maps").reshape(2, *masks_KZYX.shape)
                maps = float_maps(image_MZYX, masks_KZYX, self.spacing, self.parameters, room=room)
                for index, sum_ZYX, of_class in zip(present, maps.sums, maps.statistics, strict=True):
                    quantise(sum_ZYX, maps.count, stored[channels.index(index)])
                    statistics[index] = of_class
            yield stored
        has_background = not self.parameters.background_is_stored and 0 in boxes
        self.facts = MapFacts(
            channels=self.channels,
            present=(0, *seeds) if has_background else tuple(seeds),
            classes=self.classes,
            seeds=seeds,
            statistics=statistics,
            notes=_notes(self.image, self.modalities, self.parameters),
        )

    def _enter_seeds(self, index: int, box: Box, mask_ZYX: BoolArray) -> SeedCount | None:
        """Enter the seeds of a class, which lies in a box, into an empty mask; None if it has none."""
        label_ZYX = self.label[box]
        seeds, fallbacks = class_seeds(
            label_ZYX == index,
            self.parameters.seeds,
            self.spacing,
            fallback=self.parameters.seed_fallback,
            ignore_ZYX=label_ZYX == IGNORE_INDEX,
            random_key=f"{self.parameters.random_seed}/{self.case}/{self.classes.values[index]}",
        )
        mask_ZYX[box] = seeds
        count = int(np.count_nonzero(seeds))
        return SeedCount(count=count, fallbacks=fallbacks) if count else None


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
        found.append(make_maps(maps, parameters.decay))
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
