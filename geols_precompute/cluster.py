"""Cluster: where tasks run. In this process, or on a local Dask cluster with one process per core."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import numpy as np

from geols_precompute import maps, thinning
from geols_precompute.errors import ClusterError
from geols_precompute.geodesic import compile_kernels
from geols_precompute.pipeline import Executor
from geols_precompute.recipe import MapParameters
from geols_precompute.task import Outcome, Task

#: Tasks handed to the cluster per worker: one to work on, one waiting, so that no worker idles.
LOOK_AHEAD = 2
#: One thread per worker; and what a task has to say is in its outcome, so Dask's own account of it stays silent.
WORKER_ENVIRONMENT = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "DASK_LOGGING__DISTRIBUTED": "critical"}


class InProcess:
    """Runs one task after another in this process."""

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, in order."""
        yield from map(function, tasks)


class OnDask:
    """Runs tasks on a Dask cluster; only a few per worker are submitted ahead, however many there are."""

    def __init__(self, client: Any, workers: int) -> None:
        self.client = client
        self.workers = workers

    def run(self, function: Callable[[Task], Outcome], tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, as they end; a task that kills its worker again and again has failed."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        waiting = iter(tasks)
        case_of: dict[str, str] = {}

        def submit(count: int) -> list[Any]:
            futures = []
            for task in islice(waiting, count):
                futures.append(self.client.submit(function, task, pure=False))
                case_of[futures[-1].key] = task.case.id
            return futures

        running = as_completed(submit(LOOK_AHEAD * self.workers))
        for future in running:
            try:
                yield future.result()
            except KilledWorker:
                reason = "its worker process died again and again, most likely out of memory; use fewer --workers"
                yield Outcome(case=case_of[future.key], status="failed", error=reason)
            for more in submit(1):
                running.add(more)


@contextmanager
def open_executor(workers: int | None, parameters: MapParameters) -> Iterator[Executor]:
    """Provide an executor: 0 workers is this process, None is one worker process per core.

    Raises:
        ClusterError: the worker processes do not start.
    """
    compile_once(parameters)
    if workers == 0:
        yield InProcess()
        return
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    count = workers or CPU_COUNT
    with ExitStack() as closing:
        # worker processes inherit this: Ctrl-C reaches all of a terminal's processes, but only this one answers it
        with _no_interrupts():
            try:
                cluster = LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    memory_limit="auto",
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                    env=WORKER_ENVIRONMENT,
                )
                client = Client(cluster)
            except (OSError, RuntimeError, TimeoutError) as error:
                text = f"the local cluster of {count} workers did not start ({error}); try --workers 0"
                raise ClusterError(text) from error
        closing.callback(_close, client, cluster)
        yield OnDask(client, count)


def _close(*opened: Any) -> None:
    """Close client and cluster in peace: a second Ctrl-C changes nothing any more."""
    with _no_interrupts():
        for one in opened:
            one.close()


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
