"""Evaluation: predicts whole cases from overlapping windows, measures them, and makes the table and the summary."""

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
from torch.nn import functional

from geols_precompute.atomic import new_file
from geols_train.checkpoint import NetworkSpec
from geols_train.config import Extent, Precision, Size
from geols_train.data import Box, CaseReader, Sample, centre_box, covering_boxes, whole_box
from geols_train.device import autocast
from geols_train.metrics import Agreement, agreement, calibration_error, foreground_dice

#: As in nnU-Net (Isensee et al. 2021): standard deviation of the weights as a share of the window.
GAUSSIAN_SIGMA = 1 / 8
COLUMNS = ("case", "structure", "dice", "surface_dice", "hd95_mm", "ece")

# --- prediction -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module, image_MZYX: torch.Tensor, *, window: Size, overlap: float, precision: Precision = "auto"
) -> torch.Tensor:
    """Return class probabilities [c,z,y,x] float32 of a volume, on the device of the network.

    Where windows overlap, each counts by a Gaussian weight that is largest in its middle. A volume smaller than the
    window is padded with zeros, as in training.

    Args:
        network: from [1,modality,z,y,x] to logits [1,c,z,y,x].
        image_MZYX: z-scores, float32.
        window: (z,y,x) voxels.
        overlap: share of a window that its neighbour covers too.
        precision: of the network; the average is float32.
    """
    device = next(network.parameters()).device
    image_MZYX = image_MZYX.to(device)
    shape = image_MZYX.shape[1:]
    weights_ZYX = gaussian_weights(window).to(device)
    total_ZYX = torch.zeros(shape, device=device)
    sum_CZYX: torch.Tensor | None = None
    for box in covering_boxes(shape, window, overlap=overlap):
        with autocast(device, precision):
            logits_CZYX = network(_cut(image_MZYX, box)[None])[0]
        weighted = logits_CZYX.float().softmax(dim=0) * weights_ZYX
        if sum_CZYX is None:
            sum_CZYX = torch.zeros((len(weighted), *shape), device=device)
        (z, y, x), (wz, wy, wx) = box.inside(shape), box.placed(shape)
        sum_CZYX[:, z, y, x] += weighted[:, wz, wy, wx]
        total_ZYX[z, y, x] += weights_ZYX[wz, wy, wx]
    assert sum_CZYX is not None
    return sum_CZYX / total_ZYX


def gaussian_weights(size: Sequence[int]) -> torch.Tensor:
    """Return weights [z,y,x] float32, about 1 in the middle of a window, above 1e-11 at its corners."""
    weights_ZYX = torch.ones(())
    for n in size:
        distance = torch.arange(n) - (n - 1) / 2
        axis = torch.exp(-0.5 * (distance / (GAUSSIAN_SIGMA * n)) ** 2)
        weights_ZYX = weights_ZYX[..., None] * axis
    return weights_ZYX


def _cut(image_MZYX: torch.Tensor, box: Box) -> torch.Tensor:
    """Return the voxels of a box, 0 where it reaches beyond the volume."""
    shape = image_MZYX.shape[1:]
    z, y, x = box.inside(shape)
    pads = [
        n
        for placed, size in zip(reversed(box.placed(shape)), reversed(box.size), strict=True)
        for n in (placed.start, size - placed.stop)
    ]
    return functional.pad(image_MZYX[:, z, y, x], pads)


# --- cases ------------------------------------------------------------------------------------------------------------


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
    classes = {name: [index] for index, name in enumerate(spec.classes.names) if index}
    return classes | {name: list(map(spec.classes.index_of, values)) for name, values in spec.regions.items()}


def write_cases(path: Path, results: Sequence[CaseResult]) -> None:
    """Write a CSV with a row per case and structure; an undefined distance is empty, ece is of the whole case."""
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
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
    return {
        "cases": len(results),
        "mean_foreground_dice": _mean([result.mean_dice(spec.classes.foreground) for result in results]),
        "ece": _mean([result.ece for result in results]),
        "structures": {
            name: _structure_summary([result.structures[name] for result in results])
            for name in structure_indices(spec)
        },
    }


def ranked(results: Sequence[CaseResult], spec: NetworkSpec) -> list[CaseResult]:
    """Return the worst, the median and the best case by mean foreground Dice."""
    order = sorted(results, key=lambda result: result.mean_dice(spec.classes.foreground))
    return [order[0], order[len(order) // 2], order[-1]]


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
