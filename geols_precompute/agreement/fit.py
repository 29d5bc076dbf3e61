"""The search for the map parameters whose soft labels predict other raters best, on the patients of one half.

One parameter after the other takes the value with the least Brier score after calibration, round after round until
nothing changes. The calibration is that of the other fold: the half is divided once more by patient. At the end decay
and α, which set how wide the soft label is and do not change the order of voxels, are chosen by the Brier score of the
soft label as it stands. What is scored is written down at once, so that a search that was stopped goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from geols_precompute.agreement.cases import RatedCase, from_volumes
from geols_precompute.agreement.patients import halves
from geols_precompute.agreement.scores import Histogram, Interval, as_it_stands, calibration, interval, over_patients
from geols_precompute.agreement.study import borders_of
from geols_precompute.data.cases import Case
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import InputError
from geols_precompute.formatting import plural
from geols_precompute.maps.case import MapStream
from geols_precompute.recipe.parameters import PRESETS, Decay, MapParameters, ResolvedRecipe
from geols_precompute.run import state
from geols_precompute.run.executor import executor_for
from geols_precompute.run.task import Outcome, Task
from geols_precompute.softlabel import soft_label
from geols_precompute.store.layout import IMAGE
from geols_precompute.store.reader import VolumeStore

#: The values of each parameter. γ is in mm per border contrast.
AXES: dict[str, tuple[dict[str, Any], ...]] = {
    "seeds": tuple(
        {"seeds": seeds}
        for seeds in ("erosion", "boundary", "skeleton", *(f"margin-{w}" for w in ("1", "1.5", "2", "3", "4", "6")))
    ),
    "image": (
        *({"metric": "riemannian", "gamma": gamma} for gamma in (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)),
        *({"metric": "gradient", "lam": lam} for lam in (0.5, 0.9, 1.0)),
    ),
    "background": ({"background": "complement"}, {"background": "seeds"}),
    "iterations": ({"iterations": 4}, {"iterations": "exact"}),
}
#: Where the search begins; the decay is one that 8 bits resolve well.
START = PRESETS["border"] | {"seeds": "erosion", "gamma": 0.0, "decay": 0.25}
ROUNDS = 4
#: A value stays unless another is better by so much: less is rounding.
LEAST_GAIN = 1e-5
#: What is compared at the end. α is given when training, and no recipe holds it.
DECAYS: tuple[Decay, ...] = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, "mean")
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0)
LOG = "fit"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Map parameters and the α of the soft label."""

    maps: MapParameters
    alpha: float = ALPHAS[0]

    def as_json(self) -> dict[str, Any]:
        """Return what decides the soft label."""
        return {"maps": self.maps.as_json(), "alpha": self.alpha}


@dataclass(frozen=True, kw_only=True)
class FitTask(Task):
    """Candidates to measure on one case of the volumes; `labels` is of no use."""

    candidates: tuple[Candidate, ...] = ()
    band_mm: float = 3.0


@dataclass(frozen=True, kw_only=True)
class FitOutcome(Outcome):
    """Histograms of each candidate, by class index."""

    histograms: tuple[dict[int, Histogram], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One decision of the search.

    Attributes:
        parameter: that was varied.
        scores: each value's Brier score, the mean over patients.
        chosen: the value with the least.
        runner_up: the next best.
        difference: chosen minus runner-up, patient by patient.
    """

    parameter: str
    scores: Mapping[str, float]
    chosen: str
    runner_up: str
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the search found.

    Attributes:
        maps: the parameters.
        alpha: of the soft label that is best as it stands.
        brier: after calibration, over the patients of the half.
        choices: the decisions of the last round, and that of decay and α.
        cases, patients: that were scored.
        volumes: digest of the volumes.
        seed: of the split.
        band_mm: how far from the border voxels count.
    """

    maps: MapParameters
    alpha: float
    brier: Interval
    choices: tuple[Choice, ...]
    cases: int
    patients: int
    volumes: str
    seed: int
    band_mm: float


@dataclass(kw_only=True)
class _Search:
    """Measures candidates, each once."""

    measure: Callable[[Sequence[Candidate]], list[dict[str, dict[int, Histogram]]]]
    patients: Mapping[str, str]
    folds: Mapping[str, str]
    log: Path
    key: Mapping[str, Any]
    known: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for record in state.read(self.log):
            if isinstance(record.get("id"), str) and isinstance(record.get("scores"), dict):
                self.known[record["id"]] = record["scores"]

    def scores(self, candidates: Sequence[Candidate], kind: str) -> list[dict[str, float]]:
        """Return the score of each candidate for each patient: `calibrated` or `as_it_stands`."""
        ids = [sha256_hex(canonical_json({**self.key, **candidate.as_json()})) for candidate in candidates]
        missing = {i: candidate for i, candidate in zip(ids, candidates, strict=True) if i not in self.known}
        for i, by_case in zip(missing, self.measure(tuple(missing.values())), strict=True):
            self.known[i] = brier_scores(by_case, self.folds)
            state.append(self.log, {"id": i, "candidate": missing[i].as_json(), "scores": self.known[i]})
        return [over_patients(self.known[i][kind], dict(self.patients)) for i in ids]


def is_log(path: Path) -> bool:
    """Whether a file is a log of scores, or empty."""
    return path.stat().st_size == 0 or any(
        {"id", "candidate", "scores"} <= record.keys() for record in state.read(path)
    )


def fit_recipe(
    volumes: VolumeStore,
    *,
    patients: Mapping[str, str],
    seed: int = 0,
    band_mm: float = 3.0,
    log: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Fit:
    """Choose map parameters by how well they predict the other raters of a volume store.

    Args:
        volumes: the store, which keeps raters.
        patients: of each case.
        seed: of the split by patient; only the half "fit" is looked at.
        band_mm: how far from the border voxels count.
        log: file of scores, from which a stopped search goes on.
        workers: processes on this machine; see `executor_for`.
        scheduler: of a Dask cluster.
        say: gets lines for the user.

    Raises:
        InputError: a case cannot be scored, or none can.
        ClusterError: the workers cannot be had, or are lost.
    """
    half_of = halves(patients, seed)
    cases = [case for case in volumes.cases if half_of[case] == "fit"]
    of_half = {case: patients[case] for case in cases}
    # the same split once more, within the half
    folds = halves(of_half, seed + 1)
    maps = MapParameters().changed(**START)
    recipe = ResolvedRecipe(classes=volumes.classes, preprocessing=volumes.preprocessing, maps=maps)
    tasks = [
        FitTask(
            case=Case(id=case, images=(volumes.path / case / IMAGE.shard_path,), label=None),
            recipe=recipe,
            volumes=volumes.path,
            labels=volumes.path,
            band_mm=band_mm,
        )
        for case in cases
    ]
    executing = executor_for(tasks, recipe, [volumes.path], workers=workers, scheduler=scheduler, say=say)
    with executing as executor:

        def measure(candidates: Sequence[Candidate]) -> list[dict[str, dict[int, Histogram]]]:
            if not candidates:
                return []
            found: list[dict[str, dict[int, Histogram]]] = [{} for _ in candidates]
            for outcome in executor.run(measure_case, [replace(task, candidates=tuple(candidates)) for task in tasks]):
                if not isinstance(outcome, FitOutcome):
                    raise InputError(f"{volumes.path}/{outcome.case}: {outcome.error}")
                for by_case, histograms in zip(found, outcome.histograms, strict=True):
                    by_case[outcome.case] = histograms
            return [dict(sorted(by_case.items())) for by_case in found]

        key = {"volumes": volumes.digest, "patients": of_half, "seed": seed, "band": band_mm}
        search = _Search(measure=measure, patients=of_half, folds=folds, log=log, key=key)
        choices: dict[str, Choice] = {}
        for _ in range(ROUNDS):
            before = maps
            for parameter, values in AXES.items():
                candidates = [Candidate(maps=maps.changed(**value)) for value in values]
                present = next((place for place, c in enumerate(candidates) if c.maps == maps), None)
                words = [_words(value) for value in values]
                choices[parameter], place = _decide(parameter, words, search.scores(candidates, "calibrated"), present)
                maps = candidates[place].maps
                say(describe_choice(choices[parameter]))
            if maps == before:
                break
        widths = [(decay, alpha) for decay in DECAYS for alpha in ALPHAS]
        softened = [Candidate(maps=maps.changed(decay=decay), alpha=alpha) for decay, alpha in widths]
        words = [_words({"decay": decay, "α": alpha}) for decay, alpha in widths]
        choices["width"], place = _decide("width", words, search.scores(softened, "as_it_stands"))
        say(describe_choice(choices["width"]))
        maps, alpha = softened[place].maps, softened[place].alpha
        (best,) = search.scores([Candidate(maps=maps)], "calibrated")
    return Fit(
        maps=maps,
        alpha=alpha,
        brier=interval([*best.values()]),
        choices=tuple(choices.values()),
        cases=len(cases),
        patients=len(best),
        volumes=volumes.digest,
        seed=seed,
        band_mm=band_mm,
    )


def measure_case(task: Task) -> Outcome:
    """Measure the candidates of a task; this is what a worker runs."""
    assert isinstance(task, FitTask)
    try:
        case = from_volumes(_opened(task.volumes), task.case.id)
        histograms = tuple(histograms_of(case, task.candidates, task.recipe, task.band_mm))
        return FitOutcome(case=case.id, status="computed", histograms=histograms)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Outcome(case=task.case.id, status="failed", error=reason, trace=traceback.format_exc())


def histograms_of(
    case: RatedCase, candidates: Sequence[Candidate], recipe: ResolvedRecipe, band_mm: float
) -> list[dict[int, Histogram]]:
    """Return, per candidate, the histogram of every class that has a border in a case."""
    scored = borders_of(case, len(recipe.classes), band_mm)
    found: list[dict[int, Histogram]] = [{} for _ in candidates]
    # candidates that differ in α alone have the same maps
    for parameters in dict.fromkeys(candidate.maps for candidate in candidates) if scored else ():
        maps = (
            MapStream(
                case.image,
                case.label,
                case.spacing,
                parameters=parameters,
                classes=recipe.classes,
                modalities=recipe.preprocessing.modalities,
                case=case.id,
            )
            .whole()
            .class_maps()
        )
        for candidate, histograms in zip(candidates, found, strict=True):
            if candidate.maps == parameters:
                soft_CZYX = soft_label(case.label, maps, alpha=candidate.alpha)
                for index, border in scored.items():
                    target_ZYX = (case.others == index).mean(axis=0)
                    histograms[index] = Histogram.of(soft_CZYX[index][border.band], target_ZYX[border.band])
    return found


def brier_scores(
    by_case: Mapping[str, Mapping[int, Histogram]], folds: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return the Brier score of every case, the mean over its classes: calibrated on the other fold, and as it stands.

    Raises:
        InputError: a fold has no case that can be scored.
    """
    names = sorted(set(folds.values()))
    classes = sorted({index for histograms in by_case.values() for index in histograms})
    probability: dict[tuple[str, int], Any] = {}
    for fold in names:
        for index in classes:
            others = [h[index] for case, h in by_case.items() if folds[case] != fold and index in h]
            if others:
                probability[fold, index] = calibration(others)
    calibrated: dict[str, float] = {}
    plain: dict[str, float] = {}
    for case, histograms in by_case.items():
        usable = {index: h for index, h in histograms.items() if (folds[case], index) in probability}
        if usable:
            scores = [h.brier(probability[folds[case], index]) for index, h in usable.items()]
            calibrated[case] = sum(scores) / len(scores)
            plain[case] = sum(h.brier(as_it_stands()) for h in usable.values()) / len(usable)
    if not calibrated:
        raise InputError(
            f"too few patients with several raters to choose by: the store has {plural(len(folds), 'case')} of their "
            "fit half; two halves of it are needed"
        )
    return {"calibrated": calibrated, "as_it_stands": plain}


def describe_choice(choice: Choice) -> str:
    """Return a decision in one line."""
    d = choice.difference
    said = "decided" if d.decides else "the data do not decide"
    listed = ", ".join(f"{name} {score:.5f}" for name, score in choice.scores.items())
    return (
        f"{choice.parameter}: {choice.chosen}; next {choice.runner_up}, {d.mean:+.5f} [{d.low:+.5f}, {d.high:+.5f}], "
        f"{said} ({listed})"
    )


def recipe_text(fit: Fit) -> str:
    """Return a fitted recipe as TOML, with what it was chosen by in comments."""
    lines = [
        "# Chosen by geols-store fit: the Brier score of the soft label against the mean of the other raters, after",
        f"# calibration, within {fit.band_mm:g} mm of the border; {fit.cases} cases of {fit.patients} patients, the",
        f"# fit half of the split by patient with seed {fit.seed}, of the volumes {fit.volumes[:12]}.",
        f"# Brier {fit.brier.mean:.5f} [{fit.brier.low:.5f}, {fit.brier.high:.5f}].",
        f"# Without calibration the soft label is best at alpha {fit.alpha:g}; alpha is given when training.",
        *(f"# {describe_choice(choice)}" for choice in fit.choices),
        "",
        "[maps]",
    ]
    document = fit.maps.as_json()
    document["engine"] = document["engine"]["name"]
    return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in document.items())]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _words(value: Mapping[str, Any]) -> str:
    names = {"gamma": "γ", "lam": "λ"}
    shown = {name: f"{v:g}" if isinstance(v, float) else str(v) for name, v in value.items()}
    return " ".join(
        text if name in ("seeds", "metric") else f"{names.get(name, name)} {text}" for name, text in shown.items()
    )


def _decide(
    parameter: str, words: Sequence[str], scores: Sequence[Mapping[str, float]], present: int | None = None
) -> tuple[Choice, int]:
    """Return the decision among values, by the means over patients, and the place of the chosen one."""
    means = [sum(by_patient.values()) / len(by_patient) for by_patient in scores]
    order = sorted(range(len(means)), key=lambda place: (means[place], place))
    if present is not None and means[present] - means[order[0]] < LEAST_GAIN:
        order = [present, *(place for place in order if place != present)]
    first, second = order[:2]
    both = [scores[first][patient] - scores[second][patient] for patient in scores[first]]
    return (
        Choice(
            parameter=parameter,
            scores=dict(zip(words, means, strict=True)),
            chosen=words[first],
            runner_up=words[second],
            difference=interval(both),
        ),
        first,
    )


@lru_cache(maxsize=1)
def _opened(path: Path) -> VolumeStore:
    return VolumeStore.open(path)
