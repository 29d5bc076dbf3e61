"""Existing: a Dask cluster that is there already, found by its address and asked whether it can do the work."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from geols_precompute.errors import ClusterError, GeolsError
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run.dask import OnDask, close_uninterrupted, compile_once, explain_lost_scheduler

CONNECT_SECONDS = 30


@contextmanager
def existing_cluster(scheduler: str, parameters: MapParameters, paths: Sequence[Path]) -> Iterator[OnDask]:
    """Provide an executor on a Dask cluster that is there already; it is left as it was found.

    Nothing is registered with the scheduler, so that nothing stays there even of a client that is killed. A worker that
    joins later compiles the kernels, or loads them, in its first task.

    Args:
        scheduler: its address, such as tcp://host:8786, or its scheduler file.
        parameters: of the recipe, whose kernels the workers that are there compile, or load, before the first task.
        paths: that every worker must see.

    Raises:
        ClusterError: no scheduler answers, or a worker lacks a path, this version of geols, or the engine.
    """
    from distributed import Client

    address = _address(scheduler)
    _require_scheduler(scheduler, address)
    # the loggers of these set levels of their own
    for name in ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as closing:
        with explain_lost_scheduler():
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            closing.callback(close_uninterrupted, client)
            _require_fit(client, paths)
            _compile_on_workers(client, parameters)
            threads = sum(client.nthreads().values())
        where = (
            f"{threads} threads at {client.scheduler.address}" if threads else "no worker yet; waiting for the first"
        )
        yield OnDask(client=client, description=f"{where}, dashboard {client.dashboard_link}")


def _address(scheduler: str) -> str:
    """Return the address that --scheduler gives or the scheduler file at it holds."""
    address: object = scheduler
    if "://" not in scheduler:
        try:
            address = json.loads(Path(scheduler).read_bytes())["address"]
        except OSError as error:
            raise ClusterError(
                f"--scheduler {scheduler}: neither an address such as tcp://host:8786 nor a scheduler file"
            ) from error
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise ClusterError(f"--scheduler {scheduler}: is no scheduler file; it has no address") from error
    if not isinstance(address, str) or not re.fullmatch(r"(tcp|tls|ucx|wss?)://[^/\s]+:\d+", address):
        raise ClusterError(f"--scheduler {scheduler}: no address of the form tcp://host:8786, got {address!r}")
    return address


def _require_scheduler(scheduler: str, address: str) -> None:
    """Refuse an address where no Dask scheduler answers in time.

    A process of its own asks, for what listens there may be anything, and a client that waits for it cannot be stopped.
    """
    code = f"from distributed import Client; Client({address!r}, timeout={CONNECT_SECONDS}).close()"
    try:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=CONNECT_SECONDS + 10)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        key = ", and is its key in Dask's settings here" if address.startswith("tls://") else ""
        raise ClusterError(
            f"--scheduler {scheduler}: no Dask scheduler answers at {address}; is it running{key}?"
        ) from error


def _require_fit(client: Any, paths: Sequence[Path]) -> None:
    """Refuse a cluster of which a worker does not see the paths or has another version of geols."""
    try:
        found = client.run(what_worker_sees, [str(path) for path in paths])
    except (OSError, TimeoutError):
        raise
    except Exception as error:
        # whatever a worker that lacks geols, or a part of it, makes of the call
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ClusterError(f"a worker cannot run geols ({reason}); install the same version of it there") from error
    here = _version()
    for worker, (version, missing) in sorted(found.items()):
        if version != here:
            raise ClusterError(
                f"worker {worker} has geols {version}, and here is {here}; install the same version there"
            )
        if missing:
            raise ClusterError(
                f"worker {worker} does not see {missing}; data and output must be on a shared file system"
            )


def what_worker_sees(paths: Sequence[str]) -> tuple[str, str]:
    """What a worker says of itself: its version of geols, and the first path that it does not see."""
    return _version(), next((path for path in paths if not Path(path).exists()), "")


def _compile_on_workers(client: Any, parameters: MapParameters) -> None:
    """Compile the kernels on every worker that is there."""
    for worker, reason in sorted(client.run(why_not_compiled, parameters).items()):
        if reason:
            raise ClusterError(f"worker {worker} cannot compute these maps: {reason}")


def why_not_compiled(parameters: MapParameters) -> str:
    """Compile the kernels in a worker; what a worker says of it: why it could not, empty if it could."""
    try:
        compile_once(parameters)
    except GeolsError as error:
        # its text: the error itself may not survive the way back
        return str(error)
    return ""


def _version() -> str:
    from importlib.metadata import version

    return version("geols")
