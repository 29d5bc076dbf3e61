"""Signals: all that this project does about Ctrl-C and SIGTERM.

A terminal sends Ctrl-C (SIGINT) to every process of a command, and a job scheduler SIGTERM to every process of a job.
One process answers, the one that the user started; its workers ignore both, and end when it tells them to.

Handlers can be set in a process's main thread only: in other threads the contexts here change nothing.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds in which signals are one request: SLURM signals torchrun and its processes, and torchrun these once more.
ONE_REQUEST = 2.0

# --- a run that stops between two steps ------------------------------------------------------------------------------


class Stopped(KeyboardInterrupt):  # it is no error
    """A run was asked to stop and did, between two steps."""


class StopRequest:
    """Whether a signal asked for the end of a run.

    Attributes:
        since: when the first signal came (time.monotonic); None if none did.
    """

    def __init__(self) -> None:
        self.since: float | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.since is not None

    def belongs(self, now: float) -> bool:
        """Return whether a signal that comes now is part of this request, which it begins if it is the first."""
        if self.since is None:
            self.since = now
        return now - self.since <= ONE_REQUEST


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Turn a signal into a request, at which the run looks when its state is whole, and then raises `Stopped`.

    The idea: a person or a job scheduler asks once, but the process may get several signals for it. The first begins
    the request, and what comes within ONE_REQUEST seconds of it belongs to it and changes nothing, also after the end
    of the context. What comes later is a new request: inside the context it stops the run at once, and after it the
    handlers from before get it.

    Raises:
        KeyboardInterrupt: a second request came, or the run ended without a look at the first.
    """
    request = StopRequest()
    if not _in_main_thread():
        yield request
        return

    def during_the_run(number: int, frame: FrameType | None) -> None:
        global _stopped_by
        _stopped_by = number
        if not request.belongs(time.monotonic()):
            raise KeyboardInterrupt

    def after_the_run(number: int, frame: FrameType | None) -> None:
        if not request.belongs(time.monotonic()):
            signal.signal(number, before[number])
            signal.raise_signal(number)

    before: dict[int, Any] = {number: signal.signal(number, during_the_run) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, after_the_run if request.requested else before[number])
    if request.requested:
        raise KeyboardInterrupt


# --- worker processes ------------------------------------------------------------------------------------------------


def ignore_stop_signals(worker: int = 0) -> None:
    """Ignore Ctrl-C and SIGTERM in this process: a DataLoader's `worker_init_fn`, which gets the worker's number.

    The parent decides when to stop, and tells its workers.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def kill_workers_at_exit() -> None:
    """Kill the worker processes that are still there when this process ends.

    multiprocessing would ask them to end by SIGTERM, which they ignore, and then wait for ever.
    """
    atexit.register(_kill_workers)


def _kill_workers() -> None:
    # torch takes the death of a loading worker for an error
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the context; a process that is started meanwhile never gets it.

    The idea: SIGINT is blocked in this thread, and threads and processes that it starts inherit that. Another thread
    of this process may still take the signal, and Python then calls the handler here: so the handler only takes a note.
    """
    if not _in_main_thread():
        yield
        return
    came: list[int] = []
    # multiprocessing starts this process with the first worker, and unblocks SIGINT when it has
    resource_tracker.ensure_running()
    handler_before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        # first unblock: the handler then takes a note of what has been waiting
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        signal.signal(signal.SIGINT, handler_before)
    if came:
        signal.raise_signal(signal.SIGINT)


# --- the end ---------------------------------------------------------------------------------------------------------


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile: a second one must not cut short what the first has begun to close."""
    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts_at_exit() -> None:
    """Ignore Ctrl-C once this process begins to end: a second one must not cut that short."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def end_by_interrupt_at_exit() -> None:
    """End this process by SIGINT, once it has done all else that it does at its end, unless a SIGTERM stopped it.

    A shell that runs commands in a loop goes on after a status of 130, and ends where a command was ended by SIGINT;
    what it then has as the status is 130 too.
    """
    global _ends_by_interrupt
    _ends_by_interrupt = _stopped_by != signal.SIGTERM


def _end() -> None:
    if _ends_by_interrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)


_ends_by_interrupt, _stopped_by = False, 0
atexit.register(_end)  # what is registered first is called last


def leave_at_exit(status: int) -> None:
    """Once this process begins to end, leave it at once with `status`, without what else is registered by now.

    For a process that must not wait for others, as some libraries do at exit.
    """
    atexit.register(os._exit, status)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
