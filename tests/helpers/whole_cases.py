"""What every store must hold at any moment."""

from __future__ import annotations

from geols_precompute.atomic import TEMPORARY_PREFIX
from geols_precompute.store.writer import committed_cases


def assert_only_whole_cases(path):
    """Every committed case verifies, whatever the manifest says by now."""
    # in this order: a worker that still lives may commit a case in between
    folders = {p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(TEMPORARY_PREFIX)}
    committed = committed_cases(path)
    assert folders <= set(committed)
    return committed
