"""Help: the options of a command, listed under headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click


class CommandWithHeadings(click.Command):
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
