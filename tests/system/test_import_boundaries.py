"""Who may import whom: folders in one order, pure functions without files, and nothing heavy where it is not needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocking import BLOCKER, ROOT

PACKAGE = ROOT / "geols_precompute"


CLUSTER = ("dask", "distributed", "numba", "scipy", "skimage", "GeodisTK", "torch")


REMOTE = ("requests", "fsspec", "s3fs", "obstore")


HEAVY = (*CLUSTER, *REMOTE, "zarr")


#: The folders and single modules of geols_precompute: each imports from those above its own line only.
ORDER = (
    ("errors", "formatting"),
    ("arrays", "atomic", "digests", "memory", "progress", "signals"),
    ("geodesic", "softlabel"),
    ("recipe",),
    ("data",),
    ("maps", "store"),
    ("share",),
    ("run",),
    ("agreement",),
    ("report",),
    ("cli",),
)


PURE = ("geodesic", "maps", "softlabel")


#: What touches files, processes or the network.
IMPURE = {"io", "json", "logging", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib", "SimpleITK"}


def files_of(name: str) -> list[Path]:
    """Return the source files of a folder or single module of geols_precompute."""
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def neighbours(path: Path) -> set[str]:
    """Return the folders and single modules of geols_precompute that a file imports from."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("geols_precompute.")}


@pytest.mark.parametrize("level", range(len(ORDER)), ids=["+".join(names) for names in ORDER])
def test_imports_go_one_way(level):
    above = {name for names in ORDER[:level] for name in names}
    for name in ORDER[level]:
        for path in files_of(name):
            assert neighbours(path) <= above | {name}, path


def test_the_order_has_everything_that_is_there():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == {name for names in ORDER for name in names}


@pytest.mark.parametrize("name", PURE)
def test_pure_functions_touch_no_files(name):
    for path in files_of(name):
        if path == PACKAGE / "geodesic/jit.py":  # where machine code is kept
            continue
        assert not IMPURE & {name.split(".")[0] for name in imported(path)}, path
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print")], path


@pytest.mark.parametrize(
    ("package", "never"), [("geols_precompute", {"torch", "geols_train", "zarr"}), ("geols_train", {"zarr"})]
)
def test_what_a_package_never_imports(package, never):
    for path in (ROOT / package).rglob("*.py"):
        assert not never & {name.split(".")[0] for name in imported(path)}, path


def python(code: str, blocked=HEAVY) -> str:
    script = BLOCKER.format(blocked=set(blocked)) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    out = python("import geols_precompute, sys; print(sorted({'numpy', 'zarr', 'SimpleITK'} & set(sys.modules)))")
    assert out.strip() == "[]"


@pytest.fixture
def stores(nnunet, tmp_path) -> Path:
    from geols_precompute import precompute

    precompute(nnunet(cases=1), out=tmp_path / "o", workers=0)
    return tmp_path / "o"


def test_stores_are_read_and_verified_without_cluster_numba_torch_or_simpleitk(stores):
    code = f"""
from pathlib import Path
from geols_precompute import LabelStore, VolumeStore, soft_label
from geols_precompute.store.verify import open_store, strange_entries, verify_case
out = Path({str(stores)!r})
store, volumes = LabelStore.open(out / "labels.zarr"), VolumeStore.open(out / "volumes.zarr")
label = volumes.label("case_00")
print(store.maps("case_00").shape, label.shape, volumes.intensities("case_00").shape)
print(store.soft_label("case_00", label).shape, soft_label(label, store.class_maps("case_00")).shape)
for name in ("labels.zarr", "volumes.zarr"):
    opened = open_store(out / name)
    print([verify_case(opened, case) for case in opened], strange_entries(opened))
"""
    assert python(code, (*HEAVY, "SimpleITK")).splitlines() == [
        "(2, 12, 14, 16) (12, 14, 16) (1, 12, 14, 16)",
        "(3, 12, 14, 16) (3, 12, 14, 16)",
        "[None] []",
        "[None] []",
    ]


@pytest.mark.parametrize("command", ["info", "verify", "finalize"])
def test_the_command_for_stores_needs_neither(stores, command):
    code = f"""
from geols_precompute.cli.store import store
store([{command!r}, {str(stores / "labels.zarr")!r}])
"""
    assert "digest" in python(code, (*HEAVY, "SimpleITK"))


def test_files_are_read_without_cluster_or_torch():
    python("import geols_precompute.data.layouts, geols_precompute.data.prepare, geols_precompute.data.headers")


def test_maps_are_computed_in_memory_without_simpleitk_or_cluster():
    code = """
import numpy as np
from geols_precompute import compute_maps
label = np.zeros((8, 9, 10), np.int32)
label[2:6, 3:6, 2:8] = 7
print(compute_maps(label.astype(np.float32), label, (2.0, 1.0, 1.0), classes={7: "liver"}).stored.shape)
"""
    blocked = {*HEAVY, "SimpleITK"} - {"numba", "scipy"}
    assert python(code, blocked).strip() == "(1, 8, 9, 10)"


@pytest.mark.parametrize("missing", ["distributed", "numba", "scipy"])
def test_a_missing_extra_gives_one_line_with_the_pip_command(nnunet, missing):
    code = f"""
import sys
from geols_precompute.cli.precompute import precompute
sys.argv = ["geols-precompute", "--workers", "1", {str(nnunet(cases=1))!r}]
precompute()
"""
    script = BLOCKER.format(blocked={missing}) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f'error: {missing} is not installed; run: pip install "geols[precompute]"'
    assert "Traceback" not in done.stderr
