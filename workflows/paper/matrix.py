"""The matrix of a study: which label stores it needs, which networks it trains, and which of them an experiment shows.

A study is a TOML file:

    title, attribution, obtain   what the data set is, whom to credit, and where to get it
    structures                   the classes or regions that are reported
    repeats                      trainings of each kind, with random seeds 0, 1, ...
    [precompute], [train]        flags of every geols-precompute and every geols-train
    [[experiments]]              a name, and lists of what is varied in it; all combinations are trained. Or a name and
                                 `kinds`, tables of what each kind of training is and by which `name` it goes
    metrics                      columns of test_cases.csv that the tables have, if not those of `METRICS`

An experiment may vary `method`, `alpha` and `normalize`, and every flag of geols-precompute that takes one value
(`seeds`, `preset`, `iterations`, ...). What it does not name is as in `USUAL`. Equal trainings of several experiments
are done once.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geols_precompute.errors import RecipeError
from geols_precompute.recipe.parameters import PRESETS

#: What an experiment that does not say otherwise does.
USUAL: Mapping[str, Any] = {
    "method": "geols", "alpha": 0.1, "normalize": "sum", "preset": "default", "seeds": "skeleton",
}  # fmt: skip
#: What is chosen when maps are loaded; everything else is a flag of geols-precompute.
AT_LOAD = ("method", "alpha", "normalize")
#: What is reported of a study that does not say: the paper's metrics, and the calibration error.
METRICS = ("dice", "surface_dice", "hd95_mm", "ece")
_TABLES = {"precompute", "train", "experiments"}
_KEYS = {"title", "attribution", "obtain", "structures", "repeats", *_TABLES}
_OPTIONAL = {"metrics"}


@dataclass(frozen=True, kw_only=True)
class LabelStore:
    """A label store: its name, and the flags that set it apart from others of the study."""

    name: str
    flags: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: method, what of α and normalisation the method reads, its label store (geols only), its repeat."""

    method: str
    alpha: float | None
    normalize: str | None
    labels: LabelStore | None
    repeat: int

    @property
    def kind(self) -> str:
        """A name of all repeats together, which is their folder's, for example `geols-0.1-skeleton`."""
        parts = [self.method, *([f"{self.alpha:g}"] if self.alpha is not None else [])]
        parts += [self.labels.name] if self.labels else []
        return "-".join([*parts, *(["none"] if self.normalize == "none" else [])])

    @property
    def folder(self) -> Path:
        """The run folder below that of all runs."""
        return Path(self.kind) / f"repeat-{self.repeat + 1}"

    def flags(self) -> dict[str, Any]:
        """Return what this training asks of geols-train, beside what all trainings of the study do."""
        flags = {"method": self.method, "alpha": self.alpha, "normalize": self.normalize, "random-seed": self.repeat}
        labels = {"labels": self.labels.name} if self.labels else {}
        return labels | {name: value for name, value in flags.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A name, and its trainings by what was varied: ({"alpha": 0.05}, its repeats), ...; of a kind, {"name": name}."""

    name: str
    varied: tuple[tuple[dict[str, Any], tuple[Training, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a TOML file asks for."""

    title: str
    attribution: str
    obtain: str
    structures: list[str]
    repeats: int
    precompute: Mapping[str, Any]
    train: Mapping[str, Any]
    experiments: tuple[Experiment, ...]
    metrics: Sequence[str] = METRICS

    def trainings(self) -> list[Training]:
        """Return every training once; first the first repeat of all, so that what is cut short can be compared."""
        found = {t: None for e in self.experiments for _, repeats in e.varied for t in repeats}
        return sorted(found, key=lambda training: training.repeat)


def usual_training() -> Training:
    """Return the training in which nothing is varied."""
    return _training(USUAL, 0)


def read_study(path: Path) -> Study:
    """Read a study.

    Raises:
        RecipeError: it is not TOML, or a key is missing or unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error
    if odd := sorted((document.keys() - _OPTIONAL) ^ _KEYS):
        raise RecipeError(f"{path}: {'unknown' if odd[0] in document else 'missing'} key {odd[0]!r}")
    tables = [part for table in document["experiments"] for part in (table, *table.get("kinds", ()))]
    varied = {name for table in tables for name in table}
    if twice := sorted(varied & {*document["precompute"], *document["train"]}):
        raise RecipeError(f"{path}: {twice[0]!r} is varied in an experiment; it cannot be set for all of them, too")
    repeats = document["repeats"]
    experiments = tuple(_experiment(path, table, repeats) for table in document["experiments"])
    return Study(**{key: value for key, value in document.items() if key != "experiments"}, experiments=experiments)


def _experiment(path: Path, table: Mapping[str, Any], repeats: int) -> Experiment:
    if kinds := table.get("kinds"):
        return Experiment(
            name=table["name"],
            varied=tuple(
                ({"name": kind.pop("name")}, _repeats({**USUAL, **kind}, repeats)) for kind in map(dict, kinds)
            ),
        )
    lists = {name: values for name, values in table.items() if name != "name"}
    plain = (str, int, float)
    if "name" not in table or not all(
        isinstance(values, list) and values and all(isinstance(value, plain) for value in values)
        for values in lists.values()
    ):
        raise RecipeError(f"{path}: an experiment has a name, and lists of what is varied, got {dict(table)}")
    combinations = (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return Experiment(
        name=table["name"],
        varied=tuple((varied, _repeats({**USUAL, **varied}, repeats)) for varied in combinations),
    )


def _repeats(settings: Mapping[str, Any], repeats: int) -> tuple[Training, ...]:
    return tuple(_training(settings, repeat) for repeat in range(repeats))


def _training(settings: Mapping[str, Any], repeat: int) -> Training:
    """Return a training without the settings that its method does not read: equal numbers are computed once."""
    method, alpha = settings["method"], float(settings["alpha"])
    if method in ("geols", "ls") and alpha == 0:
        method = "ce"  # to the bit, as the tests of the trainer prove
    geols = method == "geols"
    return Training(
        method=method, alpha=alpha if method in ("geols", "ls") else None,
        normalize=settings["normalize"] if geols else None, labels=_label_store(settings) if geols else None,
        repeat=repeat,
    )  # fmt: skip


def _label_store(settings: Mapping[str, Any]) -> LabelStore:
    """Return the label store of some settings, which names only what differs from its preset and from `USUAL`."""
    flags = {name: value for name, value in settings.items() if name not in AT_LOAD}
    preset, seeds = flags.pop("preset"), flags.pop("seeds")
    others = {name: value for name, value in sorted(flags.items()) if PRESETS[preset].get(name) != value}
    unusual = {} if preset == USUAL["preset"] else {"preset": preset}
    name = "-".join([*unusual.values(), seeds, *(f"{name}-{value}" for name, value in others.items())])
    return LabelStore(name=name, flags=(*unusual.items(), ("seeds", seeds), *others.items()))


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Return flags as a command line has them: {"crop": [8, 8, 8]} is --crop 8 8 8, {"cache": "ram"} is --cache ram."""
    arguments: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        else:
            values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
            arguments += [f"--{name}", *map(str, values)]
    return arguments
