"""GeoLS: geodesic soft labels for 3D segmentation, computed once and kept in a store that labs can share.

The public names, each imported on first use, so that importing the package costs nothing:

- `precompute`: a folder of labelled volumes to a label store; `Recipe` and `MapParameters` say how.
- `compute_maps`: the maps of one case in memory.
- `LabelStore`, `VolumeStore`: stores, opened for reading.
- `soft_label`: the soft label of any method from class indices and maps, in NumPy.
- `geodesic_distance`: the distance transform.
- `GeolsError`: base of every error raised on purpose.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from geols_precompute.errors import GeolsError
    from geols_precompute.geodesic import geodesic_distance
    from geols_precompute.maps.case import Maps, compute_maps
    from geols_precompute.recipe.classes import ClassTable
    from geols_precompute.recipe.files import load_recipe
    from geols_precompute.recipe.parameters import MapParameters, Recipe
    from geols_precompute.run.execute import Summary
    from geols_precompute.run.precompute import precompute
    from geols_precompute.softlabel import soft_label
    from geols_precompute.store.reader import LabelStore, VolumeStore

__all__ = [
    "ClassTable",
    "GeolsError",
    "LabelStore",
    "MapParameters",
    "Maps",
    "Recipe",
    "Summary",
    "VolumeStore",
    "compute_maps",
    "geodesic_distance",
    "load_recipe",
    "precompute",
    "soft_label",
]

_MODULES = {
    "ClassTable": "recipe.classes",
    "GeolsError": "errors",
    "LabelStore": "store.reader",
    "MapParameters": "recipe.parameters",
    "Maps": "maps.case",
    "Recipe": "recipe.parameters",
    "Summary": "run.execute",
    "VolumeStore": "store.reader",
    "compute_maps": "maps.case",
    "geodesic_distance": "geodesic",
    "load_recipe": "recipe.files",
    "precompute": "run.precompute",
    "soft_label": "softlabel",
}


if not TYPE_CHECKING:  # a type checker then reports names that are not there

    def __getattr__(name):
        """Import a public name on first use."""
        if name == "__version__":
            return import_module("importlib.metadata").version("geols")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__():
        return [*globals(), *__all__]
