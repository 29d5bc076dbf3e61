"""Pipeline: plan -> tasks -> manifests. It resumes, and one failed case never stops the others. No Dask in here."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from geols_precompute.atomic import replace_file, writing_to
from geols_precompute.data.cases import Dataset, Problem
from geols_precompute.digests import canonical_json
from geols_precompute.errors import InputError, OutputError
from geols_precompute.recipe.parameters import Recipe, TrainingHints
from geols_precompute.run import state as runlog
from geols_precompute.run.reuse import Reuse
from geols_precompute.run.task import Outcome, Task, run_case, source_digest
from geols_precompute.store.layout import METADATA, VOLUMES, root_metadata
from geols_precompute.store.writer import (
    amend_manifest,
    committed_case,
    create_store,
    manifest_digests,
    read_attributes,
    refuse_store,
    remove_case,
    require_same_recipe,
    whole_cases,
    write_manifest,
)


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
        strays: cases that the label store holds and the data folder does not.
        part: of the data set that this run does; None is all of it.
    """

    dataset: Dataset
    recipe: Recipe
    out: Path
    name: str
    tasks: tuple[Task, ...]
    finished: tuple[str, ...]
    problems: tuple[Problem, ...]
    strays: tuple[str, ...] = ()
    part: Part | None = None

    @property
    def suffix(self) -> str:
        """What the names of this run's logs end with."""
        return self.part.suffix if self.part else ""

    @property
    def labels(self) -> Path:
        """The label store."""
        return self.out / f"{self.name}.zarr"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended; there is no digest before all parts are done."""

    labels: Path
    digest: str | None
    computed: int
    reused: int
    finished: int
    failures: tuple[Problem, ...]
    notes: tuple[Problem, ...]


class Executor(Protocol):
    """Runs a function over tasks somewhere, a bounded number at a time, and yields results as they end."""

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, in any order."""


def make_plan(
    dataset: Dataset, recipe: Recipe, out: Path, name: str, reuse: Reuse | None = None, part: Part | None = None
) -> Plan:
    """Return the plan of a run; nothing is written.

    A case is finished if both stores hold it, made from the same sources, and those files have not changed since.
    """
    volumes, labels = out / VOLUMES, out / f"{name}.zarr"
    sources = runlog.known_sources(out)
    # a case that was edited since its manifest was written is computed again
    prepared, mapped = (
        {case: geols["source"] for case, geols in whole_cases(root, manifest_digests(root))}
        for root in (volumes, labels)
    )
    ids = sorted([*(case.id for case in dataset.cases), *(problem.case_id for problem in dataset.problems)])
    chosen = set(part.of(ids) if part else ids)
    tasks, finished = [], []
    problems = [problem for problem in dataset.problems if problem.case_id in chosen]
    for case in dataset.cases:
        if case.id not in chosen:
            continue
        try:
            stamps = runlog.source_stamps(case.files)
        except OSError as error:
            problems.append(Problem(case_id=case.id, reason=f"{error.filename}: cannot be read: {error.strerror}"))
            continue
        source = mapped.get(case.id)
        known = sources.get(case.id, {}).get(stamps, ())
        if source is not None and source == prepared.get(case.id) and source_digest(source) in known:
            finished.append(case.id)
        else:
            tasks.append(Task(case=case, recipe=recipe, volumes=volumes, labels=labels, reuse=reuse))
    return Plan(
        dataset=dataset, recipe=recipe, out=out, name=name, tasks=tuple(tasks), finished=tuple(finished),
        problems=tuple(problems), strays=tuple(sorted(set(mapped) - {case.id for case in dataset.cases})), part=part,
    )  # fmt: skip


def run_plan(plan: Plan, executor: Executor, on_outcome: Callable[[Outcome], None] = lambda outcome: None) -> Summary:
    """Run a plan, whose stores `create_stores` made, to its end and write the manifests.

    Raises:
        OutputError: the output cannot be written; what is committed stays, and the next run goes on from there.
    """
    failures = list(plan.problems)
    notes: list[Problem] = []
    counts: Counter[str] = Counter()
    with writing_to(plan.out):
        state = runlog.log_path(plan.out, runlog.STATE, plan.suffix)
        runlog.append(state, *(runlog.failed_record(p.case_id, plan.name, p.reason) for p in plan.problems))
        for outcome in executor.run(run_case, plan.tasks):
            on_outcome(outcome)
            _log(plan, outcome)
            counts[outcome.status] += 1
            notes += [Problem(case_id=outcome.case, reason=note) for note in outcome.notes]
            if outcome.status == "unwritable":
                raise OutputError(outcome.error)
            if outcome.status == "failed":
                failures.append(Problem(case_id=outcome.case, reason=outcome.error))
        failures.sort(key=lambda failure: failure.case_id)
        runlog.write_failures(plan.out, plan.suffix, {f.case_id: f.reason for f in failures})
        digest = None
        if plan.part is None:
            # what an earlier run made of a case that fails now may not fit its files any more
            failed = {failure.case_id for failure in failures}
            write_manifest(plan.out / VOLUMES, leave_out=failed)
            digest = write_manifest(plan.labels, leave_out=failed)
    return Summary(
        labels=plan.labels,
        digest=digest,
        computed=counts["computed"],
        reused=counts["reused"],
        finished=len(plan.finished) + counts["unchanged"],
        failures=tuple(failures),
        notes=tuple(notes),
    )


def create_stores(plan: Plan) -> None:
    """Create the output folder, both stores' roots and the list of planned cases, or check the ones there.

    Raises:
        OutputError: they cannot be written.
        StoreError: a store there was made with another recipe.
    """
    # before anything is taken out of one store, the other must be known to fit
    check_stores(plan)
    with writing_to(plan.out):
        for root, metadata in _roots(plan).items():
            create_store(root, metadata)
            _make_room(plan, root)
        ids = [*(case.id for case in plan.dataset.cases), *(problem.case_id for problem in plan.dataset.problems)]
        replace_file(plan.out / runlog.PLAN, canonical_json({"planned": sorted(ids)}))


def _make_room(plan: Plan, root: Path) -> None:
    """Take out of a store what is not to be trusted, and out of its manifest what will be computed again or failed.

    The order matters: what was edited must not pass for whole once the manifest says nothing of it any more.
    """
    digests = manifest_digests(root)
    again = {task.case.id for task in plan.tasks} | {problem.case_id for problem in plan.problems}
    if again := again & set(digests):
        for case in again:
            if committed_case(root, case, digests) is None:
                remove_case(root, case)
        amend_manifest(root, without=again)


def check_stores(plan: Plan) -> None:
    """Refuse what `create_stores` would refuse, and write nothing.

    Raises:
        OutputError, StoreError: see there.
    """
    refuse_store(plan.out)
    if plan.out.exists() and not plan.out.is_dir():
        raise OutputError(f"{plan.out}: is a file; name a folder with --out")
    for root, metadata in _roots(plan).items():
        require_same_recipe(root, metadata)


def _roots(plan: Plan) -> dict[Path, dict[str, Any]]:
    """Return the zarr.json of both stores' roots."""
    recipe, dataset = plan.recipe, plan.dataset
    terms = {k: v for k, v in (("licence", dataset.licence), ("citation", dataset.citation)) if v}
    hints = {"training": _training_hints(plan)}
    return {
        plan.out / VOLUMES: root_metadata("geols-volumes", recipe.preprocessing.as_json(), recipe.classes, hints),
        plan.labels: root_metadata("geols-labels", recipe.as_json(), recipe.classes, terms),
    }


def _training_hints(plan: Plan) -> dict[str, Any]:
    """Return the recipe's hints, or those of an earlier run if this one has no recipe that states any."""
    path = plan.out / VOLUMES
    if plan.recipe.hints == TrainingHints() and (path / METADATA).exists():
        kept: dict[str, Any] = read_attributes(path).get("training", plan.recipe.hints.as_json())
        return kept
    return plan.recipe.hints.as_json()


def _log(plan: Plan, outcome: Outcome) -> None:
    """Book an outcome in the run log, and the sources of a case that is committed now in the state."""
    seconds = {step: round(value, 4) for step, value in outcome.seconds.items()}
    record = {
        "case": outcome.case, "status": outcome.status, "error": outcome.error, "seconds": seconds,
        "peak_memory": outcome.peak_memory, "worker": outcome.worker, "at": round(time.time(), 3),
    }  # fmt: skip
    runlog.append(runlog.log_path(plan.out, runlog.RUN, plan.suffix), record)
    if outcome.status == "failed":
        state = runlog.failed_record(outcome.case, plan.name, outcome.error)
    elif outcome.status in ("computed", "reused", "unchanged"):
        state = runlog.committed_record(outcome.case, plan.name, outcome.sources, outcome.source)
    else:
        return
    runlog.append(runlog.log_path(plan.out, runlog.STATE, plan.suffix), state)


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
