"""Run: from a configuration to a folder with a trained and tested network."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from geols_precompute.atomic import made_for, readers_of, refuse_link, remove_abandoned, replace_file
from geols_precompute.data.orientation import mixed, orientation_of
from geols_precompute.errors import InputError, OutputError, RecipeError
from geols_precompute.formatting import plural, printable_lines
from geols_precompute.progress import show_progress
from geols_train.checkpoint import NetworkSpec, load_network
from geols_train.config import OWN_SETTINGS, TrainConfig, options, read_toml, require_size, smallest_size
from geols_train.data import CaseReader
from geols_train.device import World, avoid_amx, choose_device, explain_out_of_memory, join_world
from geols_train.evaluate import PLACES, mean_and_std, ranked, structure_indices, summarise, write_cases
from geols_train.folder import (
    BEST,
    CASES,
    CONFIG,
    SPLIT,
    SUMMARY,
    claimed,
    read_json,
    refuse_data,
    require_free,
    writing_run,
)
from geols_train.forecast import cpu_note, levels_note, padding_note
from geols_train.metrics import tolerance_for
from geols_train.pictures import draw_cases, draw_curves
from geols_train.softening import Softening
from geols_train.splits import Split, checked_split, make_split, read_split
from geols_train.stores import Stores, notes_of_data, open_stores, require_fit, require_same_stores
from geols_train.targets import METHODS
from geols_train.training import Trainer
from geols_train.unet import require_normalisable

#: What differs between repeats, in a summary; the other entries say what all of them did.
MEASURED = ("best_epoch", "validation_dice", "mean_foreground_dice", "ece", "calibration", "structures")
MOST_VOXELS_PER_AXIS = 128


def train_and_test(config: TrainConfig, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, test and draw what the configuration asks for; return the summary.

    The folder receives config.toml, split.json, log.jsonl, best.pt, last.pt, test_cases.csv, summary.json, curves.png
    and cases.png; with several repeats, a folder repeat-N each, and summary.json holds {mean, std} over them. Nobody
    reads what is made in it who cannot read the volumes.

    Raises:
        GeolsError: of the kind that fits, before anything is trained where that can be known.
        Stopped: a signal came; resume goes on.
    """
    device = choose_device(config.device)
    avoid_amx(device, config.precision)
    with join_world(device) as world:
        return _train_and_test(config, folder, world, resume=resume)


def _train_and_test(config: TrainConfig, folder: Path, world: World, *, resume: bool) -> dict[str, Any]:
    if config.batch_size < world.size:
        raise RecipeError(
            f"--batch-size {config.batch_size} is of all {world.size} processes together: give at least {world.size}"
        )
    stores = open_stores(config.data, config.labels, maps_needed=METHODS[config.method].needs_maps)
    if resume:
        split = checked_split(read_split(folder / SPLIT), stores.cases, folder / SPLIT)
    else:
        refuse_data(folder, config.data, stores.volumes.path.parent)
        require_free(folder)
        split = make_split(config.split, stores.cases, seed=config.split_seed, group=config.group)
    require_fit(stores, split.cases)
    if lacking := sorted(set(stores.volumes.cases) ^ set(stores.cases)):
        part = "has no maps and takes no part" if len(lacking) == 1 else "have no maps and take no part"
        click.echo(f"note: {plural(len(lacking), 'case')} {part}: {', '.join(lacking[:5])}")
    if world.is_main:
        for note in notes_of_data(stores):
            click.echo(f"note: {note}")
    if text := mixed(Counter(orientation_of(stores.volumes.metadata(case).geometry) for case in split.cases)):
        click.echo(f"note: {text}; geols-precompute --orientation RAS turns all to one")
    config = with_tolerance(with_size(config, stores, split.cases), stores, split.cases)
    spec = make_spec(config, stores)
    require_normalisable(spec.window, len(spec.preprocessing.modalities), spec.features, config.size_flag)
    if config.checkpoint == "regions" and not spec.regions:
        raise RecipeError("--checkpoint regions: the recipe of these stores has no regions; take dice or loss")
    if world.is_main:
        shapes = [stores.volumes.metadata(case).geometry.shape_zyx for case in split.cases]
        slow = cpu_note(config, spec, len(split.train)) if world.device.type == "cpu" else ""
        for note in filter(None, (padding_note(config, shapes), levels_note(config, shapes), slow)):
            click.echo(f"note: {note}")
    with ExitStack() as held:
        # pictures show images, tables name cases, and a network may remember what it has learnt from
        held.enter_context(made_for(readers_of(stores.files(split.cases), folder)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror}); name another folder with --out") from error
        if world.is_main:
            with writing_run(folder):
                held.enter_context(claimed(folder))
            if not resume:
                require_free(folder)  # once more: another training may have come and gone
        reader = make_reader(config, stores, split)
        if world.is_main:
            _write_settings(config, split, folder)
        if config.repeats == 1:
            return train_once(config, reader, split, spec, folder, config.random_seed, world, resume=resume)
        return _train_repeats(config, reader, split, spec, folder, world, resume=resume)


def _write_settings(config: TrainConfig, split: Split, folder: Path) -> None:
    """Write config.toml and split.json, and remove what a crash left half written."""
    with writing_run(folder):
        for place in (folder, *folder.glob("repeat-*")):
            if not place.is_symlink():
                remove_abandoned(place)
        replace_file(folder / CONFIG, config.to_toml().encode())
        _write_json(folder / SPLIT, split.as_json())


def _train_repeats(
    config: TrainConfig,
    reader: CaseReader,
    split: Split,
    spec: NetworkSpec,
    folder: Path,
    world: World,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Train and test with one seed after the other; write and return the summary of all."""
    summaries = []
    for repeat in range(config.repeats):
        later = config.repeats - repeat - 1
        below = folder / f"repeat-{repeat + 1}"
        with writing_run(below):
            refuse_link(below)
            below.mkdir(exist_ok=True)
        seed = config.random_seed + repeat
        summaries.append(train_once(config, reader, split, spec, below, seed, world, resume=resume, later=later))
    measured = mean_and_std([{name: summary[name] for name in MEASURED} for summary in summaries])
    summary = {"repeats": config.repeats, **summaries[0], **measured}
    if world.is_main:
        with writing_run(folder):
            _write_json(folder / SUMMARY, summary)
    return summary


def train_once(
    config: TrainConfig,
    reader: CaseReader,
    split: Split,
    spec: NetworkSpec,
    folder: Path,
    seed: int,
    world: World,
    *,
    resume: bool,
    later: int = 0,
) -> dict[str, Any]:
    """Train one network, test the best of its epochs, and write and return the summary.

    `later` trainings of the run follow this one: they count in the time that is left.
    """
    if resume and (done := _finished(folder, config.epochs, reader.store_digests(), spec)):
        return done
    with explain_out_of_memory("--features (now " + ",".join(map(str, config.features)) + ")"):
        trainer = Trainer(config, reader, split, spec, folder, seed, world)
    if resume:
        trainer.restore()
    click.echo(printable_lines(describe(config, split, trainer)))
    state = trainer.train(later=later)
    _, network = load_network(folder / BEST, trainer.device)
    evaluator, results = trainer.evaluator, []
    # nnU-Net's folds have no test cases: the validation cases are then reported, and the summary says so
    part = "test" if split.test else "validation"
    mine = world.shard(getattr(split, part))
    with show_progress(len(mine), part) as ended:
        for case in mine:
            results.append(evaluator.measure(network, case))
            ended(case, "")
    results = world.gather(results)
    summary = {
        "method": config.method,
        "alpha": config.alpha if METHODS[config.method].uses_alpha else None,
        "epochs": config.epochs,
        "best_epoch": state.best_epoch,
        "validation_dice": state.best_dice,
        "tested_on": part,
        "eval": config.eval,
        "checkpoint": config.checkpoint,
        "surface_tolerance_mm": config.surface_tolerance,
        **summarise(results, spec),
        "stores": reader.store_digests(),
    }
    if world.is_main:
        shown = [(result, *evaluator.predict(network, result.case)) for result in ranked(results, spec)]
        with writing_run(folder):
            draw_curves(folder)
            write_cases(folder / CASES, results)
            draw_cases(folder, shown, spec)
            _write_json(folder / SUMMARY, summary)
    return summary


def run_name(config: TrainConfig) -> str:
    """Return a folder name that says what sets a run apart, for example `hippocampus-labels-geols-0.1`."""
    method = METHODS[config.method]
    parts = [name] if (name := dataset_name(config.data)) else []
    parts += [Path(config.labels).name.removesuffix(".zip").removesuffix(".zarr")] if method.needs_maps else []
    return "-".join([*parts, config.method, *(f"{value:g}" for value in _own_settings(config).values())])


def _own_settings(config: TrainConfig) -> dict[str, float]:
    """Return the settings that the method reads and not every method does, by name."""
    own = {"α": config.alpha} if METHODS[config.method].uses_alpha else {}
    return own | {name: getattr(config, name) for name in OWN_SETTINGS if getattr(config, name) is not None}


def dataset_name(data: Path) -> str:
    """Return how a person calls a data set: the last part of its path that is not data or geols; empty if none is.

    A path such as `.` or `..` is looked up first. `data`, the default, has no name.
    """
    path = data.resolve() if data.name in ("", "..") else data
    return next((part for part in reversed(path.parts) if part not in ("data", "geols", "..", "/")), "")


def describe(config: TrainConfig, split: Split, trainer: Trainer) -> str:
    """Return what a training is about to do, in two lines."""
    units = {"width": " classes" if config.method == "nuls" else " mm"}
    own = ", ".join(f"{name} {value:g}{units.get(name, '')}" for name, value in _own_settings(config).items())
    smooth = f" ({own})" if own else ""
    parts = (
        f"{plural(len(split.train), 'case')} to train, {len(split.validation)} to validate, {len(split.test)} to test"
    )
    parameters = sum(p.numel() for p in trainer.network.parameters())
    device = str(trainer.device) if trainer.world.size == 1 else f"{trainer.world.size} × {trainer.device.type}"
    return (
        f"{config.method}{smooth}: {parts}\n{'window' if config.window else 'crop'} "
        f"{' '.join(map(str, trainer.spec.window))}, {parameters:,} parameters, {device}, {trainer.precision}"
    )


def resumed_config(folder: Path, given: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of the run in `folder`, with the flags that are given anew.

    What changes none of the run's numbers may change: where it runs. It may also go on longer, if no schedule depends
    on the number of epochs.

    Raises:
        InputError: there is no run.
        RecipeError: a flag would change the numbers of the run, or its config.toml is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} holds no run to resume (no {CONFIG}); name it with --out, or leave out --resume")
    saved = read_toml(folder / CONFIG)
    try:
        before = TrainConfig.from_mapping(saved)
    except RecipeError as error:
        raise RecipeError(f"{folder / CONFIG}: {error}; restore it, or start another run with --out") from error
    # a default in place of what is lost would train on with other settings
    if lost := [name for name in tomllib.loads(before.to_toml()) if name not in saved]:
        raise RecipeError(f"{folder / CONFIG}: lacks {', '.join(lost)}; restore it, or start another run with --out")
    now = TrainConfig.from_mapping({**saved, **given})
    old, new = asdict(before), asdict(now)
    may_change = {name for name, option in options().items() if option.may_change}
    if now.schedule == "constant" and now.epochs > before.epochs:
        may_change.add("epochs")
    if changed := [name for name in new if new[name] != old[name] and name not in may_change]:
        listed = ", ".join(f"{name} {old[name]} (now {new[name]})" for name in changed)
        raise RecipeError(f"{folder} was trained with {listed}; leave that as it was, or start another run with --out")
    return now


def with_size(config: TrainConfig, stores: Stores, cases: Sequence[str]) -> TrainConfig:
    """Return the configuration with a crop: its own, else the recipe's, else the median size of the cases.

    The median size is rounded up to multiples of 8, at most 128 and at least what the network's levels need.

    Raises:
        RecipeError: the recipe's crop is smaller than the network's levels allow.
    """
    if config.crop or config.window:
        return config
    crop = stores.hints.crop
    if crop is None:
        median = np.median([stores.volumes.metadata(case).geometry.shape_zyx for case in cases], axis=0)
        least = smallest_size(config.features)
        z, y, x = (max(least, min(MOST_VOXELS_PER_AXIS, 8 * math.ceil(n / 8))) for n in median)
        crop = (z, y, x)
    require_size(crop, config.features, "the recipe's crop")
    return replace(config, crop=crop)


def with_tolerance(config: TrainConfig, stores: Stores, cases: Sequence[str]) -> TrainConfig:
    """Return the configuration with a tolerance of surface Dice: its own, else that of `tolerance_for`."""
    if config.surface_tolerance:
        return config
    longest = (max(stores.volumes.metadata(case).geometry.spacing_zyx) for case in cases)
    return replace(config, surface_tolerance=tolerance_for(longest))


def make_spec(config: TrainConfig, stores: Stores) -> NetworkSpec:
    """Return what the network of this run takes and gives."""
    window = config.window or config.crop
    assert window is not None
    return NetworkSpec(
        features=config.features,
        classes=stores.classes,
        preprocessing=stores.preprocessing,
        skull_stripped=stores.hints.skull_stripped,
        window=window,
        overlap=config.overlap,
        regions=stores.hints.regions,
    )


def make_reader(config: TrainConfig, stores: Stores, split: Split) -> CaseReader:
    """Return a reader of every case in the split; each is read once, to find damage and to measure intensities."""
    needed = METHODS[config.method].needs_maps
    reader, zscores = CaseReader(stores=stores, maps_needed=needed, softening=Softening.of(config)), {}
    with show_progress(len(split.cases), "reading") as ended:
        for case in split.cases:
            zscores[case] = reader.examined(case)
            ended(case, "")
    return replace(reader, zscores=zscores)


def _finished(folder: Path, epochs: int, digests: Mapping[str, str], spec: NetworkSpec) -> dict[str, Any] | None:
    """Return the summary of a training that is done, if it is; it must have read the stores that are there now.

    Raises:
        InputError: the summary is damaged.
        StoreError: the stores have changed.
    """
    path = folder / SUMMARY
    if not os.path.lexists(path):
        return None
    summary = read_json(path)
    if not _is_summary(summary, spec):
        raise InputError(f"{path}: not the summary of this training; restore it, or move it away: it is written again")
    require_same_stores(path, summary["stores"], digests)
    return summary if summary["epochs"] == epochs else None


def _is_summary(document: Mapping[str, Any], spec: NetworkSpec) -> bool:
    """Whether a document has what is read of a summary."""
    structures, numbers = document.get("structures"), [document.get(name, "") for name in MEASURED[:-2]]
    calibration = document.get("calibration")
    if not isinstance(structures, dict) or set(structures) != set(structure_indices(spec)):
        return False
    if not isinstance(calibration, dict) or set(calibration) != set(PLACES):
        return False
    for found in calibration.values():
        if not isinstance(found, dict):
            return False
        numbers += [found.get(name, "") for name in ("ece", "brier", "nll")]
    for found in structures.values():
        if not isinstance(found, dict):
            return False
        numbers += [found.get(name, "") for name in ("dice", "surface_dice", "hd95_mm")]
    return (
        isinstance(document.get("stores"), dict)
        and isinstance(document.get("epochs"), int)
        and all(number is None or isinstance(number, int | float) for number in numbers)
    )


def _write_json(path: Path, document: Any) -> None:
    """Write a JSON document for people and programs; a number that is NaN or infinite is a ValueError."""
    replace_file(path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
