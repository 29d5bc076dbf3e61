"""Progress: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0


class Progress(Protocol):
    """Counts cases as they end."""

    def __call__(self, *, failed: bool = False) -> None:
        """One more case has ended."""


@contextmanager
def show_progress(total: int, what: str) -> Iterator[Progress]:
    """Show how many of `total` cases have ended, the rate, the time left and the failures, on standard error."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit="case", dynamic_ncols=True) as bar:
            failures = 0

            def on_terminal(*, failed: bool = False) -> None:
                nonlocal failures
                failures += failed
                bar.set_postfix(failed=failures, refresh=False)
                bar.update()

            yield on_terminal
    else:
        yield _Lines(total, what)


class _Lines:
    def __init__(self, total: int, what: str) -> None:
        self.total, self.what = total, what
        self.done = self.failures = 0
        self.start = self.last = time.monotonic()

    def __call__(self, *, failed: bool = False) -> None:
        self.done += 1
        self.failures += failed
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        self.last = now
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate
        print(
            f"{self.what}: {self.done} of {self.total} cases, {rate:.2g} cases/s, {left:.0f} s left, "
            f"{self.failures} failed",
            file=sys.stderr,
            flush=True,
        )
