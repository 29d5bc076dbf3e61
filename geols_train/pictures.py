"""Pictures: the curves of a run, and its worst, median and best test case with contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from geols_precompute.arrays import BoolArray
from geols_precompute.atomic import new_file
from geols_precompute.errors import MissingExtraError
from geols_train.checkpoint import NetworkSpec
from geols_train.data import Sample
from geols_train.evaluate import CaseResult
from geols_train.folder import CURVES, PICTURES
from geols_train.log import read_log

_COLOURS = ("tab:orange", "tab:cyan", "tab:green", "tab:red", "tab:purple", "tab:olive", "tab:pink", "tab:brown")


def draw_curves(folder: Path) -> None:
    """Draw the training loss and the validation Dice over epochs, from a run's log, into its folder."""
    epochs = [line for line in read_log(folder) if "epoch" in line]
    figure = _figure(7, 3.2)
    loss_axes, dice_axes = figure.subplots(1, 2)
    numbers = [line["epoch"] for line in epochs]
    loss_axes.plot(numbers, [line.get("loss", math.nan) for line in epochs], color="black")
    loss_axes.set(xlabel="epoch", title="training loss")
    names = sorted({key for line in epochs for key in line if key.startswith("validation_dice_")})
    for name, colour in zip(names, _cycle(len(names)), strict=True):
        label = name.removeprefix("validation_dice_")
        dice_axes.plot(numbers, [line.get(name, math.nan) for line in epochs], color=colour, label=label)
    dice_axes.plot(numbers, [line.get("validation_dice", math.nan) for line in epochs], color="black", label="mean")
    dice_axes.set(xlabel="epoch", title="validation Dice", ylim=(0, 1))
    dice_axes.legend(frameon=False)
    for axes in (loss_axes, dice_axes):
        axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, folder / CURVES)


def draw_cases(folder: Path, cases: Sequence[tuple[CaseResult, Sample, torch.Tensor]], spec: NetworkSpec) -> None:
    """Draw three cases, worst, median and best: reference contours dashed, predicted ones solid.

    Each case is shown in the axial slice that has the most foreground.
    """
    figure = _figure(9, 3.6)
    foreground = spec.classes.foreground
    for axes, rank, (result, sample, probabilities) in zip(
        figure.subplots(1, 3), ("worst", "median", "best"), cases, strict=True
    ):
        predicted = probabilities.argmax(dim=0).cpu().numpy()
        shown = sample.counted & (sample.label > 0)
        z = int(shown.sum(axis=(1, 2)).argmax())
        axes.imshow(sample.image[0, z], cmap="gray")
        for index, colour in enumerate(_cycle(len(foreground)), start=1):
            _contour(axes, (sample.label[z] == index) & sample.counted[z], colour, "dashed")
            _contour(axes, predicted[z] == index, colour, "solid")
        axes.set_title(f"{rank}: {result.case}\nDice {result.mean_dice(foreground):.3f}", fontsize=9)
        axes.set_axis_off()
    key = ", ".join(
        f"{c.removeprefix('tab:')} {name}" for name, c in zip(foreground, _cycle(len(foreground)), strict=True)
    )
    figure.supxlabel(f"{key}; dashed reference, solid prediction", fontsize=8)
    _save(figure, folder / PICTURES)


def _save(figure: Any, path: Path) -> None:
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _contour(axes: Any, mask_YX: BoolArray, colour: str, style: str) -> None:
    if mask_YX.any() and not mask_YX.all():  # there is no contour otherwise, and matplotlib warns
        axes.contour(mask_YX, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1)


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error
    return Figure(figsize=(width, height), layout="constrained")
