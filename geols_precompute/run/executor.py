"""The choice of what runs a plan's tasks: this process, a Dask cluster made for it, or one that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from geols_precompute.formatting import readable
from geols_precompute.recipe.parameters import ResolvedRecipe
from geols_precompute.run import dask, existing
from geols_precompute.run.memory import largest_need, workers_for
from geols_precompute.run.task import Task


@contextmanager
def executor_for(
    tasks: Sequence[Task],
    recipe: ResolvedRecipe,
    paths: Sequence[Path],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    say: Callable[[str], None],
    dashboard: bool = False,
) -> Iterator[dask.InProcess | dask.OnDask]:
    """Provide what runs tasks, and say where that is.

    Args:
        tasks: that it will run; without any, it is this process.
        recipe: of the tasks, whose kernels are compiled first.
        paths: that the workers of an existing cluster must see, beside the stores that the tasks take maps from.
        workers: processes on this machine, 0 for this one; None for one per core, as far as memory goes.
        scheduler: address or file of a Dask cluster that is there already.
        say: gets a line of text for the user.
        dashboard: say where Dask's dashboard of a local cluster is.

    Raises:
        ClusterError: there is no such cluster, or memory is too small for the largest case.
    """
    with ExitStack() as stack:
        if not tasks or workers == 0:
            dask.compile_once(recipe.maps)
            executor: dask.InProcess | dask.OnDask = dask.InProcess()
        elif scheduler is not None:
            seen = [*paths, *{task.reuse.path for task in tasks if task.reuse}]
            executor = stack.enter_context(existing.existing_cluster(scheduler, recipe.maps, seen))
        else:
            need = largest_need((task.case for task in tasks), recipe)
            fitting = workers_for(need, workers)
            if fitting.note:
                say(f"note: {fitting.note}")
            say(f"the largest case needs about {readable(need)}")
            local = dask.local_cluster(fitting.count, fitting.memory, recipe.maps, dashboard=dashboard)
            executor = stack.enter_context(local)
        if executor.description:
            say(executor.description)
        yield executor
