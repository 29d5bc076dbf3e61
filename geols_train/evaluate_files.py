"""Predictions of any origin against label maps of any folder, by the metrics of a training's test cases."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from geols_precompute.atomic import new_file
from geols_precompute.data.cases import images_below, stem
from geols_precompute.data.headers import read_header
from geols_precompute.data.layouts import recognised
from geols_precompute.data.volumes import read_image, read_volume
from geols_precompute.errors import InputError
from geols_precompute.formatting import some
from geols_precompute.recipe.parameters import Recipe
from geols_train.metrics import LEAST_TOLERANCE_MM, Agreement, agreement, tolerance_for

#: The fields of `Agreement`, each a column.
METRICS = tuple(field.name for field in fields(Agreement))
#: More values than this are no label map.
MOST_VALUES = 256


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Predictions with their references.

    Attributes:
        files: case id to (prediction, reference).
        structures: name to the label values that belong to it: classes, then regions.
        classes: the names of the classes among them.
        ignore: the label value of voxels that do not count, if any.
        without_prediction: cases of the references that nobody has predicted.
        without_reference: predictions that belong to no reference.
    """

    files: Mapping[str, tuple[Path, Path]]
    structures: Mapping[str, Sequence[int]]
    classes: Sequence[str]
    ignore: int | None
    without_prediction: Sequence[str]
    without_reference: Sequence[str]


def find_pairs(
    predictions: Path, reference: Path, *, classes: Mapping[int, str] | None = None, recipe: Recipe | None = None
) -> Pairs:
    """Return the label maps of two folders by case.

    Args:
        predictions: a folder of label maps, a file per case, as geols-predict writes it.
        reference: such a folder, or a data folder of a layout that geols-precompute knows.
        classes: names of label values; by default those of the recipe or of the data folder, else the values found.
        recipe: its classes, regions and ignored value.

    Raises:
        InputError: a folder is not there or holds nothing, or no prediction belongs to a reference.
        RecipeError: classes and regions do not fit together.
    """
    predicted = _by_stem(predictions)
    dataset = recognised(reference) if reference.exists() else None
    if dataset and any(case.raters for case in dataset.cases):
        raise InputError(f"{reference}: has label maps of several raters; name a folder with those of one")
    if dataset and any(case.masks for case in dataset.cases):
        raise InputError(f"{reference}: has a mask per organ; name a folder with a label map per case")
    labelled = {case.id: case.label for case in dataset.cases if case.label} if dataset else _by_stem(reference)
    both = sorted(predicted.keys() & labelled.keys())
    if not both:
        raise InputError(
            f"no file in {predictions} is named after a case of {reference}: {some(sorted(predicted), 3)} there, "
            f"{some(sorted(labelled), 3)} here; give both the same names"
        )
    files = {case: (predicted[case], labelled[case]) for case in both}
    asked = recipe or Recipe()
    asked = replace(asked, classes=classes or asked.classes, orientation=None, rater=None, keep_raters=False)
    found = dataset.classes if dataset else None
    if not (found or asked.classes):
        found = {value: f"class {value}" for value in _values(files.values()) if value}
    table = asked.resolve(
        modalities=asked.modalities or ("image",),
        classes=found,
        ignore=dataset.ignore if dataset else None,
        regions=dataset.regions if dataset else None,
    )
    foreground = {label.name: (label.value,) for label in table.classes if label.value != 0}
    return Pairs(
        files=files,
        structures={**foreground, **table.hints.regions},
        classes=tuple(foreground),
        ignore=table.classes.ignore,
        without_prediction=sorted(labelled.keys() - predicted.keys()),
        without_reference=sorted(predicted.keys() - labelled.keys()),
    )


def tolerance_of(pairs: Pairs) -> float:
    """Return the tolerance of surface Dice, in mm, that the voxels of the references can show; see `tolerance_for`."""
    longest = []
    for _, reference in pairs.files.values():
        with suppress(InputError):  # which is said where the case is compared
            longest.append(max(read_header(reference).geometry.spacing_zyx))
    return tolerance_for(longest or [LEAST_TOLERANCE_MM])


def compare(pairs: Pairs, case: str, tolerance_mm: float) -> dict[str, Agreement]:
    """Return the agreement of a case, by structure, on the grid of its files.

    Raises:
        InputError: a file cannot be read, is no label map, or the two lie on different grids.
    """
    prediction, reference = pairs.files[case]
    volume = read_volume([prediction], reference, modalities=1, raters=[prediction])
    assert volume.label is not None
    assert volume.raters is not None
    predicted_ZYX, label_ZYX = volume.raters[0], volume.label
    counted_ZYX = np.ones(label_ZYX.shape, bool) if pairs.ignore is None else label_ZYX != pairs.ignore
    known = {0, *(value for values in pairs.structures.values() for value in values)}
    if odd := sorted(set(map(int, np.unique(predicted_ZYX[counted_ZYX]))) - known):
        raise InputError(f"{prediction}: holds the values {odd}, which no class has; name them with --classes")
    return {
        name: agreement(
            np.isin(predicted_ZYX, values) & counted_ZYX,
            np.isin(label_ZYX, values) & counted_ZYX,
            volume.geometry.spacing_zyx,
            tolerance_mm=tolerance_mm,
        )
        for name, values in pairs.structures.items()
    }


def write_table(path: Path, found: Mapping[str, Mapping[str, Agreement]], tolerance_mm: float, readers: int) -> None:
    """Write a CSV with a row per case and structure; what is not defined is empty, `readers` as in `new_file`."""
    with new_file(path, readers) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", *METRICS, "tolerance_mm"])
        for case, structures in found.items():
            for name, agreed in structures.items():
                values = [getattr(agreed, metric) for metric in METRICS]
                shown = ("" if math.isnan(value) else f"{value:.6f}" for value in values)
                writer.writerow([case, name, *shown, f"{tolerance_mm:g}"])


def means(found: Mapping[str, Mapping[str, Agreement]], structure: str) -> dict[str, float | None]:
    """Return the mean of each metric over the cases where it is defined; None if that is nowhere."""
    result: dict[str, float | None] = {}
    for metric in METRICS:
        values = [float(getattr(structures[structure], metric)) for structures in found.values()]
        defined = [value for value in values if not math.isnan(value)]
        result[metric] = float(np.mean(defined)) if defined else None
    return result


def mean_dice(found: Mapping[str, Mapping[str, Agreement]], classes: Sequence[str]) -> float:
    """Return the mean over cases of the mean Dice of these classes."""
    return float(np.mean([[structures[name].dice for name in classes] for structures in found.values()]))


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return the label maps of a folder by case: their names without ending, those of probabilities left out."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name one with a label map per case, such as CASE.nii.gz")
    files = [path for path in images_below(folder, depth=0) if not stem(path).endswith("_probabilities")]
    if not files:
        raise InputError(f"{folder}: no label map of a known format in it")
    named: dict[str, Path] = {}
    for path in files:
        if stem(path) in named:
            raise InputError(f"{named[stem(path)]} and {path} are label maps of one case; remove one of them")
        named[stem(path)] = path
    return named


def _values(pairs: Iterable[tuple[Path, Path]]) -> list[int]:
    """Return the label values of all files."""
    found: set[int] = set()
    for path in (path for pair in pairs for path in pair):
        array, _, _ = read_image(path)
        values = np.unique(array)
        if len(values) > MOST_VALUES or not np.array_equal(values, np.rint(values)):
            raise InputError(f"{path}: is no label map; its values are not a few whole numbers")
        found.update(map(int, values))
    return sorted(found)
