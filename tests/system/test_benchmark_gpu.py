"""The benchmark of a GPU runs small on a CPU: every row, in order, and each as soon as it is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflows/benchmarks/gpu.py"


@pytest.mark.slow
def test_every_row_is_measured(tmp_path):
    command = [sys.executable, str(SCRIPT), "--small", "--repeats", "1", "-o", str(tmp_path / "gpu.md")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert not [line for line in lines if "failed" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "- versions", "- against float64", "- eager steps", "- cudnn benchmark", "- compiled", "- epoch ratio",
        "- validation", "- longest kernels", "- resume to the same bits", "- ddp with one process", "- monai",
    ]  # fmt: skip
    assert "resume to the same bits: yes" in "\n".join(lines)
