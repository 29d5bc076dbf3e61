"""Packed stores: the same bytes for the same store, read by our reader and by others, and safe to open."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import zarr
from sharing import packed
from stores import label_store

from geols_precompute.store.reader import LabelStore

SHAPE = (9, 70, 130)


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return label_store(tmp_path / "labels.zarr", ("two", "one", "one-b", "x.y"))


@pytest.fixture
def archive(store, tmp_path):
    return packed(store, tmp_path / "labels.zarr.zip")


def test_other_software_reads_a_packed_store(store, archive):
    group = zarr.open_group(zarr.storage.ZipStore(archive, mode="r"), mode="r")
    np.testing.assert_array_equal(group["one/maps"][:], store.maps("one"))
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.read("manifest.json") == store.manifest_content
    if subprocess.run(["which", "unzip"], capture_output=True, check=False).returncode == 0:
        subprocess.run(["unzip", "-tq", archive], check=True, stdout=subprocess.DEVNULL)


def test_a_link_to_an_archive_is_followed_and_fork_is_safe(archive, tmp_path):
    (tmp_path / "link.zip").symlink_to(archive)
    code = f"""
import os, sys
from geols_precompute import LabelStore
store = LabelStore.open({str(tmp_path / "link.zip")!r})
store.maps("one")
pid = os.fork()
if pid == 0:
    os._exit(0 if store.maps("two").shape == {(2, *SHAPE)} else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
