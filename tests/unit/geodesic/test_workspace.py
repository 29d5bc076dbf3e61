"""Memory that a thread's transforms share: kept between calls, up to a bound, and never between threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geols_precompute.geodesic import workspace


@pytest.fixture(autouse=True)
def _a_thread_without_memory(monkeypatch):
    monkeypatch.delattr(workspace._thread, "transform", raising=False)


def test_the_next_call_gets_the_same_memory():
    first = workspace.scratch(1000)
    assert first.size == 1000
    assert workspace.scratch(500).ctypes.data == first.ctypes.data
    assert np.shares_memory(workspace.scratch(1000), first)


@pytest.mark.parametrize("size", [1, 17, 1000, 300_000])
def test_memory_begins_on_a_cache_line(size):
    assert workspace.scratch(size).ctypes.data % 64 == 0


def test_memory_beyond_the_bound_is_not_kept(monkeypatch):
    monkeypatch.setattr(workspace, "KEPT", 1000)
    kept = workspace.scratch(1000)
    assert workspace._thread.transform is not None
    large = workspace.scratch(1001)
    assert not np.shares_memory(large, kept)
    assert workspace._thread.transform is None


def test_threads_share_no_memory():
    here = workspace.scratch(1000)
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(pool.submit(workspace.scratch, 1000).result(), here)


def test_purposes_share_no_memory():
    assert not np.shares_memory(workspace.scratch(1000), workspace.scratch(1000, "maps"))
