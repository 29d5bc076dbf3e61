"""Recipes: every parameter that changes a prepared volume or a map, and the presets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from geols_precompute.errors import InputError, RecipeError
from geols_precompute.geodesic.options import (
    ENGINE_VERSIONS,
    ENGINES,
    METRICS,
    Engine,
    Iterations,
    Metric,
    check_options,
)
from geols_precompute.recipe.classes import MAX_NAME, ClassTable, problem_of_names

Contrast = Literal["none", "border"]
Background = Literal["complement", "seeds"]
Control = Literal["none", "shuffled"]
Decay = float | Literal["mean"]

#: What can be softened of several raters beside the label map of one of them; see `data.raters.consensus`.
CONSENSUS = ("majority", "staple", "union")
_RATER = re.compile(r"[A-Za-z0-9]{1,40}")

SEED_STRATEGIES = ("skeleton", "erosion", "random-K", "centroid", "boundary", "margin-W")
_SEEDS = re.compile(r"skeleton|erosion|random-[1-9]\d{0,5}|centroid|boundary|margin-(?=.*[1-9])\d{1,4}(\.\d{1,3})?")

#: What each preset decides; docs/method.md has the table.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "metric": "gradient",
        "lam": 1.0,
        "gamma": 1.0,
        "contrast": "none",
        "iterations": 4,
        "decay": "mean",
        "background": "complement",
        "modalities": "average",
        "seed_fallback": True,
    }
}
PRESETS["code"] = PRESETS["default"] | {"seed_fallback": False}
PRESETS["paper"] = PRESETS["default"] | {"metric": "riemannian", "iterations": "exact", "decay": 1.0}
#: Ours, not the paper's: chosen by how well soft labels predict other raters (docs/results/raters).
PRESETS["border"] = PRESETS["default"] | {
    "seeds": "margin-2",
    "metric": "riemannian",
    "gamma": 3.0,
    "contrast": "border",
    "iterations": "exact",
    "decay": 0.5,
    "background": "seeds",
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What turns source files into a prepared volume.

    Attributes:
        modalities: their names, in the order of the image's first axis.
        spacing: (z,y,x) in mm to resample to; None keeps the files' grid.
        clip: (low, high) percentiles over all voxels of a case and modality; None keeps the intensities.
        skip_empty: leave out cases without any voxel of a foreground class.
        orientation: towards where the axes x,y,z run, such as RAS; volumes are turned, by flips and swaps of axes. None
            leaves them as they are.
        rater: whose label map is softened where a case has several: a rater's name, or a rule of `CONSENSUS`.
        keep_raters: keep the label maps of all raters in the volume store.
        mask_order: where every organ has a mask of its own, those that may overlap: a later one covers an earlier one.
    """

    modalities: tuple[str, ...]
    spacing: tuple[float, float, float] | None = None
    clip: tuple[float, float] | None = None
    skip_empty: bool = False
    orientation: str | None = None
    rater: str | None = None
    keep_raters: bool = False
    mask_order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problem := problem_of_names(self.modalities):
            raise RecipeError(
                f"modalities must be different names, at least one, of at most {MAX_NAME} printable characters: "
                f"{problem}"
            )
        if self.spacing is not None and not (len(self.spacing) == 3 and all(_is_positive(s) for s in self.spacing)):
            raise RecipeError(f"spacing must be three positive numbers (z, y, x in mm), got {list(self.spacing)}")
        if self.clip is not None and not (len(self.clip) == 2 and 0 <= self.clip[0] < self.clip[1] <= 100):
            raise RecipeError(f"clip must be two percentiles, 0 <= low < high <= 100, got {list(self.clip)}")
        if self.orientation is not None and not _is_orientation(self.orientation):
            raise RecipeError(
                f"orientation must be three letters, one each of R or L, A or P, S or I, such as RAS, got "
                f"{self.orientation!r}"
            )
        if self.rater is not None and not (isinstance(self.rater, str) and _RATER.fullmatch(self.rater)):
            raise RecipeError(
                f"rater must be a rater's name, of at most 40 letters and digits, or one of {', '.join(CONSENSUS)}, "
                f"got {self.rater!r}"
            )
        if not isinstance(self.keep_raters, bool):
            raise RecipeError(f"keep_raters must be true or false, got {self.keep_raters!r}")
        if self.keep_raters and self.rater is None:
            raise RecipeError("keep_raters needs a rater whose label map is softened: give --rater too")
        if self.mask_order and (problem := problem_of_names(self.mask_order)):
            raise RecipeError(f"mask_order must be different names of classes: {problem}")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing of a store's metadata."""
        spacing, clip = document["spacing"], document["clip"]
        return cls(
            modalities=tuple(document["modalities"]),
            spacing=tuple(spacing) if spacing else None,
            clip=tuple(clip) if clip else None,
            skip_empty=bool(document.get("skip_empty", False)),
            orientation=document.get("orientation"),
            rater=document.get("rater"),
            keep_raters=document.get("keep_raters", False),
            mask_order=tuple(document.get("mask_order", ())),
        )


def preprocessing_json(preprocessing: Preprocessing, classes: ClassTable) -> dict[str, Any]:
    """Return the JSON document whose digest keys `volumes.zarr`; the ignore value is part of it."""
    document: dict[str, Any] = {
        "modalities": list(preprocessing.modalities),
        "ignore": classes.ignore,
        "spacing": list(preprocessing.spacing) if preprocessing.spacing else None,
        "clip": list(preprocessing.clip) if preprocessing.clip else None,
    }
    # only where it is set, so that stores without it keep their digests
    if preprocessing.skip_empty:
        document["skip_empty"] = True
    if preprocessing.orientation is not None:
        document["orientation"] = preprocessing.orientation
    if preprocessing.rater is not None:
        document["rater"] = preprocessing.rater
    if preprocessing.keep_raters:
        document["keep_raters"] = True
    if preprocessing.mask_order:
        document["mask_order"] = list(preprocessing.mask_order)
    return document


def _parameter(default: Any, text: str, values: type | tuple[str, ...] | None = None, *, word: str = "") -> Any:
    """Declare a map parameter, of which the flag of geols-precompute and its help are made.

    Args:
        default: value.
        text: what it is, for people.
        values: how a flag reads it: by a type, or as one of several words; None gives it no flag.
        word: that a flag takes in place of a number.
    """
    return field(default=default, metadata={"help": text, "values": values, "word": word})


@dataclass(frozen=True, kw_only=True)
class MapParameters:
    """What turns a prepared volume into maps; docs/method.md explains each parameter.

    Raises:
        RecipeError: a value is out of range.
    """

    seeds: str = _parameter(
        "skeleton", "skeleton, erosion, random-K (K voxels), centroid, boundary or margin-W (W mm inside).", str
    )
    random_seed: int = _parameter(0, "Of random-K.")
    seed_fallback: bool = _parameter(
        True, "Give every present class (skeleton, erosion, margin-W: every component of it) at least one seed."
    )
    metric: Metric = _parameter("gradient", "Cost of a step.", METRICS)
    lam: float = _parameter(1.0, "λ of the gradient metric, from 0 to 1.", float)
    gamma: float = _parameter(1.0, "γ of the Riemannian metric, mm per intensity.", float)
    contrast: Contrast = _parameter(
        "none", "border: intensities in units of the case's contrast where classes meet.", get_args(Contrast)
    )
    iterations: Iterations = _parameter(4, "Sweeps, there and back, or exact.", int, word="exact")
    decay: Decay = _parameter("mean", "mean, or k per mm in exp(-k·D).", float, word="mean")
    background: Background = _parameter(
        "complement", "Its map: 1 - mean of the others, or from seeds as theirs.", get_args(Background)
    )
    modalities: str = _parameter("average", "average, joint, or one modality's name.", str)
    control: Control = _parameter(
        "none", "shuffled: maps of an image whose voxels are shuffled, to compare with.", get_args(Control)
    )
    engine: Engine = _parameter("numba", "For distances.", ENGINES)

    def __post_init__(self) -> None:
        try:
            check_options(
                metric=self.metric, lam=self.lam, gamma=self.gamma, iterations=self.iterations, engine=self.engine
            )
        except InputError as error:
            raise RecipeError(str(error)) from error
        _require_choice("contrast", self.contrast, get_args(Contrast))
        _require_choice("background", self.background, get_args(Background))
        _require_choice("control", self.control, get_args(Control))
        if not isinstance(self.seeds, str) or not _SEEDS.fullmatch(self.seeds):
            raise RecipeError(f"seeds must be one of {', '.join(SEED_STRATEGIES)} (K, W numbers), got {self.seeds!r}")
        if not isinstance(self.seed_fallback, bool):
            raise RecipeError(f"seed_fallback must be true or false, got {self.seed_fallback!r}")
        if self.decay != "mean" and not _is_positive(self.decay):
            raise RecipeError(f'decay must be "mean" or a positive number per mm, got {self.decay!r}')
        if not (type(self.random_seed) is int and self.random_seed >= 0):
            raise RecipeError(f"random_seed must be a whole number of at least 0, got {self.random_seed!r}")

    def changed(self, *, preset: str | None = None, **values: Any) -> MapParameters:
        """Return these parameters with what a preset decides, and then with single values, in their place.

        Raises:
            RecipeError: an unknown parameter or preset, or a value out of range.
        """
        if preset is not None:
            _require_choice("preset", preset, tuple(PRESETS))
            values = PRESETS[preset] | values
        known = {f.name for f in fields(self)}
        if unknown := set(values) - known:
            raise RecipeError(f"unknown map parameter {min(unknown)!r}; known: {', '.join(sorted(known))}")
        return replace(self, **values)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MapParameters:
        """Return the parameters of a store's recipe; the inverse of `as_json`.

        Raises:
            RecipeError: they are not those of this release: another version of the engine, an unknown parameter, or a
                value out of range.
        """
        try:
            values = {key: value for key, value in document.items() if key != "engine"}
            parameters = cls().changed(engine=document["engine"]["name"], **values)
            computed = parameters.as_json()
        except (LookupError, TypeError, AttributeError) as error:
            raise RecipeError(f"the map parameters of the recipe cannot be read ({error!r})") from error
        if differing := recipe_differences(computed, document):
            raise RecipeError(
                f"this release computes other maps ({'; '.join(differing)}); install the one that made the store"
            )
        return parameters

    @property
    def background_is_stored(self) -> bool:
        """Whether the background has a map of its own; else it is derived from the others."""
        return self.background == "seeds"

    def as_json(self) -> dict[str, Any]:
        """Return the parameters that take effect: γ only with the Riemannian metric, random_seed only with random-K."""
        document: dict[str, Any] = {
            "seeds": self.seeds,
            "seed_fallback": self.seed_fallback,
            "metric": self.metric,
            "iterations": self.iterations if self.iterations == "exact" else int(self.iterations),
            "decay": self.decay if self.decay == "mean" else float(self.decay),
            "background": self.background,
            "modalities": self.modalities,
            "engine": {"name": self.engine, "version": ENGINE_VERSIONS[self.engine]},
        }
        if self.metric == "gradient":
            document["lam"] = float(self.lam)
        else:
            document["gamma"] = float(self.gamma)
        if self.contrast != "none":
            document["contrast"] = self.contrast
        if self.control != "none":
            document["control"] = self.control
        if self.seeds.startswith("random-"):
            document["random_seed"] = self.random_seed
        return document


#: Channels of maps that are computed together, and stored together: more would take more memory, and fewer more time,
#: as they share the costs of steps.
CHANNELS_AT_ONCE = 4


def channel_parts(channels: int) -> list[slice]:
    """Return the parts that are computed and stored together: equal ones, but for the last."""
    length = math.ceil(channels / math.ceil(channels / CHANNELS_AT_ONCE))
    return [slice(start, min(start + length, channels)) for start in range(0, channels, length)]


def stored_channels(n_classes: int, *, background_is_stored: bool) -> tuple[int, ...]:
    """Return the class index of each channel of stored maps: every foreground class, the background if it is stored."""
    return tuple(range(0 if background_is_stored else 1, n_classes))


@dataclass(frozen=True, kw_only=True)
class TrainingHints:
    """What a recipe knows about training; it changes no volume and no map, so it is part of no digest.

    Attributes:
        regions: name to label values, for overlapping evaluation regions (BraTS).
        crop: (z,y,x) voxels; None leaves the choice to the trainer.
        skull_stripped: z-score over non-zero voxels only.
    """

    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    crop: tuple[int, int, int] | None = None
    skull_stripped: bool = False

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrainingHints:
        """Return the hints of a store's metadata; the inverse of `as_json`."""
        z_y_x = tuple(int(n) for n in document.get("crop") or ())
        return cls(
            regions={str(name): tuple(map(int, values)) for name, values in document.get("regions", {}).items()},
            crop=(z_y_x[0], z_y_x[1], z_y_x[2]) if z_y_x else None,
            skull_stripped=bool(document.get("skull_stripped", False)),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the hints as the root metadata of `volumes.zarr` holds them."""
        return {
            "regions": {name: list(values) for name, values in self.regions.items()},
            "crop": list(self.crop) if self.crop else None,
            "skull_stripped": self.skull_stripped,
        }


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a user asks for; None leaves the choice to the data.

    Attributes:
        classes: label value to name.
        modalities: names, in order.
        by_name: refuse modalities that the data name otherwise, which are else taken by their order.
        ignore: the label value of voxels without seeds, loss and metrics.
        spacing: (z,y,x) in mm to resample to.
        clip: (low, high) percentiles to clip the intensities to.
        skip_empty: leave out cases without any voxel of a foreground class.
        orientation: towards where the axes x,y,z of all volumes are to run, such as RAS.
        rater: whose label map is softened where there are several; see `Preprocessing`.
        keep_raters: keep those of all raters in the volume store.
        mask_order: masks that may overlap, the covered ones first; see `Preprocessing`.
        maps: what turns a prepared volume into maps.
        hints: what training should know.

    Example:
        >>> recipe = Recipe(classes={1: "liver", 2: "kidney"}, maps=MapParameters(seeds="erosion"))
        >>> recipe.resolve(modalities=("ct",)).classes.names
        ('background', 'liver', 'kidney')
    """

    classes: Mapping[int, str] | None = None
    modalities: tuple[str, ...] | None = None
    by_name: bool = False
    ignore: int | None = None
    spacing: tuple[float, float, float] | None = None
    clip: tuple[float, float] | None = None
    skip_empty: bool = False
    orientation: str | None = None
    rater: str | None = None
    keep_raters: bool = False
    mask_order: tuple[str, ...] = ()
    maps: MapParameters = field(default_factory=MapParameters)
    hints: TrainingHints = field(default_factory=TrainingHints)

    def resolve(
        self,
        *,
        modalities: tuple[str, ...],
        classes: Mapping[int, str] | None = None,
        ignore: int | None = None,
        regions: Mapping[str, tuple[int, ...]] | None = None,
        why_no_classes: str = "",
    ) -> ResolvedRecipe:
        """Return the recipe with every choice made: its own, else that of the data, which the arguments tell.

        The data's regions are those of the data's classes: a recipe that names classes leaves them out.

        Raises:
            RecipeError: nothing names the classes, or the choices do not fit together.
        """
        names = self.classes or classes
        if names is None:
            raise RecipeError(
                why_no_classes
                or "this layout does not name its label values; give --recipe (brats2019, brats2023, flare2021, or a "
                "TOML file) or --classes, for example --classes 1=liver,2=kidney"
            )
        hints = self.hints
        if regions and not self.classes and not hints.regions:
            hints = replace(hints, regions=regions)
        return ResolvedRecipe(
            classes=ClassTable.from_names(names, ignore=self.ignore if self.ignore is not None else ignore),
            preprocessing=Preprocessing(
                modalities=self.modalities or modalities,
                spacing=self.spacing,
                clip=self.clip,
                skip_empty=self.skip_empty,
                orientation=self.orientation,
                rater=self.rater,
                keep_raters=self.keep_raters,
                mask_order=self.mask_order,
            ),
            maps=self.maps,
            hints=hints,
        )


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe:
    """Everything that determines a label store, given the source files."""

    classes: ClassTable
    preprocessing: Preprocessing
    maps: MapParameters = field(default_factory=MapParameters)
    hints: TrainingHints = field(default_factory=TrainingHints)

    def __post_init__(self) -> None:
        if self.maps.modalities not in ("average", "joint", *self.preprocessing.modalities):
            raise RecipeError(
                f"--modalities {self.maps.modalities}: choose average, joint, or one of "
                f"{', '.join(self.preprocessing.modalities)}"
            )
        if strange := [name for name in self.preprocessing.mask_order if name not in self.classes.foreground]:
            raise RecipeError(f"mask_order names {strange[0]}, which is no class; there are {self.classes}")
        if clash := set(self.classes.names) & set(self.hints.regions):
            raise RecipeError(f"{min(clash)} is the name of a class and of a region; rename one of them")
        if self.hints.regions and (problem := problem_of_names(list(self.hints.regions))):
            raise RecipeError(f"names of regions are as those of classes: {problem}")
        for name, members in self.hints.regions.items():
            if unknown := set(members) - set(self.classes.values):
                raise RecipeError(f"region {name} lists label values that no class has: {sorted(unknown)}")

    @property
    def channels(self) -> tuple[int, ...]:
        """The class index of each channel of the maps."""
        return stored_channels(len(self.classes), background_is_stored=self.maps.background_is_stored)

    def preprocessing_json(self) -> dict[str, Any]:
        """Return the JSON document whose digest keys `volumes.zarr`."""
        return preprocessing_json(self.preprocessing, self.classes)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON document whose digest is `recipe_id`; the class table stands beside it in a store."""
        return {"preprocessing": self.preprocessing_json(), "maps": self.maps.as_json()}


def recipe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name every parameter in which two recipe documents differ, for example `maps.iterations: 4, store has 8`."""
    found = []
    for key in sorted({*ours, *theirs}):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += recipe_differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}: {json.dumps(one)}, store has {json.dumps(other)}")
    return found


def _is_orientation(letters: object) -> bool:
    axes = sorted({"R": "RL", "L": "RL", "A": "AP", "P": "AP", "S": "SI", "I": "SI"}.get(c, "") for c in str(letters))
    return isinstance(letters, str) and axes == ["AP", "RL", "SI"]


def _require_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecipeError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
