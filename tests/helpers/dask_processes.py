"""A Dask scheduler and workers as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress


def dask(*arguments) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def dask_scheduler(scheduler_file) -> subprocess.Popen[bytes]:
    arguments = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard")
    return dask("scheduler", "--scheduler-file", scheduler_file, *arguments)


def dask_worker(scheduler_file, folder) -> subprocess.Popen[bytes]:
    arguments = ("--nthreads", 1, "--no-dashboard", "--local-directory", folder / "dask")
    return dask("worker", "--scheduler-file", scheduler_file, *arguments)


def kill(process) -> None:
    """Kill a process and all of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
