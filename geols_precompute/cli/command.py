"""What all commands have in common: help with an example, --version, one line for wrong usage, an end by Ctrl-C."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from geols_precompute.formatting import printable
from geols_precompute.signals import end_by_interrupt_at_exit

EXIT_DONE, EXIT_SOME_FAILED, EXIT_WRONG, EXIT_INTERRUPTED = 0, 1, 2, 130
#: What a value must be, by the name of click's type.
_EXPECTED = {
    "integer": "a whole number",
    "integer range": "a whole number",
    "float": "a number",
    "float range": "a number",
}
_VALUE = re.compile(r"(?P<value>'.*'|[^\s']+) is not (a valid|one of|in the range)")


class _Shared(click.Command):
    """Adds -h, --version and the end of the help to a command; its errors are one line, as those of our own are.

    Attributes:
        example: a line for a shell, shown in the help.
    """

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs)
        self.example = example
        click.version_option(package_name="geols", message="geols %(version)s")(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a process does; after Ctrl-C it ends by SIGINT, so that a shell that runs it in a loop ends too."""
        try:
            return self.main(*args, **kwargs)
        except SystemExit as end:
            if end.code == EXIT_INTERRUPTED:
                end_by_interrupt_at_exit()
            raise

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; what is wrong with them is one line."""
        with _one_line(self):
            return super().make_context(*args, **kwargs)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, and where the documentation is."""
        if self.example:
            with formatter.section("Example"):
                formatter.write(f"{'':{formatter.current_indent}}{self.example}\n")
        if address := documentation():
            formatter.write_paragraph()
            formatter.write_text(f"Documentation: {address}")


class Command(_Shared):
    """A command of this project."""


class Group(_Shared, click.Group):
    """A command with commands of its own, whose summaries are shown whole."""

    command_class = Command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that is named; that there is none is one line."""
        with _one_line(self):
            return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the name and the first sentence of each command."""
        commands = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in commands])


class CommandWithHeadings(Command):
    """A command whose --help lists its options under headings.

    Attributes:
        headings: heading to the names of its parameters, separated by blanks, in the order of the list; what no
            heading names comes last, under "Other".
    """

    def __init__(self, *args: Any, headings: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each heading."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        records = {option.name: record for option in options if (record := option.get_help_record(ctx))}
        listed = {heading: [records.pop(name) for name in names.split()] for heading, names in self.headings.items()}
        for heading, rows in {**listed, "Other": list(records.values())}.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def documentation() -> str:
    """Return the address of the documentation, which stands in the metadata of the package; empty if it has none."""
    from importlib.metadata import metadata

    urls = (entry.partition(", ") for entry in metadata("geols").get_all("Project-URL") or ())
    return next((address for name, _, address in urls if name == "Documentation"), "")


class WrongUsage(click.ClickException):
    """Wrong usage, in one line."""

    exit_code = EXIT_WRONG

    def show(self, file: Any = None) -> None:
        """Print the line on standard error."""
        click.echo(printable(f"error: {self.message}"), file=file or sys.stderr)


@contextmanager
def _one_line(command: click.Command) -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise WrongUsage(describe(error, command)) from error


def describe(error: click.UsageError, command: click.Command) -> str:
    """Return what click says of wrong usage, as the errors of this project say it."""
    message = error.message.rstrip(".")
    parameter = getattr(error, "param", None)
    if isinstance(error, click.BadOptionUsage):  # too few values at the end of the line
        parameter = next((p for p in command.params if error.option_name in p.opts), None)
    if parameter is not None and parameter.nargs > 1:
        wanted = (
            f"{parameter.nargs} numbers ({parameter.metavar})" if parameter.metavar else f"{parameter.nargs} values"
        )
        found = _VALUE.match(message)
        return f"{_name(parameter)} takes {wanted}" + (f"; {found['value']} is none" if found else "")
    if isinstance(error, click.MissingParameter) and parameter is not None:
        return f"{_name(parameter)} is missing{_see_help(error.ctx)}"
    if isinstance(error, click.BadParameter) and parameter is not None:
        return _wrong_value(parameter, message)
    if extra := re.match(r"Got unexpected extra arguments? \((.*)\)", message):
        return f"{extra[1]} is one argument too many{numbers_hint(extra[1].split(), command)}{_see_help(error.ctx)}"
    return f"{message[:1].lower()}{message[1:]}{_see_help(error.ctx)}"


def numbers_hint(words: Sequence[str], command: click.Command) -> str:
    """Return which flags take several numbers, if `words` look like numbers that were meant for one; else nothing."""
    if not all(re.fullmatch(r"[\d.]+", word) for word in words):
        return ""
    several = [f"{_name(p)} takes {p.nargs}" for p in command.params if p.nargs > 1]
    joined = [_name(p) for p in command.params if p.name == "split"]
    several += [f"{name} takes them joined by commas" for name in joined]
    return f"; of numbers, {', '.join(several)}" if several else ""


def _wrong_value(parameter: click.Parameter, message: str) -> str:
    """Return `--batch-size must be a whole number, got 'x'`, or what a type of our own says, after the name."""
    kind, found = parameter.type, _VALUE.match(message)
    if found and isinstance(kind, click.Choice):
        return f"{_name(parameter)} must be one of {', '.join(map(str, kind.choices))}, got {found['value']}"
    if found and kind.name in _EXPECTED:
        low, high = getattr(kind, "min", None), getattr(kind, "max", None)
        limits = f" from {low} to {high}" if high is not None else f" of at least {low}" if low is not None else ""
        return f"{_name(parameter)} must be {_EXPECTED[kind.name]}{limits}, got {found['value']}"
    return f"{_name(parameter)}: {message}"


def _name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(click.Context(click.Command(None))).strip("[].")
    return max(parameter.opts, key=len)


def _see_help(ctx: click.Context | None) -> str:
    return f"; {ctx.command_path} --help lists what there is" if ctx else ""
