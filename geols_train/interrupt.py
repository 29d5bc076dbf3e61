"""Interrupt: Ctrl-C and SIGTERM end a run between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):  # it is no error
    """A run was asked to stop and did, between two steps."""


class StopRequest:
    """Remembers that a signal came."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Stop here if a signal came.

        Raises:
            Stopped: one did.
        """
        if self.requested:
            raise Stopped


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Let a signal wait for the next `check`; a second one stops at once. Outside the main thread nothing changes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
