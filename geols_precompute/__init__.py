"""GeoLS: geodesic soft labels for 3D segmentation, computed once and kept in a store that labs can share."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "GeolsError": "geols_precompute.errors",
    "LabelStore": "geols_precompute.store.reader",
    "VolumeStore": "geols_precompute.store.reader",
    "geodesic_distance": "geols_precompute.geodesic",
}
__all__ = ["GeolsError", "LabelStore", "VolumeStore", "geodesic_distance"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
