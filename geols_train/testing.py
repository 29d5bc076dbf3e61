"""Testing: predicts cases of the stores, measures them, and writes the table and the summary of a run."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from geols_train.checkpoint import NetworkSpec
from geols_train.config import Extent
from geols_train.data import CaseReader, Sample
from geols_train.hardware import Precision
from geols_train.inference import predict_probabilities
from geols_train.metrics import Agreement, agreement, calibration_error, foreground_dice
from geols_train.windows import centre_box, whole_box

COLUMNS = ("case", "structure", "dice", "surface_dice", "hd95_mm", "ece")


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """How cases of the stores are predicted and measured.

    Attributes:
        reader: of the cases.
        spec: of the network.
        extent: whole volumes, or the centre crop only.
        precision: of the network.
    """

    reader: CaseReader
    spec: NetworkSpec
    extent: Extent
    precision: Precision

    def predict(self, network: nn.Module, case: str) -> tuple[Sample, torch.Tensor]:
        """Return what is evaluated of a case, and its class probabilities [c,z,y,x]."""
        shape = self.reader.shape(case)
        box = whole_box(shape) if self.extent == "whole" else centre_box(shape, self.spec.window)
        sample = self.reader.read(case, box)
        network.eval()
        image = torch.from_numpy(sample.image)
        probabilities_CZYX = predict_probabilities(
            network, image, window=self.spec.window, overlap=self.spec.overlap, precision=self.precision
        )
        return sample, probabilities_CZYX

    def dice(self, network: nn.Module, case: str) -> list[float]:
        """Return the Dice of each foreground class: what validation looks at."""
        sample, probabilities_CZYX = self.predict(network, case)
        predicted = probabilities_CZYX.argmax(dim=0).cpu()
        label, counted = torch.from_numpy(sample.label), torch.from_numpy(sample.counted)
        return foreground_dice(predicted, label, counted, len(self.spec.classes))

    def measure(self, network: nn.Module, case: str) -> CaseResult:
        """Return every metric of a case: per foreground class and per region, and its calibration error."""
        sample, probabilities_CZYX = self.predict(network, case)
        probabilities_CZYX = probabilities_CZYX.cpu()
        predicted = probabilities_CZYX.argmax(dim=0).numpy()
        spacing = self.reader.stores.volumes.metadata(case).geometry.spacing_zyx
        structures = {
            name: agreement(
                np.isin(predicted, indices) & sample.counted, np.isin(sample.label, indices) & sample.counted, spacing
            )
            for name, indices in structure_indices(self.spec).items()
        }
        ece = calibration_error(probabilities_CZYX, torch.from_numpy(sample.label), torch.from_numpy(sample.counted))
        return CaseResult(case=case, structures=structures, ece=ece)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The metrics of one case, by structure: foreground classes by name, then regions."""

    case: str
    structures: Mapping[str, Agreement]
    ece: float

    def mean_dice(self, names: Sequence[str]) -> float:
        """Return the mean Dice of these structures."""
        return float(np.mean([self.structures[name].dice for name in names]))


def structure_indices(spec: NetworkSpec) -> dict[str, list[int]]:
    """Return {structure: class indices}: every foreground class, then every region of the recipe."""
    index = {label.value: i for i, label in enumerate(spec.classes)}
    classes = {label.name: [index[label.value]] for label in spec.classes[1:]}
    return classes | {name: [index[value] for value in values] for name, values in spec.regions.items()}


def write_cases(path: Path, results: Sequence[CaseResult]) -> None:
    """Write a CSV with a row per case and structure; an undefined distance is empty, ece is of the whole case."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for result in results:
            for name, found in result.structures.items():
                distance = "" if math.isnan(found.hd95_mm) else f"{found.hd95_mm:.6f}"
                row = (f"{found.dice:.6f}", f"{found.surface_dice:.6f}", distance, f"{result.ece:.6f}")
                writer.writerow([result.case, name, *row])


def summarise(results: Sequence[CaseResult], spec: NetworkSpec) -> dict[str, Any]:
    """Return means over cases: of every structure, and of the foreground classes together.

    A mean distance is over the cases where it is defined; `hd95_undefined` counts the others.
    """
    foreground = [label.name for label in spec.classes[1:]]
    return {
        "cases": len(results),
        "mean_foreground_dice": _mean([result.mean_dice(foreground) for result in results]),
        "ece": _mean([result.ece for result in results]),
        "structures": {
            name: _structure_summary([result.structures[name] for result in results])
            for name in structure_indices(spec)
        },
    }


def mean_and_std(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a summary of the same shape whose numbers are {mean, std} over repeats (std with n - 1)."""
    return {key: _merged([summary[key] for summary in summaries]) for key in summaries[0]}


def _structure_summary(found: Sequence[Agreement]) -> dict[str, Any]:
    distances = [a.hd95_mm for a in found if not math.isnan(a.hd95_mm)]
    return {
        "dice": _mean([a.dice for a in found]),
        "surface_dice": _mean([a.surface_dice for a in found]),
        "hd95_mm": _mean(distances),
        "hd95_undefined": len(found) - len(distances),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _merged(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return mean_and_std(values)
    numbers = [v for v in values if isinstance(v, int | float)]
    if len(numbers) < len(values):
        return None  # not defined in every repeat
    return {"mean": float(np.mean(numbers)), "std": float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0}
