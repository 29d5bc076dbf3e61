"""Runs in this process, and what is heard of a run."""

from __future__ import annotations

from contextlib import contextmanager

from geols_precompute.progress import Progress
from geols_precompute.recipe.parameters import MapParameters, Recipe
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import plan_run


class Heard(Progress):
    """Keeps what it hears."""

    def __init__(self):
        self.lines, self.announced, self.ended, self.closed = [], [], [], 0

    def say(self, text):
        self.lines.append(text)

    @contextmanager
    def cases(self, total, what):
        self.announced.append((total, what))
        yield lambda case, error: self.ended.append((case, error))
        self.closed += 1


def plan_of(root, out, name="labels", **maps):
    return plan_run(root, recipe=Recipe(maps=MapParameters(**maps)), out=out, name=name)


def run(root, out, name="labels", **maps):
    plan = plan_of(root, out, name, **maps)
    create_stores(plan)
    return execute(plan, InProcess())
