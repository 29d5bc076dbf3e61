"""The commands, called in this process."""

from __future__ import annotations

import re

from click.testing import CliRunner

from geols_precompute.cli import precompute as cli
from geols_precompute.cli import store as store_cli


def precompute(*args):
    return CliRunner().invoke(cli.precompute, ["--workers", "0", *map(str, args)])


def store(*args):
    return CliRunner().invoke(store_cli.store, [*map(str, args)])


def digest(result) -> str:
    return re.search(r"digest  ([0-9a-f]{64})", result.output)[1]


def error_line(result) -> str:
    """The one line of an error, and nothing like a traceback."""
    assert "Traceback" not in result.output
    lines = [line for line in result.output.splitlines() if line.startswith(("error:", "Error:"))]
    assert len(lines) == 1, result.output
    return lines[0]
