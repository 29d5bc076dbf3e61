"""Interrupt: Ctrl-C and SIGTERM end a run between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds in which signals are one request: SLURM signals torchrun and its processes, and torchrun these once more.
ONE_REQUEST = 2.0


class Stopped(KeyboardInterrupt):  # it is no error
    """A run was asked to stop and did, between two steps."""


class StopRequest:
    """Whether a signal came, and since when."""

    def __init__(self) -> None:
        self.since: float | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.since is not None


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Let a signal wait until somebody looks at the request; one more, later, stops at once.

    Outside the main thread nothing changes.

    Raises:
        KeyboardInterrupt: one more came, or nobody looked any more.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def remember(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.since is None:
            request.since = now
        elif now - request.since > ONE_REQUEST:
            raise KeyboardInterrupt

    def pass_over(number: int, frame: FrameType | None) -> None:
        """Take what the same request still sends once the run has stopped; a later signal goes where it went before."""
        assert request.since is not None
        if time.monotonic() - request.since > ONE_REQUEST:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if request.since is None else pass_over)
    if request.requested:
        raise KeyboardInterrupt
