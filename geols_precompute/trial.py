"""Trial: one case computed into stores of its own, which go away afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from geols_precompute.pipeline import Plan, create_stores
from geols_precompute.store.atomic import new_folder, remove_abandoned, writing_to
from geols_precompute.store.layout import VOLUMES
from geols_precompute.task import Outcome, Task, run_case


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
        yield elsewhere, run_case(replace(task, volumes=elsewhere.out / VOLUMES, labels=elsewhere.labels))
