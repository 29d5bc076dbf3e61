"""What a run will do: the cases to compute, those that are finished, those that cannot be used. Nothing is written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from geols_precompute.atomic import readers_of
from geols_precompute.data.cases import Dataset, Problem, is_case_id
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.layouts import discover
from geols_precompute.data.volumes import read_image
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.formatting import plural, some
from geols_precompute.recipe.classes import MAX_CLASSES
from geols_precompute.recipe.parameters import CONSENSUS, Recipe, ResolvedRecipe
from geols_precompute.run import state
from geols_precompute.run.reuse import Reuse
from geols_precompute.run.task import Task
from geols_precompute.store.layout import VOLUMES
from geols_precompute.store.writer import manifest_digests, whole_cases

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that a text such as 2/8 names.

        Raises:
            InputError: it names none.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--part {text}: give i/n with i from 1 to n, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return every `count`-th item, so that large and small ones, which often lie together, are spread."""
        return tuple(items[self.index - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """What the names of files have that the part alone writes: -2-of-8."""
        return f"-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do.

    Attributes:
        dataset: what the data folder holds.
        recipe: for every case.
        out: the output folder.
        name: of the label store.
        tasks: to compute.
        finished: cases that both stores hold already.
        problems: cases that fail without computing.
        stale: cases to compute, or with problems, of which the stores hold something that may not fit their files.
        strays: cases that one of the stores holds and the data folder does not.
        part: of the data set that this run does; None is all of it.
        run: its number, by which the state tells which of two runs was later.
    """

    dataset: Dataset
    recipe: ResolvedRecipe
    out: Path
    name: str
    tasks: tuple[Task, ...]
    finished: tuple[str, ...]
    problems: tuple[Problem, ...]
    stale: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    part: Part | None = None
    run: int = 1

    @property
    def volumes(self) -> Path:
        """The store of prepared volumes."""
        return self.out / VOLUMES

    @property
    def suffix(self) -> str:
        """What the names of this run's logs end with."""
        return self.part.suffix if self.part else ""

    @property
    def labels(self) -> Path:
        """The label store."""
        return self.out / f"{self.name}.zarr"

    @cached_property
    def readers(self) -> int:
        """The permission bits that a file about all cases to compute may have; see `readers_of`."""
        files = (path for task in self.tasks for path in source_files(task.case))
        return readers_of((path for path in files if path.exists()), self.out)


def plan_run(
    data: Path,
    *,
    recipe: Recipe,
    out: Path | None = None,
    name: str = "labels",
    reuse: str | None = None,
    part: str | None = None,
) -> Plan:
    """Recognise a data folder, settle its recipe, and return the plan of a run; nothing is written.

    Args:
        data: a data folder, one case's own folder, or a CSV manifest.
        recipe: what is asked for; what it leaves open, the data decide.
        out: output folder; DATA/geols if it is None.
        name: of the label store there.
        reuse: a label store to take maps from.
        part: i/n, the part of the data set that this run does; None is all of it.

    Raises:
        InputError: the data folder has no known layout, or no case.
        RecipeError: the recipe does not fit the data, or `name` is no name for a store.
        StoreError: the store to take maps from cannot be opened.
    """
    # an empty text is a shell variable that is not set, and would mean all cases
    chosen = Part.parse(part) if part is not None else None
    dataset = discover(data, modalities=recipe.modalities)
    if recipe.by_name and dataset.renamed:
        raise RecipeError(
            f"{dataset.root} has the modalities {', '.join(dataset.renamed)}, but {', '.join(dataset.modalities)} are "
            "asked for; --channels takes names that are there, and a recipe (modalities = [...]) gives others in their "
            "order"
        )
    _require_rater(dataset, recipe.rater)
    resolved = recipe.resolve(
        modalities=dataset.modalities,
        classes=dataset.classes,
        ignore=dataset.ignore,
        regions=dataset.regions,
        why_no_classes=dataset.why_no_classes or _why_no_classes(dataset, recipe),
    )
    preprocessing = resolved.preprocessing
    if any(case.plans for case in dataset.cases) and (preprocessing.spacing or preprocessing.orientation):
        raise RecipeError(
            f"{dataset.root}: nnU-Net trains on these arrays as they lie; leave out --orientation, and the spacing and "
            "orientation of the recipe"
        )
    source = Reuse.of(reuse, resolved) if reuse else None
    notes = (*dataset.notes, *_notes_of_masks(dataset, resolved), *_note_of_modalities(resolved))
    dataset = replace(dataset, notes=notes)
    return make_plan(dataset, resolved, out or dataset.root / "geols", _checked_name(name), source, chosen)


def _why_no_classes(dataset: Dataset, recipe: Recipe) -> str:
    """Return what to say where nothing names the label values: those of the first case, ready for --classes.

    Where no case can be used, that comes first: names of label values would not help.
    """
    if recipe.classes or dataset.classes:
        return ""
    if not dataset.cases:
        first = dataset.problems[0]
        return (
            f"{dataset.root}: recognised as {dataset.layout}, but no case can be used: {first.case_id}: {first.reason}"
        )
    label = dataset.cases[0].label
    try:
        array = read_image(label)[0] if label is not None else np.zeros(0)
    except InputError:
        return ""
    values, counts = np.unique(array, return_counts=True)
    found = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if v > 0 and v == int(v)]
    if not 0 < len(found) <= MAX_CLASSES:
        return ""
    listed = ", ".join(f"{value} ({plural(count, 'voxel')})" for value, count in found)
    flag = ",".join(f"{value}=NAME" for value, _ in found)
    return (
        f"this layout does not name its label values; {label} has {listed}: give --classes {flag}, with names of "
        "yours, or --recipe (brats2019, brats2023, flare2021, or a TOML file)"
    )


def _require_rater(dataset: Dataset, rater: str | None) -> None:
    """Refuse a choice among raters where there are none, and raters without a choice.

    Raises:
        RecipeError: naming the raters that there are.
    """
    names = list(dict.fromkeys(name for case in dataset.cases for name in case.raters))
    if names and rater is None:
        raise RecipeError(
            f"{dataset.root}: every case has label maps of several raters ({', '.join(names)}); choose what is "
            f"softened with --rater: a name, {', '.join(CONSENSUS[:-1])} or {CONSENSUS[-1]}"
        )
    if rater is not None and dataset.cases and rater not in (*(CONSENSUS if names else ()), *names):
        there = f"raters {', '.join(names)}" if names else "one label map per case, of no named rater"
        raise RecipeError(f"--rater {rater}: {dataset.root} has {there}; leave it out, or name another")


def _notes_of_masks(dataset: Dataset, recipe: ResolvedRecipe) -> tuple[str, ...]:
    """Return what to say where every organ has a mask: those that are no class.

    Raises:
        RecipeError: a class has no mask in any case, or masks have an order where there are none.
    """
    masks = list(dict.fromkeys(name for case in dataset.cases for name in case.masks))
    if not masks:
        if recipe.preprocessing.mask_order and dataset.cases:
            raise RecipeError(f"mask_order belongs to data with a mask per organ; {dataset.root} has label maps")
        return ()
    if missing := [name for name in recipe.classes.foreground if name not in masks]:
        raise RecipeError(f"{dataset.root}: no case has a mask of {missing[0]}; there are {', '.join(masks)}")
    others = [name for name in masks if name not in recipe.classes.foreground]
    count = "counts" if len(others) == 1 else "count"
    return (f"{plural(len(others), 'mask')} of a case {count} as background: {some(others)}",) if others else ()


def _note_of_modalities(recipe: ResolvedRecipe) -> tuple[str, ...]:
    """Return what to say where a way to combine modalities is asked for and there is one only."""
    names = recipe.preprocessing.modalities
    if recipe.maps.modalities != "joint" or len(names) > 1:
        return ()
    return (f"--modalities joint makes no difference: there is one modality, {names[0]}",)


def make_plan(
    dataset: Dataset,
    recipe: ResolvedRecipe,
    out: Path,
    name: str,
    reuse: Reuse | None = None,
    part: Part | None = None,
) -> Plan:
    """Return the plan of a run over a data set.

    A case is finished if both stores hold it, made from the same sources, and those files have not changed since.
    """
    volumes, labels = out / VOLUMES, out / f"{name}.zarr"
    known_sources = state.known_sources(out)
    prepared, mapped = _sources_in(volumes), _sources_in(labels)
    ids = sorted([*(case.id for case in dataset.cases), *(problem.case_id for problem in dataset.problems)])
    chosen = set(part.of(ids) if part else ids)
    tasks: list[Task] = []
    finished: list[str] = []
    fitting_volumes: set[str] = set()
    problems = [problem for problem in dataset.problems if problem.case_id in chosen]
    for case in (case for case in dataset.cases if case.id in chosen):
        try:
            stamps = state.source_stamps(source_files(case))
        except OSError as error:
            problems.append(Problem(case_id=case.id, reason=f"{error.filename}: cannot be read: {error.strerror}"))
            continue
        source = mapped.get(case.id)
        known = known_sources.get(case.id, {}).get(stamps, ())
        if case.id in prepared and state.source_digest(prepared[case.id]) in known:
            fitting_volumes.add(case.id)
        if source is not None and source == prepared.get(case.id) and state.source_digest(source) in known:
            finished.append(case.id)
        else:
            tasks.append(Task(case=case, recipe=recipe, volumes=volumes, labels=labels, reuse=reuse))
    again = sorted({task.case.id for task in tasks} | {problem.case_id for problem in problems})
    return Plan(
        dataset=dataset,
        recipe=recipe,
        out=out,
        name=name,
        tasks=tuple(tasks),
        finished=tuple(finished),
        problems=tuple(problems),
        stale=tuple(
            case
            for case in again
            if os.path.lexists(labels / case) or (os.path.lexists(volumes / case) and case not in fitting_volumes)
        ),
        strays=tuple(sorted({*mapped, *prepared} - set(ids))),
        part=part,
        run=state.next_run(out),
    )


def describe(plan: Plan) -> str:
    """Return what a run is about to do, in a few lines."""
    maps = plan.recipe.maps
    metric = f"λ = {maps.lam:g}" if maps.metric == "gradient" else f"γ = {maps.gamma:g}"
    if maps.contrast != "none":
        metric += f", contrast at the {maps.contrast} = 1"
    if maps.control != "none":
        metric += f", image {maps.control}"
    names = ", ".join(f"{label.value} {label.name}" for label in plan.recipe.classes if label.value != 0)
    lines = [
        f"{plan.dataset.layout}: {plural(len(plan.dataset.cases), 'case')}, classes {names}",
        f"seeds {maps.seeds}, {maps.metric} metric ({metric}), {maps.iterations} iterations, decay {maps.decay}, "
        f"background {maps.background}, modalities {maps.modalities}, engine {maps.engine}",
    ]
    if plan.part:
        lines.append(f"part {plan.part}: {plural(len(plan.tasks) + len(plan.finished), 'case')}")
    if plan.finished:
        lines.append(f"finished already: {plural(len(plan.finished), 'case')}")
    lines += [f"note: {note}" for note in plan.dataset.notes]
    if plan.strays:
        lines.append(
            f"note: {plural(len(plan.strays), 'case')} of the stores, not in {plan.dataset.root}, stay in them, unless "
            f"--prune is given: {some(plan.strays)}"
        )
    return "\n".join(lines)


def _sources_in(store: Path) -> dict[str, Mapping[str, Any]]:
    """Return the fingerprints of a store's cases; one that was edited since its manifest was written is left out."""
    return {case: geols["source"] for case, geols in whole_cases(store, manifest_digests(store))}


def _checked_name(name: str) -> str:
    """Return the label store's name without a .zarr ending.

    Raises:
        RecipeError: it is not a plain file name, or the name of the volumes.
    """
    name = name.removesuffix(".zarr")
    if not is_case_id(name) or name == "volumes":
        raise RecipeError(f"--name {name!r}: use letters, digits, '.', '_' and '-', and not 'volumes'")
    return name
