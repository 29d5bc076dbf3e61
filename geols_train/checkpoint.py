"""Checkpoints: what a network is and what it has learnt, in one file that is written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from geols_precompute.atomic import new_file
from geols_precompute.errors import StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, preprocessing_json
from geols_train.config import Size
from geols_train.unet import UNet3D

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What a network takes and gives: with its weights, everything that prediction needs.

    Attributes:
        features: channels per level.
        classes: the class table; output channel c is its class c.
        preprocessing: what source files go through first; names the input modalities.
        skull_stripped: z-score over non-zero voxels only.
        window: (z,y,x) voxels at which the network was trained, and predicts.
        overlap: of neighbouring windows in prediction.
        regions: name to class values, for evaluation.
    """

    features: tuple[int, ...]
    classes: ClassTable
    preprocessing: Preprocessing
    skull_stripped: bool
    window: Size
    overlap: float
    regions: Mapping[str, tuple[int, ...]]

    def network(self) -> UNet3D:
        """Return the network with fresh weights, drawn from torch's global generator."""
        return UNet3D(len(self.preprocessing.modalities), len(self.classes), self.features)

    def as_json(self) -> dict[str, Any]:
        """Return the document that a checkpoint keeps."""
        return {
            "features": list(self.features),
            "classes": self.classes.as_json(),
            "preprocessing": preprocessing_json(self.preprocessing, self.classes),
            "skull_stripped": self.skull_stripped,
            "window": list(self.window),
            "overlap": self.overlap,
            "regions": {name: list(values) for name, values in self.regions.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the specification of a checkpoint."""
        z, y, x = document["window"]
        preprocessing = document["preprocessing"]
        return cls(
            features=tuple(document["features"]),
            classes=ClassTable.from_json(document["classes"], ignore=preprocessing["ignore"]),
            preprocessing=Preprocessing.from_json(preprocessing),
            skull_stripped=document["skull_stripped"],
            window=(z, y, x),
            overlap=document["overlap"],
            regions={name: tuple(values) for name, values in document["regions"].items()},
        )


def save_checkpoint(path: Path, spec: NetworkSpec, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values beside the specification; a crash leaves the file that was there before."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"version": VERSION, "spec": spec.as_json(), **content}, file)


def load_checkpoint(path: Path, device: torch.device | None = None) -> tuple[NetworkSpec, dict[str, Any]]:
    """Return (specification, content); only tensors and plain values are ever unpickled.

    Raises:
        StoreError: it is missing, damaged or of another version.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint; is this the folder of a run, and has it ended an epoch?")
    try:
        content: dict[str, Any] = torch.load(path, map_location=device or "cpu", weights_only=True)
        if content["version"] != VERSION:
            raise StoreError(f"{path}: version {content['version']} of a checkpoint; this software reads {VERSION}")
        return NetworkSpec.from_json(content["spec"]), content
    except StoreError:
        raise
    except Exception as error:  # torch has no one error for a damaged file
        raise StoreError(
            f"{path}: not a whole checkpoint ({type(error).__name__}); restore it or train again"
        ) from error


def load_network(path: Path, device: torch.device) -> tuple[NetworkSpec, UNet3D]:
    """Return the specification of a checkpoint, and its network with the weights, ready to predict.

    Raises:
        StoreError: as `load_checkpoint`, or the weights do not fit the specification.
    """
    spec, content = load_checkpoint(path, device)
    network = spec.network()
    try:
        network.load_state_dict(content["model"])
    except (KeyError, RuntimeError) as error:
        raise StoreError(f"{path}: its weights do not fit its specification; train again") from error
    return spec, network.to(device).eval()
