"""The same files and recipe give the same store on any processor: no result hangs on its vector instructions."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ball_case, write

RECIPE = """
modalities = ["flair", "t1ce"]
spacing = [1.5, 1.0, 1.2]
clip = [1, 99]
[classes]
1 = "a"
2 = "b"
"""


def store_digest(root, out, *flags, **environment) -> str:
    command = [sys.executable, "-m", "geols_precompute", "--workers", "0", "--out", str(out), *flags, str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1]


def disabled_numpy_features() -> str:
    """Every instruction set beyond NumPy's baseline that this processor has."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return " ".join(found)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_plain_processor_gives_the_same_bytes(tmp_path, preset):
    rng = np.random.default_rng(0)
    for case in range(2):
        image, label = ball_case(case, (20, 26, 30), modalities=2)
        for suffix, array in (("flair", image[0]), ("t1ce", rng.normal(size=label.shape).astype(np.float32))):
            write(array, tmp_path / f"d/c{case}/c{case}_{suffix}.nii.gz")
        write(label, tmp_path / f"d/c{case}/c{case}_seg.nii.gz")
    (tmp_path / "r.toml").write_text(RECIPE)
    flags = ("--recipe", str(tmp_path / "r.toml"), "--preset", preset)
    here = store_digest(tmp_path / "d", tmp_path / "here", *flags)
    plain = store_digest(
        tmp_path / "d", tmp_path / "plain", *flags, NUMBA_CPU_NAME="generic", NUMBA_CACHE_DIR=str(tmp_path / "cache"),
        NPY_DISABLE_CPU_FEATURES=disabled_numpy_features(),
    )  # fmt: skip
    assert here == plain
