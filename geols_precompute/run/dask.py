"""Cluster: where tasks run. In this process, or on a Dask cluster, of which this room makes a local one."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from geols_precompute.errors import ClusterError
from geols_precompute.formatting import plural, readable
from geols_precompute.geodesic import compile_kernels
from geols_precompute.maps import decay as maps
from geols_precompute.maps import skeleton as thinning
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run.task import Outcome, Task

#: One thread per worker; and what a task has to say is in its outcome, so Dask's own account of it stays silent.
WORKER_ENVIRONMENT = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}
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
    """Runs tasks on a Dask cluster; only a few per thread are submitted ahead, however many there are."""

    client: Any
    description: str

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, as they end.

        A task whose worker dies is submitted again, the last time while nothing else runs, so that no other task is
        blamed: Dask cannot tell which of a worker's tasks was its end.

        Raises:
            ClusterError: the scheduler is lost.
        """
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        waiting, suspects = deque(tasks), deque[Task]()
        submitted: dict[str, Task] = {}
        deaths: Counter[str] = Counter()
        alone = False

        def submit(task: Task) -> None:
            future = self.client.submit(function, task, pure=False)
            submitted[future.key] = task
            running.add(future)

        with connected():
            running, threads = as_completed(loop=self.client.loop), _Threads(self.client)
            while waiting or suspects or submitted:
                while waiting and len(submitted) < LOOK_AHEAD * threads.count():
                    submit(waiting.popleft())
                if not submitted and suspects:
                    alone = True
                    submit(suspects.popleft())
                future = next(running)
                task = submitted.pop(future.key)
                try:
                    outcome = future.result()
                except KilledWorker as error:
                    # a scheduler that is not ours tries again by itself before it says so
                    deaths[task.case.id] += error.allowed_failures + 1
                    if not alone:
                        (waiting if deaths[task.case.id] < MAX_DEATHS - 1 else suspects).append(task)
                        continue
                    outcome = _killed(task, deaths[task.case.id])
                del future
                yield outcome


@contextmanager
def connected() -> Iterator[None]:
    """Say in one line that the scheduler is lost."""
    from distributed import CancelledError

    try:
        yield
    except (CancelledError, OSError, TimeoutError) as error:
        raise ClusterError(
            f"the connection to the scheduler was lost ({type(error).__name__}); run the same command again, it goes "
            "on where it stopped"
        ) from error


class _Threads:
    """How many threads a cluster has; it may grow and shrink."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._counted, self._count = -SECONDS_BETWEEN_COUNTS, 1

    def count(self) -> int:
        """Return the number, at least 1: a task that waits for a first worker makes an elastic cluster start one."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            self._count = max(1, sum(self._client.nthreads().values()))
            self._counted = time.monotonic()
        return self._count


def _killed(task: Task, deaths: int) -> Outcome:
    reason = f"its worker process died {deaths} times, most likely out of memory; use fewer --workers, or larger jobs"
    return Outcome(case=task.case.id, status="failed", error=reason)


@contextmanager
def in_process(parameters: MapParameters) -> Iterator[InProcess]:
    """Provide an executor that is this process."""
    compile_once(parameters)
    yield InProcess()


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
    """
    import dask
    from distributed import Client, LocalCluster

    compile_once(parameters)
    # a worker's death is counted here, and no task waits in a worker for its turn
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-saturation": 1.0}
    with ExitStack() as closing:
        closing.enter_context(dask.config.set(settings))
        # worker processes inherit this: Ctrl-C reaches all of a terminal's processes, but only this one answers it
        with _interrupts_later():
            try:
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=memory,
                    # a port that is free: Dask serves something there in any case, but the dashboard takes a second
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": dashboard},
                    silence_logs=logging.CRITICAL,
                    env=WORKER_ENVIRONMENT,
                )
                client = Client(cluster)
            except (OSError, RuntimeError, TimeoutError) as error:
                text = f"the local cluster of {workers} workers did not start ({error}); try --workers 0"
                raise ClusterError(text) from error
            closing.callback(close_in_peace, client, cluster)
        said = f"{plural(workers, 'worker')} of {readable(memory)}"
        if dashboard and find_spec("bokeh"):
            said += f", dashboard {client.dashboard_link}"
        yield OnDask(client=client, description=said)


def close_in_peace(*opened: Any) -> None:
    """Close client and cluster in peace: a second Ctrl-C changes nothing any more."""
    with _no_interrupts():
        for one in opened:
            # a scheduler that is gone needs no farewell
            with suppress(OSError, TimeoutError):
                one.close()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back until the end; what starts meanwhile, thread or process, never gets it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    # the start of this process would let Ctrl-C through again
    resource_tracker.ensure_running()
    # a thread that was there before may take the signal, so that blocking it is not enough
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, before)
    if held:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile; signals can be set in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def compile_once(parameters: MapParameters) -> None:
    """Compile the kernels into numba's cache on disk, so that the workers load them instead of compiling, too."""
    compile_kernels(
        metric=parameters.metric, lam=parameters.lam, iterations=parameters.iterations,
        joint=parameters.modalities == "joint", engine=parameters.engine,
    )  # fmt: skip
    maps.compile_kernels()
    thinning.skeleton(np.ones((1, 1, 1), bool))
