"""Evaluation: predicts whole cases from overlapping windows, measures them, and makes the table and the summary."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from geols_precompute.atomic import new_file
from geols_train.batches import Batch, collate
from geols_train.checkpoint import NetworkSpec
from geols_train.config import Extent, Precision, Size
from geols_train.data import Box, CaseReader, Sample, centre_box, covering_boxes, whole_box
from geols_train.device import autocast
from geols_train.loss import Objective
from geols_train.metrics import Agreement, Calibration, agreement, border_band, calibration, structure_dice

#: As in nnU-Net (Isensee et al. 2021): standard deviation of the weights as a share of the window.
GAUSSIAN_SIGMA = 1 / 8
COLUMNS = ("case", "structure", "dice", "surface_dice", "hd95_mm")
#: Where probabilities are measured: all voxels that count, those whose label is foreground, those near a class border.
PLACES = ("all", "foreground", "border")
CALIBRATION_COLUMNS = tuple(
    name if place == "all" else f"{name}_{place}" for place in PLACES for name in ("ece", "brier", "nll")
)
T = TypeVar("T")

# --- prediction -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict_probabilities(
    network: nn.Module,
    image_MZYX: torch.Tensor,
    *,
    window: Size,
    overlap: float,
    precision: Precision = "auto",
    windows: int = 1,
) -> torch.Tensor:
    """Return class probabilities [c,z,y,x] float32 of a volume, on the device of the network.

    Where windows overlap, each counts by a Gaussian weight that is largest in its middle. A volume smaller than the
    window is padded with zeros, as in training.

    Args:
        network: from [window,modality,z,y,x] to logits [window,c,z,y,x].
        image_MZYX: z-scores, float32.
        window: (z,y,x) voxels.
        overlap: share of a window that its neighbour covers too.
        precision: of the network; the average is float32.
        windows: how many go through the network at once.
    """
    device = next(network.parameters()).device
    image_MZYX = image_MZYX.to(device)
    shape = image_MZYX.shape[1:]
    weights_ZYX = gaussian_weights(window).to(device)
    total_ZYX = torch.zeros(shape, device=device)
    sum_CZYX: torch.Tensor | None = None
    boxes = covering_boxes(shape, window, overlap=overlap)
    for start in range(0, len(boxes), windows):
        together = boxes[start : start + windows]
        with autocast(device, precision):
            logits_WCZYX = network(torch.stack([_cut(image_MZYX, box) for box in together]))
        weighted_WCZYX = logits_WCZYX.float().softmax(dim=1) * weights_ZYX
        if sum_CZYX is None:
            sum_CZYX = torch.zeros((weighted_WCZYX.shape[1], *shape), device=device)
        for box, weighted in zip(together, weighted_WCZYX, strict=True):
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
        tolerance_mm: of surface Dice, and the width of the border band of the calibration.
        windows: how many go through the network at once.
    """

    reader: CaseReader
    spec: NetworkSpec
    extent: Extent
    precision: Precision
    tolerance_mm: float
    windows: int = 1

    def read(self, case: str) -> Sample:
        """Return what is evaluated of a case."""
        return self.reader.read(case, self._box(case))

    def _box(self, case: str) -> Box:
        shape = self.reader.shape(case)
        return whole_box(shape) if self.extent == "whole" else centre_box(shape, self.spec.window)

    def predict(self, network: nn.Module, case: str, sample: Sample | None = None) -> tuple[Sample, torch.Tensor]:
        """Return what is evaluated of a case, which may have been read before, and its probabilities [c,z,y,x]."""
        sample = sample or self.read(case)
        network.eval()
        image = torch.from_numpy(sample.image)
        probabilities_CZYX = predict_probabilities(
            network, image, window=self.spec.window, overlap=self.spec.overlap, precision=self.precision,
            windows=self.windows,
        )  # fmt: skip
        return sample, probabilities_CZYX

    def validate(self, network: nn.Module, cases: Sequence[str], objective: Objective | None) -> Iterator[list[float]]:
        """Yield of each case what validation looks at: the Dice of every structure, then the loss if one is given.

        The next case is read while the network looks at this one, and the Dice is counted where the network is. The
        loss is the training's own, of the whole case.
        """
        structures = structure_indices(self.spec)
        for case, sample in zip(cases, read_ahead(self.read, cases), strict=True):
            _, probabilities_CZYX = self.predict(network, case, sample)
            device = probabilities_CZYX.device
            found = structure_dice(
                probabilities_CZYX.argmax(dim=0),
                torch.from_numpy(sample.label).to(device),
                torch.from_numpy(sample.counted).to(device),
                structures.values(),
                n_classes=len(self.spec.classes),
            )
            yield found if objective is None else [*found, self._loss(objective, case, probabilities_CZYX)]

    def _loss(self, objective: Objective, case: str, probabilities_CZYX: torch.Tensor) -> float:
        batch = collate([self.reader.window(case, self._box(case))]).to(probabilities_CZYX.device)
        # the loss takes the softmax of its logits, which log p are
        logits = probabilities_CZYX.clamp(min=torch.finfo(torch.float32).tiny).log()[None]
        whole = Batch(cases=(case,), image=logits, label=batch.label, maps=batch.maps, present=batch.present)
        return float(objective(logits, whole))

    def measure(self, network: nn.Module, case: str) -> CaseResult:
        """Return every metric of a case: per foreground class and per region, and its calibration error."""
        sample, probabilities_CZYX = self.predict(network, case)
        probabilities_CZYX = probabilities_CZYX.cpu()
        predicted = probabilities_CZYX.argmax(dim=0).numpy()
        spacing = self.reader.stores.volumes.metadata(case).geometry.spacing_zyx
        structures = {
            name: agreement(
                np.isin(predicted, indices) & sample.counted,
                np.isin(sample.label, indices) & sample.counted,
                spacing,
                tolerance_mm=self.tolerance_mm,
            )
            for name, indices in structure_indices(self.spec).items()
        }
        places = {
            "all": sample.counted,
            "foreground": sample.counted & (sample.label > 0),
            "border": border_band(sample.label, sample.counted, spacing, width_mm=self.tolerance_mm),
        }
        label = torch.from_numpy(sample.label)
        found = {name: calibration(probabilities_CZYX, label, torch.from_numpy(at)) for name, at in places.items()}
        return CaseResult(case=case, structures=structures, calibration=found)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The metrics of one case, by structure (foreground classes by name, then regions) and by place of `PLACES`."""

    case: str
    structures: Mapping[str, Agreement]
    calibration: Mapping[str, Calibration]

    def mean_dice(self, names: Sequence[str]) -> float:
        """Return the mean Dice of these structures."""
        return float(np.mean([self.structures[name].dice for name in names]))


def read_ahead(read: Callable[[str], T], cases: Sequence[str]) -> Iterator[T]:
    """Yield what is read of each case, in order; the next one is read, in a thread, while this one is used."""
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for case in cases:
            waiting, ready = reader.submit(read, case), waiting
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()


def structure_indices(spec: NetworkSpec) -> dict[str, list[int]]:
    """Return {structure: class indices}: every foreground class, then every region of the recipe."""
    classes = {name: [index] for index, name in enumerate(spec.classes.names) if index}
    return classes | {name: list(map(spec.classes.index_of, values)) for name, values in spec.regions.items()}


def write_cases(path: Path, results: Sequence[CaseResult]) -> None:
    """Write a CSV with a row per case and structure; what is not defined is empty, calibration is of the whole case."""
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *CALIBRATION_COLUMNS])
        for result in results:
            for name, found in result.structures.items():
                of_case = [number for place in PLACES for number in asdict(result.calibration[place]).values()]
                numbers = [*asdict(found).values(), *of_case]
                writer.writerow([result.case, name, *("" if math.isnan(n) else f"{n:.6f}" for n in numbers)])


def summarise(results: Sequence[CaseResult], spec: NetworkSpec) -> dict[str, Any]:
    """Return means over cases: of every structure, and of the foreground classes together.

    A mean is over the cases where the number is defined; `hd95_undefined` counts the others.
    """
    return {
        "cases": len(results),
        "mean_foreground_dice": _mean([result.mean_dice(spec.classes.foreground) for result in results]),
        "ece": _mean([result.calibration["all"].ece for result in results]),
        "calibration": {
            place: {
                name: _mean([v for result in results if not math.isnan(v := asdict(result.calibration[place])[name])])
                for name in ("ece", "brier", "nll")
            }
            for place in PLACES
        },
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
