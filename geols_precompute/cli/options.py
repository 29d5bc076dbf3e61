"""How the commands read their flags, and how they end."""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TextIO, TypeVar

import click
from click.core import ParameterSource

from geols_precompute.cli.command import EXIT_INTERRUPTED, EXIT_WRONG
from geols_precompute.errors import GeolsError, MissingExtraError
from geols_precompute.formatting import MAX_LINE, printable, printable_lines, without_secrets
from geols_precompute.signals import ignore_interrupts_at_exit

P = ParamSpec("P")
T = TypeVar("T")

#: Packages that only some extras bring.
OPTIONAL = {"cc3d", "dask", "distributed", "edt", "matplotlib", "numba", "scipy", "surface_distance", "torch"}


class CountOrWord(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """A number, or one word that stands for something else: a count or `exact`, a rate or `mean`."""

    def __init__(self, number: type[int] | type[float], word: str) -> None:
        self.number, self.word = number, word
        self.name = f"{number.__name__}|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or the word."""
        if value == self.word or isinstance(value, self.number):
            return value
        try:
            return self.number(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {self.word}", param, ctx)


class ClassNames(click.ParamType):  # type: ignore[type-arg]
    """Label values and names: `1=liver,2=kidney`."""

    name = "VALUE=NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[int, str]:
        """Return {value: name}."""
        if isinstance(value, dict):
            return value
        try:
            pairs = [item.split("=", 1) for item in value.split(",")]
            names = {int(number): name.strip() for number, name in pairs}
        except ValueError:
            self.fail(f"{value!r} is not of the form 1=liver,2=kidney", param, ctx)
        if len(names) < len(pairs):
            self.fail(f"{value!r} names a value twice", param, ctx)
        return names


def say(*lines: str, err: bool = False, limit: int = MAX_LINE) -> None:
    """Print lines on standard output, or standard error, whatever they hold: each as `printable` gives it."""
    for line in lines:
        click.echo(printable(line, limit), err=err)


def reports_errors(extra: str) -> Callable[[Callable[P, int]], Callable[P, None]]:
    """Make a function the body of a command: its result is the exit status, and its errors are one line each.

    Adds --debug, which shows where an error came from.

    Args:
        extra: what to install if an optional package is missing.
    """

    def decorate(command: Callable[P, int]) -> Callable[P, None]:
        @click.option("--debug", is_flag=True, help="Show where an error came from.")
        @functools.wraps(command)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
            warnings.showwarning = _show_warning
            try:
                sys.exit(command(*args, **kwargs))
            except KeyboardInterrupt:
                ignore_interrupts_at_exit()
                say("stopped; run the same command again to go on", err=True)
                sys.exit(EXIT_INTERRUPTED)
            except BrokenPipeError:
                # whoever read the output has seen enough; click ends quietly
                raise
            except Exception as error:
                if kwargs["debug"]:
                    click.echo(printable_lines(without_secrets(traceback.format_exc())), err=True)
                say(without_secrets(f"error: {_one_line(error, extra)}"), err=True)
                # lines that a person may copy
                say(*(without_secrets(f"  {line}") for line in getattr(error, "__notes__", ())), err=True)
                # never 1, which means that some cases failed
                sys.exit(EXIT_WRONG)

        return wrapped

    return decorate


def _one_line(error: Exception, extra: str) -> str:
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").split(".")[0]) in OPTIONAL:
        return str(MissingExtraError(package, extra))
    if isinstance(error, GeolsError):
        return _with_the_flag(str(error))
    if isinstance(error, MemoryError):
        return f"not enough memory ({str(error) or 'none was given'}); use a machine that has more"
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _with_the_flag(text: str) -> str:
    """Return a text that begins with the name of a parameter with that of its flag, if that was typed."""
    name, _, rest = text.partition(" ")
    context = click.get_current_context(silent=True)
    typed = context and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return f"--{name.replace('_', '-')} {rest}" if typed else text


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of a library in one line."""
    say(without_secrets(f"{filename}:{lineno}: {category.__name__}: {message}"), err=True)
