"""The report of one case before anything else is computed."""

from __future__ import annotations

from pathlib import Path

from geols_precompute.atomic import refuse_foreign
from geols_precompute.errors import InputError, OutputError
from geols_precompute.report.cases import files_of, volumes_of
from geols_precompute.report.page import ReportResult, is_report, write_report
from geols_precompute.report.words import name_of
from geols_precompute.run.estimate import trial
from geols_precompute.run.plan import Plan
from geols_precompute.run.task import Task
from geols_precompute.store.layout import VOLUMES
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import write_manifest


def write_preview(plan: Plan, case_id: str, path: Path) -> ReportResult:
    """Compute a case of a plan, write its report, and keep nothing else.

    Raises:
        InputError: the data set has no such case, or it cannot be used.
        OutputError: nothing can be written at the output of the plan, or at `path`, where a file of others may lie.
    """
    case = next((case for case in plan.dataset.cases if case.id == case_id), None)
    if case is None:
        reasons = [problem.reason for problem in plan.dataset.problems if problem.case_id == case_id]
        some = ", ".join(case.id for case in plan.dataset.cases[:5])
        raise InputError(reasons[0] if reasons else f"{plan.dataset.root}: no case {case_id!r}; there are {some}, ...")
    refuse_foreign(path, is_report)
    task = Task(case=case, recipe=plan.recipe, volumes=plan.out / VOLUMES, labels=plan.labels)
    with trial(plan, task) as (elsewhere, outcome):
        if outcome.status == "unwritable":
            raise OutputError(outcome.error)
        if outcome.status == "failed":
            raise InputError(f"{case_id}: {outcome.error}")
        for root in (elsewhere.labels, elsewhere.out / VOLUMES):
            write_manifest(root)
        labels = LabelStore.open(elsewhere.labels)
        return write_report(
            path, labels, volumes_of(labels, None), name=name_of(plan.labels), sources=files_of(labels, None)
        )
