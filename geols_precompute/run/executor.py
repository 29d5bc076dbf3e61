"""The choice of what runs a plan's tasks: this process, a Dask cluster made for it, or one that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from geols_precompute.data.formats.detached import source_files
from geols_precompute.errors import RecipeError
from geols_precompute.formatting import readable
from geols_precompute.recipe.parameters import ResolvedRecipe
from geols_precompute.run import dask, existing
from geols_precompute.run.memory import largest_need, plain_bytes, workers_for
from geols_precompute.run.task import Task

#: Bytes of files, uncompressed, times channels of maps, that take a core about four seconds: as long as it takes until
#: worker processes are there.
SHORT_WORK = 300e6
#: What a case may need at most for a run without worker processes, which can be ended for taking too much.
SHORT_NEED = 2e9
#: How many times as long as raster scans other ways to compute distances take.
_SLOWER = 30


def require_one_place(workers: int | None, scheduler: str | None) -> None:
    """Refuse a number of workers for a cluster that has its own.

    Raises:
        RecipeError: both are given.
    """
    if scheduler is not None and workers is not None:
        raise RecipeError("--workers belongs to a cluster on this machine; the one at --scheduler has its own")


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
        workers: processes on this machine, 0 for this one; None for this one if the work is short, and else for one per
            core, as far as memory goes.
        scheduler: address or file of a Dask cluster that is there already.
        say: gets a line of text for the user.
        dashboard: say where Dask's dashboard of a local cluster is.

    Raises:
        ClusterError: there is no such cluster, or memory is too small for the largest case.
        RecipeError: see `require_one_place`.
    """
    require_one_place(workers, scheduler)
    with ExitStack() as stack:
        executor: dask.InProcess | dask.OnDask = dask.InProcess()
        if tasks and scheduler is not None:
            seen = [*paths, *{task.reuse.path for task in tasks if task.reuse}]
            executor = stack.enter_context(existing.existing_cluster(scheduler, recipe.maps, seen))
        elif tasks:
            dask.compile_once(recipe.maps, say)
            if workers != 0:
                need = largest_need((task.case for task in tasks), recipe)
                if workers is None and need <= SHORT_NEED and is_short(tasks, recipe):
                    say("little work: it is done in this process (--workers 2 would start two)")
                else:
                    fitting = workers_for(need, workers)
                    if fitting.note:
                        say(f"note: {fitting.note}")
                    say(f"the largest case needs about {readable(need)}")
                    local = dask.local_cluster(fitting.count, fitting.memory, recipe.maps, dashboard=dashboard)
                    executor = stack.enter_context(local)
        if executor.description:
            say(executor.description)
        yield executor


def is_short(tasks: Sequence[Task], recipe: ResolvedRecipe) -> bool:
    """Whether the tasks would be done in this process before worker processes are there."""
    maps = recipe.maps
    slower = _SLOWER if maps.iterations == "exact" or maps.engine != "numba" else 1
    work = 0.0
    for task in tasks:
        try:
            work += slower * len(recipe.channels) * sum(map(plain_bytes, source_files(task.case)))
        except OSError:
            return False
        if work > SHORT_WORK:
            return False
    return True
