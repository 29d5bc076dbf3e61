"""What runs the tasks of a plan: this process, or a Dask cluster, which is made here or was there before."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from geols_precompute.errors import ClusterError, MissingExtraError
from geols_precompute.formatting import plural, readable
from geols_precompute.geodesic import compile_kernels
from geols_precompute.geodesic.jit import is_cached
from geols_precompute.maps import decay
from geols_precompute.maps.skeleton import skeleton
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run.task import Outcome, Task
from geols_precompute.signals import defer_interrupts, ignore_interrupts

#: One thread per worker; and what a task has to say is in its outcome, so Dask's own account of it stays silent.
WORKER_ENVIRONMENT = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}
#: A worker's death is counted here and not by Dask, and no task waits in a worker for its turn.
LOCAL_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    # pages that any user of the machine could read; the dashboard has its own
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
#: Tasks submitted per thread: one to work on, one waiting, so that no thread idles.
LOOK_AHEAD = 2
#: A case whose worker dies this often has failed.
MAX_DEATHS = 3
#: How often to ask a scheduler how many workers it has by now.
SECONDS_BETWEEN_COUNTS = 1.0


class InProcess:
    """Runs one task after another in this process."""

    description = ""

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, in order."""
        yield from map(function, tasks)


@dataclass(frozen=True, kw_only=True)
class OnDask:
    """Runs tasks on a Dask cluster; only a few per thread are submitted ahead, however many there are.

    Attributes:
        client: connected to the scheduler.
        description: of the cluster, for the user.
    """

    client: Any
    description: str

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, as they end.

        The idea: when a worker dies, Dask cannot tell which of its tasks was the reason. So its tasks are tried again
        among the others, and each that has one try left becomes a suspect. The suspects have their last try at the
        end, one at a time: whose worker dies then has failed, and no other task is blamed.

        Raises:
            ClusterError: the scheduler is lost.
        """
        waiting, suspects, deaths = deque(tasks), list[Task](), Counter[str]()
        with explain_lost_scheduler():
            submitted, threads = _Submitted(self.client, function), _ThreadCount(self.client)
            while waiting or submitted:
                while waiting and len(submitted) < LOOK_AHEAD * threads.now():
                    submitted.add(waiting.popleft())
                end = submitted.wait_for_one()
                if end.outcome is not None:
                    yield end.outcome
                    continue
                deaths[end.task.case.id] += end.deaths
                tries_left = MAX_DEATHS - deaths[end.task.case.id]
                (waiting if tries_left > 1 else suspects).append(end.task)
            for task in suspects:
                submitted.add(task)
                end = submitted.wait_for_one()
                yield end.outcome or _failed(task, deaths[task.case.id] + end.deaths)


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a submitted task ended.

    Attributes:
        task: that ended.
        outcome: of it; None if its worker died.
        deaths: how many workers died of it, one after the other.
    """

    task: Task
    outcome: Outcome | None = None
    deaths: int = 0


class _Submitted:
    """The tasks that a scheduler has and that have not ended."""

    def __init__(self, client: Any, function: Callable[[Task], Outcome]) -> None:
        from distributed import as_completed

        self._client, self._function = client, function
        self._futures = as_completed(loop=client.loop)
        self._tasks: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Task) -> None:
        """Submit a task."""
        future = self._client.submit(self._function, task, pure=False)
        self._tasks[future.key] = task
        self._futures.add(future)

    def wait_for_one(self) -> _End:
        """Wait until a task ends, and let go of its future, so that its result stays in no worker."""
        from distributed.scheduler import KilledWorker

        future = next(self._futures)
        task = self._tasks.pop(future.key)
        try:
            return _End(task=task, outcome=future.result())
        except KilledWorker as error:
            # a scheduler that is not ours tries again by itself before it says so
            return _End(task=task, deaths=error.allowed_failures + 1)


class _ThreadCount:
    """How many threads a cluster has; it may grow and shrink."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._counted, self._count = -SECONDS_BETWEEN_COUNTS, 1

    def now(self) -> int:
        """Return the number, at least 1: a task that waits for a first worker makes an elastic cluster start one."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            self._count = max(1, sum(self._client.nthreads().values()))
            self._counted = time.monotonic()
        return self._count


def _failed(task: Task, deaths: int) -> Outcome:
    reason = f"its worker process died {deaths} times, most likely out of memory; use fewer --workers, or larger jobs"
    return Outcome(case=task.case.id, status="failed", error=reason)


@contextmanager
def explain_lost_scheduler() -> Iterator[None]:
    """Turn what Dask raises where the scheduler is lost into one line.

    Raises:
        ClusterError: it is.
    """
    from distributed import CancelledError

    try:
        yield
    except (CancelledError, OSError, TimeoutError) as error:
        raise ClusterError(
            f"the connection to the scheduler was lost ({type(error).__name__}); run the same command again, it goes "
            "on where it stopped"
        ) from error


@contextmanager
def local_cluster(workers: int, memory: int, parameters: MapParameters, *, dashboard: bool) -> Iterator[OnDask]:
    """Provide an executor on worker processes of this machine, each with one thread.

    Args:
        workers: how many.
        memory: that each may use, in bytes; Dask ends a worker that uses more.
        parameters: of the recipe, whose kernels are compiled before the workers start.
        dashboard: say where Dask's dashboard is, if there is one (bokeh is installed).

    Raises:
        ClusterError: the worker processes do not start.
        MissingExtraError: what makes the key of the cluster is not installed.
    """
    import dask
    import distributed  # noqa: F401 - its defaults must be there before ours: leaving `set` removes what it has added

    compile_once(parameters)
    with ExitStack() as closing:
        closing.enter_context(dask.config.set(LOCAL_SETTINGS))
        # Ctrl-C must reach no worker, and must not come before it is known what is to be closed
        with defer_interrupts():
            client, cluster = _start_cluster(workers, memory, dashboard=dashboard)
            closing.callback(close_uninterrupted, client, cluster)
        description = f"{plural(workers, 'worker')} of {readable(memory)}"
        if dashboard and find_spec("bokeh"):
            description += f", dashboard {client.dashboard_link}"
        yield OnDask(client=client, description=description)


def _start_cluster(workers: int, memory: int, *, dashboard: bool) -> tuple[Any, Any]:
    """Start a scheduler and workers on this machine; (client, cluster).

    Who can talk to a scheduler or a worker can run code in it, and every user of a machine reaches its ports. So all
    talk TLS, and take nobody without the key, which is made for this cluster and lies in the memory of its processes.
    """
    from distributed import Client, LocalCluster
    from distributed.security import Security

    if not find_spec("cryptography"):
        raise MissingExtraError("cryptography", "precompute")
    try:
        cluster = LocalCluster(
            protocol="tls://",
            security=Security.temporary(),
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory,
            # a port that is free: Dask serves something there in any case, but the dashboard takes a second
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard},
            silence_logs=logging.CRITICAL,
            env=WORKER_ENVIRONMENT,
        )
        return Client(cluster), cluster
    except (OSError, RuntimeError, TimeoutError) as error:
        text = f"the local cluster of {workers} workers did not start ({error}); try --workers 0"
        raise ClusterError(text) from error


def close_uninterrupted(*opened: Any) -> None:
    """Close client and cluster, one after the other, whatever has become of them; Ctrl-C changes nothing any more."""
    with ignore_interrupts():
        for one in opened:
            # a scheduler that is gone needs no farewell
            with suppress(OSError, TimeoutError):
                one.close()


def compile_once(parameters: MapParameters, say: Callable[[str], None] = lambda text: None) -> None:
    """Compile what the maps need into numba's cache on disk, so that workers load it and do not compile it, too.

    Args:
        parameters: of the maps.
        say: is told beforehand that this will take a while, where it will.

    Raises:
        MissingExtraError: the engine is GeodisTK, and it is not installed.
    """
    if not is_cached("exact" if parameters.iterations == "exact" else "raster"):
        say("compiling kernels, once for this installation: about a minute")
    compile_kernels(
        metric=parameters.metric,
        lam=parameters.lam,
        iterations=parameters.iterations,
        joint=parameters.modalities == "joint",
        engine=parameters.engine,
    )
    decay.compile_kernels()
    skeleton(np.ones((1, 1, 1), bool))
