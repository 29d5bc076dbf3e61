"""Who may import whom: pure modules stay pure, reading needs no cluster, and nothing heavy is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("dask", "distributed", "numba", "skimage", "GeodisTK", "torch", "requests", "fsspec", "s3fs")

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""

#: What each room may import from the house; everything else is upstairs.
ALLOWED = {
    "errors": set(),
    "digests": set(),
    "geometry": set(),
    "cases": set(),
    "softlabel": {"errors"},
    "recipe": {"errors"},
    "tables": {"errors"},
    "layouts": {"cases", "errors", "tables"},
    "volumes": {"digests", "errors", "geometry"},
    "nifti": {"errors", "geometry"},
    "preparation": {"errors", "geometry", "volumes"},
    "kernels": set(),
    "thinning": {"kernels"},
    "seeds": {"thinning"},
    "maps": {"kernels"},
    "geodesic": {"errors", "geodesic", "kernels"},
    "recipes": {"errors", "recipe"},
    "store": {"cases", "digests", "errors", "geometry", "recipe", "store"},
    "compute": {"geodesic", "maps", "preparation", "recipe", "seeds"},
    "runlog": {"digests", "errors"},
    "parts": {"errors"},
    "memory": set(),
    "wording": set(),
    "headers": {"cases", "errors", "geometry", "volumes"},
    "resources": {"cases", "errors", "geometry", "headers", "memory", "preparation", "recipe", "wording"},
    "finalize": {"errors", "runlog", "store"},
    "trial": {"pipeline", "store", "task"},
    "dryrun": {"cases", "errors", "headers", "pipeline", "preparation", "resources", "store", "task", "trial"},
    "report": {
        "cases",
        "compute",
        "errors",
        "layouts",
        "pipeline",
        "preparation",
        "recipe",
        "report",
        "softlabel",
        "store",
        "task",
        "trial",
        "volumes",
    },
    "export": {"errors", "recipe", "softlabel", "store"},
    "reuse": {"errors", "geometry", "recipe", "store"},
    "task": {
        "cases",
        "compute",
        "digests",
        "errors",
        "memory",
        "preparation",
        "recipe",
        "reuse",
        "runlog",
        "store",
        "volumes",
    },
    "pipeline": {"cases", "digests", "errors", "parts", "recipe", "reuse", "runlog", "store", "task"},
}


def imports_of(path: Path, package: str) -> set[str]:
    """The first-level modules of `package` that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{package}.")}
    return found


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_go_one_way(module):
    path = ROOT / "geols_precompute" / module
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert files
    for file in files:
        assert imports_of(file, "geols_precompute") <= ALLOWED[module], file


def test_precompute_never_imports_torch_or_the_trainer():
    for file in (ROOT / "geols_precompute").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("torch", "geols_train")], file


def python(code: str, blocked=HEAVY) -> str:
    script = BLOCKER.format(blocked=set(blocked)) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy():
    out = python("import geols_precompute, sys; print(sorted({'numpy', 'zarr', 'SimpleITK'} & set(sys.modules)))")
    assert out.strip() == "[]"


def test_stores_are_read_without_cluster_numba_or_torch(nnunet, tmp_path):
    from click.testing import CliRunner

    from geols_precompute.cli.precompute import precompute

    CliRunner().invoke(precompute, ["--workers", "0", "--out", str(tmp_path / "o"), str(nnunet(cases=1))])
    code = f"""
from geols_precompute import LabelStore, VolumeStore
import geols_precompute.data.cases, geols_precompute.data.layouts, geols_precompute.data.volumes, geols_precompute.softlabel
store = LabelStore.open({str(tmp_path / "o/labels.zarr")!r})
print(store.maps("case_00").shape, VolumeStore.open({str(tmp_path / "o/volumes.zarr")!r}).label("case_00").shape)
"""
    assert python(code).strip() == "(2, 12, 14, 16) (12, 14, 16)"


@pytest.mark.parametrize(("missing", "extra"), [("distributed", "precompute"), ("numba", "precompute")])
def test_a_missing_extra_gives_one_line_with_the_pip_command(nnunet, missing, extra):
    code = f"""
import sys
from geols_precompute.cli.precompute import precompute
sys.argv = ["geols-precompute", "--workers", "1", {str(nnunet(cases=1))!r}]
precompute()
"""
    script = BLOCKER.format(blocked={missing}) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (f'error: {missing} is not installed; run: pip install "geols[{extra}]"')
    assert "Traceback" not in done.stderr
