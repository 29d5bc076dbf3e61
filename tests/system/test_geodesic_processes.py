"""The public distance transform: what it refuses, parity with GeodisTK, layouts, threads, the compiled cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distances import digest

REPOSITORY = Path(__file__).resolve().parents[2]


PACKAGE = REPOSITORY / "geols_precompute"


def run_python(code, cwd=REPOSITORY, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests/helpers'}", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_a_plain_processor_gives_the_same_bytes(tmp_path):
    code = "import distances; print(distances.digest())"
    plain = run_python(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path))
    assert plain == digest()


@pytest.mark.parametrize("iterations", [4, pytest.param("exact", marks=pytest.mark.slow)])
def test_compiled_kernels_are_found_on_disk(tmp_path, iterations):
    code = f"from geols_precompute.geodesic import compile_kernels; compile_kernels(iterations={iterations!r})"
    run_python(code, NUMBA_CACHE_DIR=str(tmp_path))
    compiled = sorted(tmp_path.rglob("*.nb*"))
    assert compiled
    maps = (
        "import numpy as np, distances; from geols_precompute.geodesic import geodesic_distance;"
        f"geodesic_distance(*distances.random_case((9, 9, 9)), (1, 2, 3), iterations={iterations!r})"
    )
    run_python(maps, NUMBA_CACHE_DIR=str(tmp_path))
    assert sorted(tmp_path.rglob("*.nb*")) == compiled


@pytest.mark.parametrize("kernels", ["geodesic/relax.py", "maps/decay.py"])
def test_changed_kernels_get_another_cache_folder(tmp_path, kernels):
    """numba itself would go on running a kernel of one file that calls a changed one of another."""
    package = shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))

    def cache_folder_after_changing(file):
        with (package / file).open("a") as source:
            source.write("# changed\n")
        code = "import geols_precompute.maps.decay; from geols_precompute.geodesic.jit import _cache_folder"
        code += "; print(geols_precompute.__file__, _cache_folder())"
        imported, folder = run_python(code, cwd=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split()
        assert Path(imported).parent == package
        assert Path(folder).is_dir()
        return folder

    before = cache_folder_after_changing("softlabel.py")
    assert cache_folder_after_changing("errors.py") == before
    assert cache_folder_after_changing(kernels) != before


def test_importing_is_light():
    loaded = run_python("import sys, geols_precompute.geodesic; print('numba' in sys.modules, 'numpy' in sys.modules)")
    assert loaded == "False False"
