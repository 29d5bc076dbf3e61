"""The errors of GeoLS: each message says what was found, where, and what to do."""

from __future__ import annotations


class GeolsError(Exception):
    """Base of every error that GeoLS raises on purpose; the commands print it as one line."""


class InputError(GeolsError, ValueError):
    """Source data or an argument cannot be used as it is."""


class RecipeError(GeolsError, ValueError):
    """A recipe, a preset or a flag is not valid, or does not fit the data or the store."""


class StoreError(GeolsError):
    """A store is missing, incomplete, damaged, or not what its metadata says."""


class OutputError(GeolsError, OSError):
    """The output cannot be written; nothing that is committed is lost."""


class ClusterError(GeolsError, RuntimeError):
    """The workers that should compute cannot be had."""


class MissingExtraError(GeolsError, ImportError):
    """An optional package is not installed; the message holds the pip command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed; run: pip install "geols[{extra}]"')
