"""Are networks better that learn soft labels of one rater? Stores, trainings, scores and tables, by our own trainer.

    python workflows/raters/train.py run DATA --classes 1=nodule --group DATA/cases.json -o OUT
    python workflows/raters/train.py tables -o OUT  # once more

`run` computes the stores, trains every method with every seed on rater 1 of one half of the patients, scores it against
the other raters of the other half, and makes the tables; what is done is not done again. --part K/N does every N-th
training, on several cores, and leaves the tables to `tables`. With --trial, `run` scores the validation cases, of the
half that trains: for choosing settings.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy import ndimage

from geols_precompute.agreement.cases import from_volumes
from geols_precompute.agreement.patients import halves
from geols_precompute.agreement.scores import Border, energy_distance
from geols_precompute.arrays import BoolArray, Float64Array
from geols_precompute.atomic import replace_file
from geols_precompute.data.patients import read_patients
from geols_precompute.data.rows import csv_rows
from geols_precompute.store.reader import VolumeStore
from geols_train.checkpoint import load_network
from geols_train.config import TrainConfig
from geols_train.evaluate import Evaluator
from geols_train.folder import BEST
from geols_train.metrics import dice
from geols_train.run import make_reader, make_spec, train_and_test
from geols_train.splits import Split
from geols_train.stores import open_stores

sys.path.append(str(Path(__file__).parents[1] / "paper"))
from significance import estimate

RATER = "1"
SPLIT_SEED = 0
SEEDS = 5
#: Of the half that trains, the share of patients whose cases choose the epoch.
VALIDATION = 0.2
#: Label stores by name, and the flags that make them.
STORES = {
    "default": "",
    "border": "--preset border",
    "border-no-image": "--preset border --gamma 0",
    "border-shuffled": "--preset border --control shuffled",
}
#: What is trained, by name: the settings in which it differs. α = 0.85 is what the search of the first study chose for
#: the recipe that became the preset `border`; the controls differ from it in the image alone.
METHODS: dict[str, dict[str, Any]] = {
    "CE": {"method": "ce"},
    "LS": {"method": "ls", "alpha": 0.1},
    "SVLS": {"method": "svls"},
    "Gaussian": {"method": "gauss", "width": 0.75},
    "GeoLS-default": {"method": "geols", "labels": "default", "alpha": 0.1},
    "GeoLS-border": {"method": "geols", "labels": "border", "alpha": 0.85},
    "GeoLS-border-no-image": {"method": "geols", "labels": "border-no-image", "alpha": 0.85},
    "GeoLS-border-shuffled": {"method": "geols", "labels": "border-shuffled", "alpha": 0.85},
    "mean-of-raters": {"method": "raters"},
}
#: The same for all: a small network, chosen by trials of CE.
SETTINGS: dict[str, Any] = {
    "features": (8, 16, 32),
    "window": (8, 32, 32),
    "overlap": 0.25,
    "eval": "crop",
    "epochs": 12,
    "batch_size": 4,
    "lr": 3e-3,
    "schedule": "poly",
    "augment": "flips",
    "device": "cpu",
    "precision": "float32",
    "workers": 0,
    "cache": "ram",
}
#: Brier score and NLL are of the voxels within so many mm of what any rater drew, and of those within.
AROUND_MM = 3.0
SCORES = ("dice", "soft_dice", "brier", "nll", "ged")
#: Whom the others are compared with.
RIVALS = ("CE", "SVLS", "GeoLS-border-no-image")
COLUMNS = ("method", "seed", "case", "patient", *SCORES)
_OUT = click.option("-o", "--out", required=True, type=click.Path(path_type=Path))


@click.group()
def study() -> None:
    """Networks trained on soft labels of one rater, against the other raters."""


@study.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--classes", required=True, help="Name of the label value: 1=nodule.")
@click.option("--group", required=True, type=click.Path(exists=True, path_type=Path), help="Case to patient.")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="Which, by name.")
@click.option("--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True, help="How many.")
@click.option("--epochs", type=click.IntRange(min=1), default=SETTINGS["epochs"], show_default=True)
@click.option("--part", default="1/1", show_default=True, help="K/N: every N-th training, the K-th first.")
@click.option("--trial", is_flag=True, help="Score the validation cases; the test half is left alone.")
@_OUT
def run(
    data: Path, classes: str, group: Path, methods: str, seeds: int, epochs: int, part: str, trial: bool, out: Path
) -> None:
    """Compute the stores, and train and score whatever is not done yet."""
    first, step = _part(part)
    if unknown := set(methods.split(",")) - set(METHODS):
        raise click.BadParameter(f"no method {min(unknown)}; there are {', '.join(METHODS)}")
    for name, flags in STORES.items():
        _precompute(data, classes, out, name, flags.split())
    volumes = VolumeStore.open(out / "volumes.zarr")
    patients = read_patients(group, volumes.cases)
    split = split_by_patient(patients)
    torch.set_num_threads(1)
    # seed by seed, so that a study that is stopped has all methods with the same seeds
    runs = [(method, seed) for seed in range(seeds) for method in methods.split(",")]
    for method, seed in runs[first::step]:
        folder = out / ("trials" if trial else "trainings") / method / f"seed-{seed}"
        if not (folder / "scores.csv").exists():
            tested = split.validation if trial else split.test
            train_and_score(method, seed, epochs, replace(split, test=()), tested, patients, folder, out)
    if step == 1:
        make_tables(out, trial=trial)


def train_and_score(
    method: str,
    seed: int,
    epochs: int,
    split: Split,
    tested: Sequence[str],
    patients: Mapping[str, str],
    folder: Path,
    out: Path,
) -> None:
    """Train one network, and write its scores of the cases that are tested, a row for each, as scores.csv."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    listed = folder.with_name(f"{folder.name}-split.json")
    replace_file(listed, json.dumps(split.as_json()).encode())
    settings = {**SETTINGS, **METHODS[method], "epochs": epochs, "random_seed": seed}
    config = TrainConfig(data=out, split=str(listed), **settings)
    train_and_test(config, folder, resume=(folder / "config.toml").exists())
    stores = open_stores(out, config.labels, maps_needed=False)
    reader = make_reader(TrainConfig(method="ce"), stores, Split(train=(), validation=(), test=tuple(tested)))
    spec, network = load_network(folder / BEST, torch.device("cpu"))
    assert spec == make_spec(config, stores)
    # the tolerance is of scores that are not asked for
    evaluator = Evaluator(reader=reader, spec=spec, extent="whole", precision="float32", tolerance_mm=1.0)
    rows = []
    for case in tested:
        _, probabilities = evaluator.predict(network, case)
        scores = scores_of(stores.volumes, case, probabilities[1].double().numpy())
        rows.append([method, seed, case, patients[case], *(f"{scores[name]:.6g}" for name in SCORES)])
    write_csv(folder / "scores.csv", COLUMNS, rows)


def scores_of(volumes: VolumeStore, case: str, p_ZYX: Float64Array) -> dict[str, float]:
    """Return the scores of foreground probabilities [z,y,x] against the raters whose label was not trained on.

    - dice: of p > 1/2 with each rater, the mean; 1 if both are empty.
    - soft_dice: 1 - Σ|p - t| / Σ(p + t) with the mean of the raters t: like Dice for hard p and t, 1 only where p = t.
    - brier, nll: means of (p - t)² and of -t·log p - (1-t)·log(1-p) in nats, p kept 1e-6 from 0 and 1, near the nodule.
    - ged: squared generalised energy distance of the level sets of p to the raters, with d = 1 - IoU.
    """
    rated = from_volumes(volumes, case)
    others_RZYX = rated.others == 1
    t_ZYX = others_RZYX.mean(axis=0)
    near = near_raters(np.concatenate([others_RZYX, [rated.label == 1]]), rated.spacing)
    p, t = p_ZYX[near].clip(1e-6, 1 - 1e-6), t_ZYX[near]
    everywhere = np.ones(p_ZYX.shape, bool)
    whole = Border(label=rated.label == 1, band=everywhere, inner=everywhere, outer=everywhere)
    return {
        "dice": float(np.mean([dice(p_ZYX > 0.5, other) for other in others_RZYX])),
        "soft_dice": float(1 - np.abs(p_ZYX - t_ZYX).sum() / (p_ZYX + t_ZYX).sum()),
        "brier": float(np.square(p - t).mean()),
        "nll": float(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean()),
        "ged": energy_distance(p_ZYX, whole, others_RZYX),
    }


def near_raters(raters_RZYX: BoolArray, spacing: tuple[float, float, float]) -> BoolArray:
    """Return the voxels [z,y,x] that any rater drew, and those within AROUND_MM of them."""
    distance = ndimage.distance_transform_edt(~raters_RZYX.any(axis=0), sampling=spacing)
    near: BoolArray = distance <= AROUND_MM * (1 + 1e-6)
    return near


def split_by_patient(patients: Mapping[str, str]) -> Split:
    """Return the split: the halves of the first study, and of the fit half every fifth patient validates."""
    half = halves(patients, SPLIT_SEED)
    learning = sorted({patient for case, patient in patients.items() if half[case] == "fit"})
    order = np.random.default_rng(SPLIT_SEED + 1).permutation(len(learning))
    validating = {learning[place] for place in order[: round(VALIDATION * len(learning))]}
    fit = [case for case in sorted(patients) if half[case] == "fit"]
    return Split(
        train=tuple(case for case in fit if patients[case] not in validating),
        validation=tuple(case for case in fit if patients[case] in validating),
        test=tuple(case for case in sorted(patients) if half[case] == "test"),
    )


# --- tables -----------------------------------------------------------------------------------------------------------


@study.command()
@click.option("--trial", is_flag=True, help="Of the trials.")
@_OUT
def tables(trial: bool, out: Path) -> None:
    """Print the means, with intervals for other seeds and patients; write trainings.csv, and trainings-cases.csv."""
    make_tables(out, trial=trial)


def make_tables(out: Path, *, trial: bool) -> None:
    """Make the tables of all trainings that are done; each method must have the same seeds."""
    name = "trials" if trial else "trainings"
    rows = [row for path in sorted((out / name).glob("*/seed-*/scores.csv")) for row in csv_rows(path)]
    write_csv(out / f"{name}-cases.csv", COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    found = [method for method in METHODS if any(row["method"] == method for row in rows)]
    seeds = sorted({int(row["seed"]) for row in rows})
    rivals = [method for method in RIVALS if method in found]
    header = ["method", "score", "seeds", "patients", "mean", "low", "high"]
    header += [f"against_{rival}{end}" for rival in rivals for end in ("", "_low", "_high")]
    table = []
    for score in SCORES:
        values = {method: by_seed_and_patient(rows, method, score, seeds) for method in found}
        for method in found:
            differences = [estimate(values[method] - values[rival]) for rival in rivals]
            intervals = [(e.mean, e.low, e.high) for e in (estimate(values[method]), *differences)]
            table.append([method, score, *values[method].shape, *(f"{v:.6g}" for i in intervals for v in i)])
            shown = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in intervals]
            print(f"{score:10} {method:22}", *shown, sep="  ")
    write_csv(out / f"{name}.csv", header, table)


def by_seed_and_patient(
    rows: Sequence[Mapping[str, str]], method: str, score: str, seeds: Sequence[int]
) -> Float64Array:
    """Return the means over a patient's cases, [seed,patient], patients in ascending order.

    Raises:
        ClickException: a training is missing.
    """
    patients = sorted({row["patient"] for row in rows})
    found: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault((int(row["seed"]), row["patient"]), []).append(float(row[score]))
    if missing := [seed for seed in seeds for patient in patients if (seed, patient) not in found]:
        raise click.ClickException(f"{method} lacks the training with seed {missing[0]}; finish with run")
    return np.array([[np.mean(found[seed, patient]) for patient in patients] for seed in seeds])


# --- files and commands -----------------------------------------------------------------------------------------------


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all."""
    lines = [",".join(map(str, row)) for row in (header, *rows)]
    replace_file(path, ("\n".join(lines) + "\n").encode())


def _part(part: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"--part {part}: give K/N, such as 1/2")
    return int(found[1]) - 1, int(found[2])


def _precompute(data: Path, classes: str, out: Path, name: str, flags: Sequence[str]) -> None:
    """Compute a label store of rater 1, unless it is there."""
    if (out / f"{name}.zarr" / "manifest.json").exists():
        return
    command = ["geols-precompute", str(data), "--classes", classes, "--rater", RATER, "--keep-raters"]
    command += ["--out", str(out), "--name", name, *flags]
    print("$", *command, flush=True)
    status = subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    study()
