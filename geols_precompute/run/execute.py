"""Carries a plan out: stores, tasks, manifests. It resumes, and one failed case never stops the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from geols_precompute.atomic import replace_file, writing_to
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.orientation import orientation_of
from geols_precompute.digests import canonical_json
from geols_precompute.errors import OutputError, StoreError
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.run import state
from geols_precompute.run.finalize import check_machine
from geols_precompute.run.plan import Plan
from geols_precompute.run.task import Outcome, Task, run_case
from geols_precompute.store.guards import CHECK
from geols_precompute.store.layout import METADATA, root_metadata
from geols_precompute.store.writer import (
    amend_manifest,
    committed_case,
    create_store,
    manifest_digests,
    read_attributes,
    refuse_store,
    remove_case,
    require_own,
    require_same_recipe,
    write_manifest,
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        volumes, labels: the stores.
        digest: of the label store; None if it holds no case, and of a part of a run, which writes no manifest.
        computed, reused, unchanged: how many cases.
        failures: case id to the reason why it failed, in one line.
        notes: case id to what a person should know about it.
        orientations: how many of the cases have axes that run so, see `orientation_of`, those included that were done
            before; empty if the recipe turns them.
        traces: case id to where it failed in the code, for those that failed while they were computed.
    """

    volumes: Path
    labels: Path
    digest: str | None
    computed: int
    reused: int
    unchanged: int
    failures: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]
    orientations: Mapping[str, int] = field(default_factory=dict)
    traces: Mapping[str, str] = field(default_factory=dict, repr=False)


class Executor(Protocol):
    """Runs a function over tasks somewhere, a bounded number at a time, and yields results as they end."""

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, in any order."""


def execute(plan: Plan, executor: Executor, on_case: OnCase = lambda case, error: None) -> Summary:
    """Run a plan, whose stores `create_stores` made, to its end and write the manifests.

    Raises:
        OutputError: the output cannot be written; what is committed stays, and the next run goes on from there.
    """
    failures = {problem.case_id: problem.reason for problem in plan.problems}
    notes: dict[str, tuple[str, ...]] = {}
    traces: dict[str, str] = {}
    counts: Counter[str] = Counter()
    orientations = _orientations(plan)
    log = state.log_path(plan.out, state.STATE, plan.suffix)
    with writing_to(plan.out):
        failed = [state.failed_record(case, plan.name, reason, plan.run) for case, reason in failures.items()]
        state.append(log, *failed, readers=plan.readers)
        for outcome in executor.run(run_case, plan.tasks):
            if outcome.status == "unwritable":
                raise OutputError(outcome.error)
            on_case(outcome.case, outcome.error)
            state.append(log, outcome.as_record(plan.name, plan.run))
            counts[outcome.status] += 1
            orientations.update([outcome.orientation] if outcome.orientation else [])
            if outcome.notes:
                notes[outcome.case] = outcome.notes
            if outcome.status == "failed":
                failures[outcome.case] = outcome.error
                traces[outcome.case] = outcome.trace
        state.write_failures(plan.out, plan.suffix, failures, plan.readers)
        digest = None
        if plan.part is None:
            not_done = _not_done(plan, failures)
            write_manifest(plan.volumes, leave_out=not_done)
            check_machine(plan.labels)
            digest = write_manifest(plan.labels, leave_out=not_done)
            if not manifest_digests(plan.labels):
                digest = None
    return Summary(
        volumes=plan.volumes,
        labels=plan.labels,
        digest=digest,
        computed=counts["computed"],
        reused=counts["reused"],
        unchanged=len(plan.finished) + counts["unchanged"],
        failures=dict(sorted(failures.items())),
        notes=notes,
        orientations={} if plan.recipe.preprocessing.orientation else orientations,
        traces=traces,
    )


def _orientations(plan: Plan) -> Counter[str]:
    """Return how many of the finished cases have axes that run so, as their volumes say of their files."""
    counts: Counter[str] = Counter()
    for case in plan.finished:
        with suppress(StoreError, LookupError, TypeError, ValueError):
            source = read_attributes(plan.volumes / case)["source_geometry"]
            counts[orientation_of(Geometry.from_json(source))] += 1
    return counts


def create_stores(plan: Plan) -> None:
    """Create the output folder, both stores' roots and the list of planned cases, or check the ones there.

    Raises:
        OutputError: they cannot be written, or a file there was not written by this package.
        StoreError: a store there was made with another recipe, or was not written by this package.
    """
    # before anything is taken out of one store, the other must be known to fit
    check_stores(plan)
    with writing_to(plan.out):
        for root, metadata in _roots(plan).items():
            create_store(root, metadata)
        ids = [*(case.id for case in plan.dataset.cases), *(problem.case_id for problem in plan.dataset.problems)]
        replace_file(plan.out / state.PLAN, canonical_json({"planned": sorted(ids)}), plan.readers)
        _take_out_pending(plan)


def _take_out_pending(plan: Plan) -> None:
    """Take the cases that will be computed again, or failed, out of the manifests, and the damaged ones of the stores.

    The order matters. First the state says that they are not done, so that nobody takes what is there of them for
    their maps if this run ends here. And what was edited must not pass for whole once the manifest says nothing of it
    any more.
    """
    again = {task.case.id for task in plan.tasks} | {problem.case_id for problem in plan.problems}
    log = state.log_path(plan.out, state.STATE, plan.suffix)
    pending = [state.pending_record(case, plan.name, plan.run) for case in plan.stale]
    # what a run found to be done after all has no other line that says so
    not_done = state.known_failures(plan.out, plan.name)
    done = [state.done_record(case, plan.name, plan.run) for case in plan.finished if case in not_done]
    state.append(log, *pending, *done, readers=plan.readers, durable=True)
    for root in (plan.volumes, plan.labels):
        _leave_out(root, again)


def _leave_out(root: Path, again: Set[str]) -> None:
    """Take cases out of a store's manifest, and the damaged ones out of the store."""
    digests = manifest_digests(root)
    if again := again & set(digests):
        for case in again:
            if committed_case(root, case, digests) is None:
                remove_case(root, case)
        amend_manifest(root, without=again)


def _not_done(plan: Plan, failures: Mapping[str, str]) -> set[str]:
    """Return the cases to leave out of the manifests: what is there of them may not fit their files any more.

    They failed in this run, or in the last that had them if the data folder does not hold them any more, and no other
    run has done them since.
    """
    here = {case.id for case in plan.dataset.cases}
    return {case for case in state.known_failures(plan.out, plan.name) if case in failures or case not in here}


def check_stores(plan: Plan) -> None:
    """Refuse what `create_stores` would refuse, and write nothing.

    Raises:
        OutputError, StoreError: see there.
    """
    refuse_store(plan.out)
    if plan.out.exists() and not plan.out.is_dir():
        raise OutputError(f"{plan.out}: is a file; name a folder with --out")
    state.require_own(plan.out)
    for root in (plan.volumes, plan.labels):
        require_own(root)
    for root, metadata in _roots(plan).items():
        require_same_recipe(root, metadata)


def _roots(plan: Plan) -> dict[Path, dict[str, Any]]:
    """Return the zarr.json of both stores' roots."""
    recipe, dataset = plan.recipe, plan.dataset
    terms = {k: v for k, v in (("licence", dataset.licence), ("citation", dataset.citation)) if v}
    hints = {"training": _training_hints(plan)}
    labels = root_metadata("geols-labels", recipe.as_json(), recipe.classes, terms)
    labels["attributes"]["geols"] |= _known_check(plan, labels["attributes"]["geols"]["recipe_id"])
    return {
        plan.volumes: root_metadata("geols-volumes", recipe.preprocessing_json(), recipe.classes, hints),
        plan.labels: labels,
    }


def _known_check(plan: Plan, recipe_id: str) -> dict[str, str]:
    """Return what an earlier run of this recipe has entered of the check case."""
    if not (plan.labels / METADATA).exists():
        return {}
    found = read_attributes(plan.labels)
    return {CHECK: found[CHECK]} if CHECK in found and found.get("recipe_id") == recipe_id else {}


def _training_hints(plan: Plan) -> dict[str, Any]:
    """Return the recipe's hints, or those of an earlier run if this one has no recipe that states any."""
    hints = plan.recipe.hints.as_json()
    if plan.recipe.hints == TrainingHints() and (plan.volumes / METADATA).exists():
        return read_attributes(plan.volumes).get("training", hints)
    return hints
