"""Recipe: every parameter that changes a prepared volume or a map, and the presets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeGuard

from geols_precompute.errors import RecipeError

MAX_CLASSES = 32
MAX_GAMMA = 1e6
MAX_ITERATIONS = 1_000_000
SEED_STRATEGIES = ("skeleton", "erosion", "random-K", "centroid", "boundary")

#: Raised whenever an engine's results change by a bit, so that maps of two algorithms never share a recipe_id.
ENGINE_VERSIONS = {"numba": 1, "geodistk": 1}

#: What each preset decides; docs/method.md has the table.
PRESETS: dict[str, dict[str, Any]] = {"default": {
    "metric": "gradient", "lam": 1.0, "gamma": 1.0, "iterations": 4, "decay": "mean", "background": "complement",
    "modalities": "average", "seed_fallback": True,
}}  # fmt: skip
PRESETS["code"] = PRESETS["default"] | {"seed_fallback": False}
PRESETS["paper"] = PRESETS["default"] | {"metric": "riemannian", "iterations": "exact", "decay": 1.0}


@dataclass(frozen=True, kw_only=True)
class ClassLabel:
    """One class: the integer that the files hold, and its name. Its index is its place in the class table."""

    value: int
    name: str


def class_table(names: Mapping[int, str]) -> tuple[ClassLabel, ...]:
    """Return the class table of `names` (file value to name): background first, then ascending file values.

    Raises:
        RecipeError: no foreground class, more than 32 classes, a negative value, an empty or repeated name.
    """
    table = tuple(ClassLabel(value=v, name=n) for v, n in sorted({0: "background", **names}.items()))
    if len(table) < 2:
        raise RecipeError("no foreground class is named; name the label values, for example --classes 1=liver,2=kidney")
    if len(table) > MAX_CLASSES:
        raise RecipeError(f"{len(table)} classes, but at most {MAX_CLASSES} are supported (background included)")
    if table[0].value < 0:
        raise RecipeError(f"class value {table[0].value} is negative; label values start at 0, the background")
    seen = [label.name for label in table]
    if not all(seen) or len(set(seen)) < len(seen):
        raise RecipeError(f"class names must be different and not empty, got {seen}")
    return table


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What turns source files into a prepared volume.

    Attributes:
        modalities: their names, in the order of the image's first axis.
        ignore: the label value of voxels without seeds, loss or metrics; None if there is none.
        spacing: (z,y,x) in mm to resample to; None keeps the files' grid.
        clip: (low, high) percentiles over all voxels of a case and modality; None keeps the intensities.
    """

    modalities: tuple[str, ...]
    ignore: int | None = None
    spacing: tuple[float, float, float] | None = None
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise RecipeError(f"modalities must be different names, at least one, got {list(self.modalities)}")
        if self.ignore is not None and not (_whole(self.ignore) and self.ignore > 0):
            raise RecipeError(f"ignore must be a positive label value, got {self.ignore!r}")
        if self.spacing is not None and not (len(self.spacing) == 3 and all(_positive(s) for s in self.spacing)):
            raise RecipeError(f"spacing must be three positive numbers (z, y, x in mm), got {list(self.spacing)}")
        if self.clip is not None and not (len(self.clip) == 2 and 0 <= self.clip[0] < self.clip[1] <= 100):
            raise RecipeError(f"clip must be two percentiles, 0 <= low < high <= 100, got {list(self.clip)}")

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing of a store's metadata; the inverse of `as_json`."""
        spacing, clip = document["spacing"], document["clip"]
        return cls(
            modalities=tuple(document["modalities"]),
            ignore=document["ignore"],
            spacing=tuple(spacing) if spacing else None,
            clip=tuple(clip) if clip else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON document whose digest keys `volumes.zarr`."""
        return {
            "modalities": list(self.modalities),
            "ignore": self.ignore,
            "spacing": list(self.spacing) if self.spacing else None,
            "clip": list(self.clip) if self.clip else None,
        }


@dataclass(frozen=True, kw_only=True)
class MapParameters:
    """What turns a prepared volume into maps; docs/method.md explains each parameter.

    Attributes:
        seeds: skeleton, erosion, random-K (K voxels, for example random-5), centroid or boundary.
        random_seed: of random-K.
        seed_fallback: give every present class (skeleton, erosion: every component) at least one seed.
        metric: gradient (the published code's step cost) or riemannian (GeoLS eq. 4).
        lam: λ of the gradient metric, in [0, 1].
        gamma: γ of the Riemannian metric, 0 or more.
        iterations: forward and backward sweeps, or "exact" for the converged distance.
        decay: "mean" for exp(-D / mean(D)), or k > 0 (per mm) for exp(-k·D).
        background: complement (1 - mean of the present foreground maps) or seeds (a class like any other).
        modalities: average (of the finished maps), joint (one multi-channel distance), or one modality's name.
        engine: numba, or geodistk (the paper's; gradient metric and counted iterations only).
    """

    seeds: str = "skeleton"
    random_seed: int = 0
    seed_fallback: bool = True
    metric: Literal["gradient", "riemannian"] = "gradient"
    lam: float = 1.0
    gamma: float = 1.0
    iterations: int | Literal["exact"] = 4
    decay: float | Literal["mean"] = "mean"
    background: Literal["complement", "seeds"] = "complement"
    modalities: str = "average"
    engine: Literal["numba", "geodistk"] = "numba"

    def __post_init__(self) -> None:
        _require_choice("metric", self.metric, ("gradient", "riemannian"))
        _require_choice("background", self.background, ("complement", "seeds"))
        _require_choice("engine", self.engine, tuple(ENGINE_VERSIONS))
        if not isinstance(self.seeds, str) or not re.fullmatch(
            r"skeleton|erosion|random-[1-9]\d{0,5}|centroid|boundary", self.seeds
        ):
            raise RecipeError(f"seeds must be one of {', '.join(SEED_STRATEGIES)} (K a number), got {self.seeds!r}")
        if not isinstance(self.seed_fallback, bool):
            raise RecipeError(f"seed_fallback must be true or false, got {self.seed_fallback!r}")
        if not (_number(self.lam) and 0 <= self.lam <= 1):
            raise RecipeError(f"lam must be in [0, 1], got {self.lam}")
        if not (_number(self.gamma) and 0 <= self.gamma <= MAX_GAMMA):
            raise RecipeError(f"gamma must be a number from 0 to {MAX_GAMMA:g}, got {self.gamma}")
        if self.iterations != "exact" and not (_whole(self.iterations) and 1 <= self.iterations <= MAX_ITERATIONS):
            raise RecipeError(
                f'iterations must be a count from 1 to {MAX_ITERATIONS}, or "exact", got {self.iterations!r}'
            )
        if self.decay != "mean" and not _positive(self.decay):
            raise RecipeError(f'decay must be "mean" or a positive number per mm, got {self.decay!r}')
        if not _whole(self.random_seed) or self.random_seed < 0:
            raise RecipeError(f"random_seed must be a whole number of at least 0, got {self.random_seed!r}")
        if self.engine == "geodistk" and (self.metric != "gradient" or self.iterations == "exact"):
            raise RecipeError("engine geodistk computes the gradient metric with a count of iterations only; use numba")

    def as_json(self) -> dict[str, Any]:
        """Return the parameters that take effect: γ only with the Riemannian metric, random_seed only with random-K."""
        document: dict[str, Any] = {
            "seeds": self.seeds,
            "seed_fallback": self.seed_fallback,
            "metric": self.metric,
            "iterations": self.iterations,
            "decay": self.decay if self.decay == "mean" else float(self.decay),
            "background": self.background,
            "modalities": self.modalities,
            "engine": {"name": self.engine, "version": ENGINE_VERSIONS[self.engine]},
        }
        if self.metric == "gradient":
            document["lam"] = float(self.lam)
        else:
            document["gamma"] = float(self.gamma)
        if self.seeds.startswith("random-"):
            document["random_seed"] = self.random_seed
        return document


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
    """Everything that determines a label store, given the source files."""

    classes: tuple[ClassLabel, ...]
    preprocessing: Preprocessing
    maps: MapParameters = field(default_factory=MapParameters)
    hints: TrainingHints = field(default_factory=TrainingHints)

    def __post_init__(self) -> None:
        values = {label.value for label in self.classes}
        if self.preprocessing.ignore in values:
            raise RecipeError(f"label value {self.preprocessing.ignore} is both a class and the ignore label")
        if self.maps.modalities not in ("average", "joint", *self.preprocessing.modalities):
            raise RecipeError(
                f"--modalities {self.maps.modalities}: choose average, joint, or one of "
                f"{', '.join(self.preprocessing.modalities)}"
            )
        if clash := {label.name for label in self.classes} & set(self.hints.regions):
            raise RecipeError(f"{min(clash)} is the name of a class and of a region; rename one of them")
        for name, members in self.hints.regions.items():
            if unknown := set(members) - values:
                raise RecipeError(f"region {name} lists label values that no class has: {sorted(unknown)}")

    def as_json(self) -> dict[str, Any]:
        """Return the JSON document whose digest is `recipe_id`; the class table stands beside it in a store."""
        return {"preprocessing": self.preprocessing.as_json(), "maps": self.maps.as_json()}


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


def map_parameters(layers: Sequence[Mapping[str, Any]]) -> MapParameters:
    """Return the parameters of `layers`, later ones winning; a layer's `preset` comes before its other keys.

    Raises:
        RecipeError: an unknown parameter or preset, or a value out of range.
    """
    merged: dict[str, Any] = {}
    known = {f.name for f in fields(MapParameters)}
    for layer in layers:
        values = dict(layer)
        preset = values.pop("preset", None)
        if preset is not None:
            _require_choice("preset", preset, tuple(PRESETS))
            merged |= PRESETS[preset]
        if unknown := set(values) - known:
            raise RecipeError(f"unknown map parameter {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
        merged |= values
    return MapParameters(**merged)


def _require_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise RecipeError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(value: object) -> bool:
    return _number(value) and 0 < value < math.inf


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
