"""--dry-run: what a run will take, of which nothing stays."""

from __future__ import annotations

import subprocess

import pytest
from commands import error_line, precompute


def test_a_full_disk_is_no_estimate(nnunet, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        root = nnunet(cases=2, shape=(60, 60, 60))
        assert "no space left" in error_line(precompute("--dry-run", "--out", disk / "o", root))
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
