"""Figures: soft labels at an ambiguous border, predictions beside the reference, scores over α, reliability."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from results import DSC, HD95, Measured
from scipy import ndimage
from significance import complete, estimate

from geols_precompute import soft_label
from geols_precompute.errors import InputError
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.softlabel import one_hot
from geols_train.data import Sample
from geols_train.metrics import border
from geols_train.stores import Stores

#: Okabe and Ito's colours, which do not depend on red and green being told apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000")
HALF_WIDTH = 10
DPI = 110


@dataclass(frozen=True, kw_only=True)
class Place:
    """A voxel of a case: where two classes are about equally near, and one of the same class far from any border."""

    case: str
    voxel: tuple[int, int, int]
    inside: tuple[int, int, int]


def find_ambiguous(stores: Stores, cases: Sequence[str]) -> Place:
    """Return the foreground border voxel whose largest two shares of g̃ differ least, over these cases.

    Raises:
        InputError: no case has a foreground voxel.
    """
    found: list[tuple[float, Place]] = []
    for case in cases:
        label_ZYX, maps_CZYX = label_and_maps(stores, case)
        share_CZYX = maps_CZYX / np.maximum(maps_CZYX.sum(axis=0), 1e-9)
        at_border_ZYX = np.zeros(label_ZYX.shape, bool)
        for index in range(1, len(maps_CZYX)):
            at_border_ZYX |= border(label_ZYX == index)
        if at_border_ZYX.any():
            largest = np.sort(share_CZYX, axis=0)[::-1]
            margin_ZYX = np.where(at_border_ZYX, largest[0] - largest[1], np.inf)
            z, y, x = (int(n) for n in np.unravel_index(margin_ZYX.argmin(), margin_ZYX.shape))
            place = Place(case=case, voxel=(z, y, x), inside=_deepest(label_ZYX == label_ZYX[z, y, x], (z, y, x)))
            found.append((float(margin_ZYX[z, y, x]), place))
    if not found:
        raise InputError("no case has foreground to draw")
    return min(found, key=lambda item: item[0])[1]


def label_and_maps(stores: Stores, case: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return class indices [z,y,x] and the geodesic maps of all classes [c,z,y,x]."""
    assert stores.labels is not None
    return stores.volumes.label(case), stores.labels.class_maps(case)


def draw_closeup(path: Path, stores: Stores, place: Place, alpha: float, credit: str) -> None:
    """Draw the soft labels of OH, LS, SVLS and GeoLS around a place: what leaves the labelled class, and two voxels."""
    label_ZYX, maps_CZYX = label_and_maps(stores, place.case)
    soft = {
        "one-hot": soft_label(label_ZYX, maps_CZYX, method="ce"),
        f"LS, α = {alpha:g}": soft_label(label_ZYX, maps_CZYX, method="ls", alpha=alpha),
        "SVLS": soft_label(label_ZYX, maps_CZYX, method="svls"),
        f"GeoLS, α = {alpha:g}": soft_label(label_ZYX, maps_CZYX, alpha=alpha),
    }
    z, y, x = place.voxel
    window = _around((y, x), label_ZYX.shape[1:])
    names = stores.classes.names
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    upper = figure.subplots(2, 5, height_ratios=(1.25, 1))
    image_YX, label_YX = stores.volumes.image(place.case)[0, z][window], label_ZYX[z][window]
    _show(upper[0, 0], image_YX, label_YX, "gray")
    upper[0, 0].set_title(f"{place.case}, slice {z}", fontsize=9)
    _mark(upper[0, 0], place, window)
    for column, (name, soft_CZYX) in enumerate(soft.items(), start=1):
        # nothing leaves where nothing is labelled: an ignored voxel has no mass at all
        hard_CYX = one_hot(label_ZYX[z], len(maps_CZYX))
        leaving_YX = (hard_CYX.sum(axis=0) - (soft_CZYX[:, z] * hard_CYX).sum(axis=0))[window]
        # a scale for each: what one method moves along the borders would drown what another moves everywhere
        shown = _show(upper[0, column], leaving_YX, label_YX, "viridis", float(leaving_YX.max()) or 1.0)
        figure.colorbar(shown, ax=upper[0, column], shrink=0.8)
        upper[0, column].set_title(f"{name}:\noutside the labelled class", fontsize=9)
        _mark(upper[0, column], place, window)
        _bars(upper[1, column], soft_CZYX, place, names)
    _class_key(upper[1, 0], names)
    _footnote(figure, credit)
    figure.savefig(path, dpi=DPI)


def draw_predictions(
    path: Path,
    cases: Sequence[tuple[str, Mapping[str, tuple[Sample, torch.Tensor]]]],
    names: Sequence[str],
    credit: str,
) -> None:
    """Draw cases (title, {method: what it predicts}), a row each, in the slice with the most foreground."""
    methods = list(cases[0][1])
    figure = Figure(figsize=(2.1 * (len(methods) + 1), 2.3 * len(cases) + 0.6), layout="constrained")
    grid = figure.subplots(len(cases), len(methods) + 1, squeeze=False)
    for row, (title, predictions) in zip(grid, cases, strict=True):
        sample = predictions[methods[0]][0]
        z = int(((sample.label > 0) & sample.counted).sum(axis=(1, 2)).argmax())
        _show(row[0], sample.image[0, z], sample.label[z], "gray")
        row[0].set_title(f"{title}\nreference", fontsize=8)
        for axes, method in zip(row[1:], methods, strict=True):
            predicted = predictions[method][1].argmax(dim=0).numpy()
            _show(axes, sample.image[0, z], predicted[z], "gray")
            axes.set_title(method, fontsize=8)
    key = ", ".join(f"{_colour_name(i)} {name}" for i, name in enumerate(names[1:]))
    _footnote(figure, f"{key}. {credit}")
    figure.savefig(path, dpi=DPI)


def draw_alpha(path: Path, points: Sequence[tuple[float, Measured]], credit: str) -> None:
    """Draw DSC and HD95 over α, with 95 % intervals, and a dot for every repeat."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    alphas = [alpha for alpha, _ in points]
    for axes, metric in zip(figure.subplots(1, 2), (DSC, HD95), strict=True):
        estimates = [estimate(found.units(metric)) for _, found in points]
        means = np.array([e.mean for e in estimates])
        halves = [e.high - e.mean for e in estimates]
        axes.errorbar(alphas, means, yerr=halves, color=COLOURS[4], marker="o", capsize=3)
        for alpha, found in points:
            repeats = complete(found.units(metric)).mean(axis=1)
            axes.plot([alpha] * len(repeats), repeats, ".", color=COLOURS[0], zorder=3)
        axes.set(xlabel="α", ylabel=f"{metric.name} ({metric.unit})", xticks=alphas)
    _footnote(figure, f"line: mean and 95 % interval; orange: each repeat. {credit}")
    figure.savefig(path, dpi=DPI)


def draw_reliability(path: Path, bins: Mapping[str, torch.Tensor], credit: str) -> None:
    """Draw how often voxels are right over how sure the network is of them; bins of fewer than 100 are left out."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="dotted")
    markers = "osD^v<>p"
    for (name, sums), colour, marker in zip(bins.items(), COLOURS, markers, strict=False):
        voxels, confidence, right = sums.numpy()
        shown = voxels >= 100
        axes.plot(
            confidence[shown] / voxels[shown], right[shown] / voxels[shown], color=colour, marker=marker, label=name
        )
    axes.set(xlabel="mean probability of the winning class", ylabel="share that is right", xlim=(0.3, 1), ylim=(0.3, 1))
    axes.set_aspect("equal")
    axes.legend(frameon=False)
    _footnote(figure, f"above the diagonal: less sure than right. {credit}")
    figure.savefig(path, dpi=DPI)


def _deepest(mask_ZYX: NDArray[np.bool_], beside: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the voxel of a mask that is farthest from its border, among those drawn around another voxel."""
    z, *yx = beside
    rows, columns = _around(yx, mask_ZYX.shape[1:])
    depth_YX = ndimage.distance_transform_edt(mask_ZYX)[z][rows, columns]
    y, x = (int(n) for n in np.unravel_index(depth_YX.argmax(), depth_YX.shape))
    return z, y + rows.start, x + columns.start


def _around(centre: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the window of a slice that is drawn around a voxel."""
    return tuple(
        slice(max(0, n - HALF_WIDTH), min(size, n + HALF_WIDTH + 1)) for n, size in zip(centre, shape, strict=True)
    )


def _show(axes: Any, picture_YX: Any, label_YX: Any, colours: str, most: float | None = None) -> Any:
    shown = axes.imshow(picture_YX, cmap=colours, vmin=None if most is None else 0, vmax=most)
    for index in sorted({*np.unique(label_YX).tolist()} - {0, IGNORE_INDEX}):
        if 0 < (label_YX == index).sum() < label_YX.size:  # there is no contour otherwise, and matplotlib warns
            axes.contour(label_YX == index, levels=[0.5], colors=[COLOURS[(index - 1) % len(COLOURS)]], linewidths=1.2)
    axes.set_axis_off()
    return shown


def _mark(axes: Any, place: Place, window: tuple[slice, ...]) -> None:
    for name, (_, y, x) in (("A", place.voxel), ("B", place.inside)):
        row, column = y - window[0].start, x - window[1].start
        if 0 <= row < window[0].stop - window[0].start and 0 <= column < window[1].stop - window[1].start:
            axes.plot(column, row, "s", markersize=6, markerfacecolor="none", markeredgecolor="white")
            axes.annotate(
                name, (column, row), (4, 4), textcoords="offset points", color="white", fontsize=8, weight="bold"
            )


def _bars(axes: Any, soft_CZYX: NDArray[np.float32], place: Place, names: Sequence[str]) -> None:
    """Draw the class probabilities of both voxels."""
    width = 0.8 / len(names)
    for index in range(len(names)):
        values = [float(soft_CZYX[(index, *voxel)]) for voxel in (place.voxel, place.inside)]
        places = np.arange(2) + (index - (len(names) - 1) / 2) * width
        axes.bar(places, values, width, color="#999999" if index == 0 else COLOURS[(index - 1) % len(COLOURS)])
        for at, value in zip(places, values, strict=True):
            axes.text(at, value + 0.02, f"{value:.3f}", ha="center", fontsize=6)
    axes.set(xticks=[0, 1], xticklabels=["A", "B"], ylim=(0, 1.12))
    axes.tick_params(labelsize=7)


def _class_key(axes: Any, names: Sequence[str]) -> None:
    axes.set_axis_off()
    colours = ["#999999", *(COLOURS[i % len(COLOURS)] for i in range(len(names) - 1))]
    for name, colour in zip(names, colours, strict=True):
        axes.bar(0, 0, color=colour, label=name)
    axes.legend(loc="center", frameon=False, title="class probabilities\nat A (border) and B (inside)", fontsize=8)


def _footnote(figure: Figure, text: str) -> None:
    figure.supxlabel("\n".join(textwrap.wrap(text, int(17 * figure.get_figwidth()))), fontsize=7)


def _colour_name(index: int) -> str:
    return ("orange", "light blue", "green", "pink", "blue", "red", "yellow", "black")[index % len(COLOURS)]
