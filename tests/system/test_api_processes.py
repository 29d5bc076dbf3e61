"""The public names of the package: lazy, typed, and with examples that run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geols_precompute

ROOT = Path(__file__).parents[2]


# what a package imports shows in a new interpreter only
@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import geols_precompute", {"numpy", "SimpleITK", "numba", "dask", "scipy", "click", "tqdm"}),
        ("import geols_precompute; geols_precompute.__version__", {"numpy", "SimpleITK", "numba", "dask", "scipy"}),
        ("from geols_precompute import GeolsError", {"numpy", "SimpleITK", "numba", "dask", "scipy"}),
        ("from geols_precompute import LabelStore, VolumeStore", {"SimpleITK", "numba", "dask", "scipy", "tqdm"}),
        ("from geols_precompute import soft_label", {"SimpleITK", "numba", "dask", "scipy"}),
        ("from geols_precompute import geodesic_distance, Recipe, load_recipe, ClassTable", {"SimpleITK", "dask"}),
    ],
)
def test_a_name_is_imported_when_it_is_first_used(code, absent):
    code += f"\nimport sys; print(sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


SCRIPT = """
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import geols_precompute
from geols_precompute import (
    ClassTable,
    GeolsError,
    LabelStore,
    MapParameters,
    Maps,
    Recipe,
    Summary,
    VolumeStore,
    compute_maps,
    geodesic_distance,
    load_recipe,
    precompute,
    soft_label,
)

release: str = geols_precompute.__version__
recipe: Recipe = Recipe(
    classes={1: "liver"},
    modalities=("ct",),
    spacing=(2.0, 1.0, 1.0),
    clip=(1.0, 99.0),
    maps=MapParameters(seeds="erosion", metric="riemannian", iterations="exact", decay=0.5),
)
other: Recipe = load_recipe("flare2021")
changed: MapParameters = recipe.maps.changed(preset="paper", iterations=6)
channels: tuple[int, ...] = recipe.resolve(modalities=("ct",)).channels
try:
    summary: Summary = precompute(Path("data"), recipe=recipe, out="out", workers=0)
except GeolsError as error:
    text: str = str(error)
failures: Mapping[str, str] = summary.failures
digest: str | None = summary.digest

store: LabelStore = LabelStore.open("x")
maps: NDArray[np.uint8] = LabelStore.open("x").maps("a")
window = (slice(0, 2), slice(0, 3), slice(0, 4))
part: NDArray[np.float32] = store.class_maps("a", window)
table: ClassTable = store.classes
index: int = table.find("liver")
names: list[str] = [label.name for label in table]
cases: list[str] = [case for case in store]
count: int = len(store)
shown: str = repr(store)

volumes: VolumeStore = VolumeStore.open(Path("v"))
image: NDArray[np.float32] = volumes.intensities("a", window)
stored: NDArray[np.int16] = volumes.image("a")
label: NDArray[np.uint8] = volumes.label("a", window)
soft: NDArray[np.float32] = store.soft_label("a", label, alpha=0.2, normalize="none", window=window)
by_hand: NDArray[np.float32] = soft_label(label, part, method="geols", alpha=0.1)
smooth: NDArray[np.float32] = soft_label(label, method="ls", n_classes=2)

values = np.zeros((4, 5, 6), np.int32)
indices: NDArray[np.uint8] = table.indices(values)
made: Maps = compute_maps(image, values, (2.0, 1.0, 1.0), classes={1: "liver"}, recipe=recipe)
again: Maps = compute_maps(image, values, volumes.metadata("a").geometry.spacing_zyx, classes=table)
g: NDArray[np.float32] = made.class_maps()
distance: NDArray[np.float32] = geodesic_distance(image, label[np.newaxis] > 0, (2.0, 1.0, 1.0), lam=0.5)
"""


WRONG = """
import geols_precompute
from geols_precompute import LabelStore, precompute

geols_precompute.LabelStor
LabelStore.open("x").map("a")
precompute("data", worker=0)
number: int = LabelStore.open("x").maps("a")
"""


@pytest.mark.slow
def test_a_users_script_is_type_checked(tmp_path):
    """As where the package is installed: it is found on the path of modules and believed for its py.typed."""
    imported = re.search(r"from geols_precompute import \((.*?)\)", SCRIPT, re.DOTALL)[1]
    assert re.findall(r"\w+", imported) == geols_precompute.__all__
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "script.py", "wrong.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    errors = re.findall(r"^(\w+)\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert [(file, int(line)) for file, line, _ in errors] == [("wrong", line) for line in (5, 6, 7, 8)], done.stdout
    assert "LabelStor" in errors[0][2]
