"""What `geols-precompute` does, as one call: a folder of labelled volumes to the two stores."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from geols_precompute.atomic import in_use
from geols_precompute.errors import RecipeError
from geols_precompute.formatting import plural
from geols_precompute.progress import Progress
from geols_precompute.recipe.parameters import Recipe
from geols_precompute.run.execute import Summary, create_stores, execute
from geols_precompute.run.executor import executor_for, require_one_place
from geols_precompute.run.plan import describe, plan_run
from geols_precompute.run.prune import prune as drop_strays


def precompute(
    data: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    out: str | os.PathLike[str] | None = None,
    name: str = "labels",
    reuse: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    part: str | None = None,
    prune: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Compute the geodesic maps of the labelled volumes in a folder into a Zarr store. `geols-precompute` is this.

    It runs again where it stopped; a case that fails does not stop the others.

    Args:
        data: a data folder in a known layout, one case's own folder, or a CSV manifest.
        recipe: what is asked for; by default the maps of the published code, with classes and modalities of the data.
        out: output folder; by default DATA/geols. It receives volumes.zarr and the label store.
        name: of the label store.
        reuse: a label store to take the maps of equal cases from.
        workers: processes on this machine; 0 is this one, None one per core, as far as memory goes.
        scheduler: address or scheduler file of a Dask cluster to run on.
        part: i/n for every n-th case only, the i-th first; `geols-store finalize` writes the manifests after the last.
        prune: drop from the two stores the cases that are not in the data any more.
        progress: hears what happens; by default nobody does.

    Returns:
        What became of every case, and the digest of the label store.

    Raises:
        InputError: the data folder has no known layout, or no case.
        RecipeError: the recipe does not fit the data, or an argument is not valid.
        StoreError: the output was made with another recipe, or the store to reuse cannot be opened.
        OutputError: the output cannot be written; what is committed stays.
        ClusterError: the workers cannot be had, or are lost.
        MissingExtraError: an optional package is not installed.

    Example:
        >>> from geols_precompute import Recipe, precompute
        >>> summary = precompute("data", recipe=Recipe(classes={1: "liver"}))     # doctest: +SKIP
        >>> summary.computed, summary.failures                                    # doctest: +SKIP
        (10, {})
    """
    require_one_place(workers, scheduler)
    if prune and part is not None:
        raise RecipeError("--prune looks at all cases, and --part at some: leave one of them out")
    progress = progress or Progress()
    data_path, out_path = Path(data), Path(out) if out is not None else None
    if scheduler is not None:
        # its workers may run in another folder
        data_path, out_path = data_path.absolute(), out_path.absolute() if out_path else None
    plan = plan_run(
        data_path,
        recipe=recipe or Recipe(),
        out=out_path,
        name=name,
        reuse=os.fspath(reuse) if reuse is not None else None,
        part=part,
    )
    create_stores(plan)
    if prune and plan.strays:
        dropped = drop_strays(plan)
        progress.say(f"dropped {plural(len(dropped), 'case')} not in {plan.dataset.root}: {', '.join(dropped)}")
        plan = replace(plan, strays=())
    progress.say(describe(plan))
    executing = executor_for(
        plan.tasks,
        plan.recipe,
        [plan.dataset.root, plan.labels],
        workers=workers,
        scheduler=scheduler,
        say=progress.say,
        dashboard=sys.stderr.isatty(),
    )
    # a run with another recipe must not take the stores before the first case is committed
    with in_use(plan.volumes, plan.labels), executing as executor, progress.cases(len(plan.tasks), "maps") as on_case:
        return execute(plan, executor, on_case)
