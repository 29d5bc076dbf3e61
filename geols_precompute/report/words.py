"""What a store is, in words for a person who does not know the names of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Names of folders that say nothing of the data set in them.
_NO_NAMES = ("", "data", "geols")
_SEEDS = {
    "skeleton": "the skeleton of each class",
    "erosion": "what is left of each class when it is eroded",
    "centroid": "the centre of each class",
    "boundary": "the border of each class",
}


def name_of(store: Path) -> str:
    """Return how a person calls the data set of a store: the folder that it was made in, else the store's own name."""
    folders = store.absolute().parent.parts[1:]
    return next((part for part in reversed(folders) if part not in _NO_NAMES), store.name.split(".zarr")[0])


def recipe_in_words(recipe: Mapping[str, Any]) -> str:
    """Return what the recipe of a label store does, in a few sentences."""
    maps, prepared = recipe["maps"], recipe["preprocessing"]
    kind, _, number = maps["seeds"].partition("-")
    seeds = _SEEDS.get(kind) or (
        f"{number} voxels of each class, drawn at random" if kind == "random" else f"{number} mm inside each class"
    )
    sweeps = "until nothing changes" if maps["iterations"] == "exact" else f"in {maps['iterations']} sweeps"
    if maps["metric"] == "gradient":
        step = f"a step costs more where the image changes (gradient metric, λ = {maps['lam']:g})"
    else:
        step = f"a step costs its length and what the image changes over it (Riemannian metric, γ = {maps['gamma']:g})"
    if maps.get("contrast") == "border":
        step += ", in units of the contrast where classes meet"
    fall = "over their mean distance" if maps["decay"] == "mean" else f"at {maps['decay']:g} per mm"
    background = (
        "the background has seeds of its own"
        if maps["background"] == "seeds"
        else "the background is what the other classes leave"
    )
    text = (
        f"Distances start at {seeds} and are measured through the image {sweeps}: {step}. Nearness falls off {fall}; "
        f"{background}."
    )
    if prepared["spacing"]:
        text += f" Volumes were resampled to {' × '.join(f'{mm:g}' for mm in prepared['spacing'])} mm (z,y,x)."
    if maps.get("control") == "shuffled":
        text += " The image was shuffled: these maps are a control."
    return text
