"""What a run will take, from the headers of all cases and from one that is computed and thrown away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from geols_precompute.atomic import new_folder, remove_abandoned, writing_to
from geols_precompute.data.cases import Problem
from geols_precompute.data.headers import read_case_header
from geols_precompute.data.prepare import prepared_size
from geols_precompute.errors import InputError, OutputError
from geols_precompute.progress import OnCase
from geols_precompute.run.execute import create_stores
from geols_precompute.run.memory import case_bytes
from geols_precompute.run.plan import Plan
from geols_precompute.run.task import Outcome, Task, run_case

T = TypeVar("T")

#: Cases that are tried before none is taken for a sample.
MAX_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Attributes:
        cases: to compute.
        problems: of those and others, as far as headers tell.
        sample: the case that was computed; None if there was none to compute.
        voxels: of the sample, prepared.
        seconds: of one worker, for all cases.
        volume_bytes, label_bytes: that the stores grow by.
        memory: that a worker needs for the largest case, in bytes.
    """

    cases: int
    problems: tuple[Problem, ...]
    sample: Outcome | None = None
    voxels: int = 0
    seconds: float = 0.0
    volume_bytes: int = 0
    label_bytes: int = 0
    memory: int = 0


def estimate(plan: Plan, on_case: OnCase = lambda case, error: None) -> Estimate:
    """Read the headers of all cases of a plan and compute the one of median size.

    Nothing stays: the sample is computed in a temporary folder beside the output, on the same file system.

    Raises:
        OutputError: nothing can be written there.
    """
    problems = list(plan.problems)
    sized: list[tuple[int, Task]] = []
    needs = [0]
    for task in plan.tasks:
        try:
            geometry = read_case_header(task.case, modalities=len(plan.recipe.preprocessing.modalities))
            sized.append((math.prod(prepared_size(geometry, plan.recipe.preprocessing)), task))
            needs.append(case_bytes(geometry, plan.recipe, raters=len(task.case.raters)))
            on_case(task.case.id, "")
        except InputError as error:
            problems.append(Problem(case_id=task.case.id, reason=str(error)))
            on_case(task.case.id, str(error))
    total, failed = sum(voxels for voxels, _ in sized), 0
    for voxels, task in _from_the_middle(sorted(sized, key=itemgetter(0))):
        outcome, volume_bytes, label_bytes = _computed(plan, task)
        if outcome.status == "unwritable":
            raise OutputError(outcome.error)
        if outcome.status == "failed":
            problems.append(Problem(case_id=task.case.id, reason=outcome.error))
            failed += 1
            total -= voxels
            if failed == MAX_SAMPLES:
                break
            continue
        factor = total / voxels
        return Estimate(
            cases=len(sized) - failed,
            problems=tuple(problems),
            sample=outcome,
            voxels=voxels,
            seconds=factor * sum(outcome.seconds.values()),
            volume_bytes=round(factor * volume_bytes),
            label_bytes=round(factor * label_bytes),
            memory=max(needs),
        )
    return Estimate(cases=len(sized) - failed, problems=tuple(problems), memory=max(needs))


def _from_the_middle(items: Sequence[T]) -> list[T]:
    """The median first, then its neighbours."""
    middle = len(items) // 2
    return [items[i] for i in sorted(range(len(items)), key=lambda i: abs(i - middle))]


def _computed(plan: Plan, task: Task) -> tuple[Outcome, int, int]:
    """Compute a case in a folder of its own; (outcome, bytes in the volume store, bytes in the label store)."""
    with trial(plan, task) as (elsewhere, outcome):
        return outcome, _bytes(elsewhere.volumes / task.case.id), _bytes(elsewhere.labels / task.case.id)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def trial(plan: Plan, task: Task) -> Iterator[tuple[Plan, Outcome]]:
    """Run a task of a plan; provide the plan of the stores that its case is in, and how it went.

    The stores lie beside the output of the plan, on the same file system.

    Raises:
        OutputError: nothing can be written there.
    """
    beside = next(folder for folder in (plan.out.absolute(), *plan.out.absolute().parents) if folder.is_dir())
    with writing_to(plan.out), new_folder(beside) as folder:
        remove_abandoned(beside)  # of trials that were killed
        elsewhere = replace(plan, out=folder)
        create_stores(elsewhere)
        yield elsewhere, run_case(replace(task, volumes=elsewhere.volumes, labels=elsewhere.labels))
