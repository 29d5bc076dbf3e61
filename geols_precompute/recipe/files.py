"""Recipes as TOML: the bundled ones, a user's own file, and their merge with a data folder and flags."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from geols_precompute.errors import RecipeError
from geols_precompute.recipe.parameters import Preprocessing, Recipe, TrainingHints, class_table, map_parameters

BUNDLED = ("brats2019", "brats2023", "flare2021")


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """A TOML recipe, read and checked key by key; None where it leaves the choice to the data."""

    name: str
    classes: Mapping[int, str] | None = None
    modalities: tuple[str, ...] | None = None
    ignore: int | None = None
    spacing: tuple[float, float, float] | None = None
    clip: tuple[float, float] | None = None
    maps: Mapping[str, Any] = field(default_factory=dict)
    hints: TrainingHints = field(default_factory=TrainingHints)


def load_recipe_file(name_or_path: str) -> RecipeFile:
    """Read a bundled recipe by name, or a TOML file by path.

    Raises:
        RecipeError: neither exists, it is not TOML, or a key is unknown or of a wrong type.
    """
    if name_or_path in BUNDLED:
        text = (files(__package__) / f"{name_or_path}.toml").read_text()
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name_or_path}: cannot be read: {error}") from error
    else:
        raise RecipeError(f"no recipe {name_or_path!r}: give a TOML file, or one of {', '.join(BUNDLED)}")
    try:
        return _parse(name_or_path, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not valid TOML: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{name_or_path}: {error}") from error


#: The keys of a recipe file and what they hold.
_KEYS: dict[str, type] = {
    "classes": dict, "modalities": list, "ignore": int, "spacing": list, "clip": list, "maps": dict, "regions": dict,
    "crop": list, "skull_stripped": bool,
}  # fmt: skip


def _parse(name: str, document: dict[str, Any]) -> RecipeFile:
    for key, value in document.items():
        if key not in _KEYS:
            raise RecipeError(f"unknown key {key!r}; known: {', '.join(sorted(_KEYS))}")
        if not isinstance(value, _KEYS[key]):
            raise RecipeError(f"{key} must be of type {_KEYS[key].__name__} in TOML, got {value!r}")
    crop = document.get("crop")
    if crop is not None and not (len(crop) == 3 and all(isinstance(n, int) and n > 0 for n in crop)):
        raise RecipeError(f"crop must be three positive voxel counts (z, y, x), got {crop}")
    return RecipeFile(
        name=name,
        classes={int(value): str(label) for value, label in document["classes"].items()}
        if "classes" in document
        else None,
        modalities=tuple(map(str, document["modalities"])) if "modalities" in document else None,
        ignore=document.get("ignore"),
        spacing=_floats(document.get("spacing")),
        clip=_floats(document.get("clip")),
        maps=document.get("maps", {}),
        hints=TrainingHints(
            regions={str(n): tuple(map(int, v)) for n, v in document.get("regions", {}).items()},
            crop=tuple(crop) if crop else None,
            skull_stripped=document.get("skull_stripped", False),
        ),
    )


def _floats(values: Any) -> Any:
    return None if values is None else tuple(float(v) for v in values)


def assemble_recipe(
    recipe_file: RecipeFile | None,
    *,
    data_classes: Mapping[int, str] | None,
    data_modalities: tuple[str, ...],
    data_ignore: int | None = None,
    flag_classes: Mapping[int, str] | None = None,
    clip: tuple[float, float] | None = None,
    preset: str | None = None,
    map_flags: Mapping[str, Any] | None = None,
) -> Recipe:
    """Merge, in rising precedence, the default preset, what the data folder says, the recipe, `preset` and flags.

    Raises:
        RecipeError: nothing names the classes, or a parameter is out of range.
    """
    recipe = recipe_file or RecipeFile(name="")
    classes = flag_classes or recipe.classes or data_classes
    if classes is None:
        raise RecipeError(
            "this layout does not name its label values; give --recipe "
            f"({', '.join(BUNDLED)}, or a TOML file) or --classes, for example --classes 1=liver,2=kidney"
        )
    layers = [recipe.maps, {"preset": preset} if preset else {}, map_flags or {}]
    return Recipe(
        classes=class_table(classes),
        preprocessing=Preprocessing(
            modalities=recipe.modalities or data_modalities,
            ignore=recipe.ignore if recipe.ignore is not None else data_ignore,
            spacing=recipe.spacing,
            clip=clip or recipe.clip,
        ),
        maps=map_parameters(layers),
        hints=recipe.hints,
    )
