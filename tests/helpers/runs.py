"""Runs in this process."""

from __future__ import annotations

from geols_precompute.recipe.parameters import MapParameters, Recipe
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import plan_run


def plan_of(root, out, name="labels", **maps):
    return plan_run(root, recipe=Recipe(maps=MapParameters(**maps)), out=out, name=name)


def run(root, out, name="labels", **maps):
    plan = plan_of(root, out, name, **maps)
    create_stores(plan)
    return execute(plan, InProcess())
