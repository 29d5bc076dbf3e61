"""The smallest training, by its command."""

from __future__ import annotations

from click.testing import CliRunner

SMALL = ["--epochs", "1", "--features", "4,8", "--split", "3,1,2", "--crop", "8", "10", "8", "--lr", "0.01"]


def run(command, *args):
    return CliRunner().invoke(command, list(map(str, args)))
