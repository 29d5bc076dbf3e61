"""Recipes as TOML files: the bundled ones, and a user's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from geols_precompute.errors import RecipeError
from geols_precompute.recipe.parameters import MapParameters, Recipe, TrainingHints

BUNDLED = ("brats2019", "brats2023", "flare2021")
#: The keys of a recipe file and what they hold.
_KEYS: dict[str, type] = {
    "classes": dict,
    "modalities": list,
    "ignore": int,
    "spacing": list,
    "clip": list,
    "skip_empty": bool,
    "orientation": str,
    "rater": str,
    "keep_raters": bool,
    "mask_order": list,
    "maps": dict,
    "regions": dict,
    "crop": list,
    "skull_stripped": bool,
}


def load_recipe(name_or_path: str) -> Recipe:
    """Read a bundled recipe by name, or a TOML file by path.

    Raises:
        RecipeError: neither exists, it is not TOML, or a key is unknown or of a wrong type.
    """
    if name_or_path in BUNDLED:
        text = (files(__package__) / f"{name_or_path}.toml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text(encoding="utf-8-sig")  # editors write a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name_or_path}: cannot be read: {error}") from error
    else:
        raise RecipeError(f"no recipe {name_or_path!r}: give a TOML file, or one of {', '.join(BUNDLED)}")
    try:
        return _parse(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not valid TOML: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{name_or_path}: {error}") from error


def _parse(document: dict[str, Any]) -> Recipe:
    for key, value in document.items():
        if key not in _KEYS:
            raise RecipeError(f"unknown key {key!r}; known: {', '.join(sorted(_KEYS))}")
        if not isinstance(value, _KEYS[key]):
            raise RecipeError(f"{key} must be of type {_KEYS[key].__name__} in TOML, got {value!r}")
    crop = document.get("crop")
    if crop is not None and not (len(crop) == 3 and all(isinstance(n, int) and n > 0 for n in crop)):
        raise RecipeError(f"crop must be three positive voxel counts (z, y, x), got {crop}")
    classes, modalities = document.get("classes"), document.get("modalities")
    return Recipe(
        classes=None if classes is None else {int(value): str(name) for value, name in classes.items()},
        modalities=None if modalities is None else tuple(map(str, modalities)),
        ignore=document.get("ignore"),
        spacing=_floats(document.get("spacing")),
        clip=_floats(document.get("clip")),
        skip_empty=document.get("skip_empty", False),
        orientation=document.get("orientation"),
        rater=document.get("rater"),
        keep_raters=document.get("keep_raters", False),
        mask_order=tuple(map(str, document.get("mask_order", ()))),
        maps=MapParameters().changed(**document.get("maps", {})),
        hints=TrainingHints(
            regions={str(name): tuple(map(int, values)) for name, values in document.get("regions", {}).items()},
            crop=tuple(crop) if crop else None,
            skull_stripped=document.get("skull_stripped", False),
        ),
    )


def _floats(values: Any) -> Any:
    return None if values is None else tuple(float(v) for v in values)
