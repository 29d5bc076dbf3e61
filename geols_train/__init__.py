"""Trains a 3D U-Net on the soft labels of GeoLS stores; its loss and its maps serve other trainers too.

Nothing but the stores is read. The public names are imported on first use, so that importing the package costs nothing:

- `soft_label`: class indices and maps to soft labels, of every method.
- `SoftCrossEntropy`: the GeoLS loss, from class indices and maps as stored.
- `LabelMaps`: the maps of a label store as a torch data set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geols_train.data import LabelMaps
    from geols_train.loss import SoftCrossEntropy
    from geols_train.targets import soft_label
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        modules = {"LabelMaps": "data", "SoftCrossEntropy": "loss", "soft_label": "targets"}
        if name not in modules:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{modules[name]}"), name)


__all__ = ["LabelMaps", "SoftCrossEntropy", "soft_label"]
