"""Progress of long work over cases: what a caller hears, and how a terminal shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from geols_precompute.formatting import printable, printable_lines

#: Called when a case has ended, with its id and why it failed; the reason is empty if it did not fail.
OnCase = Callable[[str, str], None]

#: How often the bar is written where no terminal shows it.
SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """What a caller hears of long work. This one is silent; a subclass shows it."""

    def say(self, text: str) -> None:
        """Take a line for people: what is about to happen, or what happened."""

    def cases(self, total: int, what: str) -> AbstractContextManager[OnCase]:
        """Return a context manager of what is called as each of `total` cases ends."""
        return nullcontext(lambda case, error: None)


class TerminalProgress(Progress):
    """Prints lines on standard output, and progress on standard error."""

    def say(self, text: str) -> None:
        """Print a text."""
        print(printable_lines(text), flush=True)

    def cases(self, total: int, what: str) -> AbstractContextManager[OnCase]:
        """Show a bar; see `show_progress`."""
        return show_progress(total, what)


@contextmanager
def show_progress(total: int, what: str) -> Iterator[OnCase]:
    """Show how many of `total` cases have ended, the rate, the time left and the failures, on standard error.

    The bar moves once a minute where no terminal shows it, so that a log stays short.
    """
    from tqdm import tqdm  # half the time that a command such as `geols-store info` takes, which has no progress

    on_terminal = sys.stderr.isatty()
    seconds_between = 0.1 if on_terminal else SECONDS_BETWEEN_LINES
    failures = 0
    with tqdm(
        total=total,
        desc=printable(what),
        unit="case",
        dynamic_ncols=on_terminal,
        mininterval=seconds_between,
        maxinterval=max(10, seconds_between),
        disable=total == 0,
        file=sys.stderr,
    ) as bar:

        def ended(case: str, error: str) -> None:
            nonlocal failures
            failures += bool(error)
            bar.set_postfix_str(f"{failures} failed", refresh=False)
            bar.update()

        yield ended
