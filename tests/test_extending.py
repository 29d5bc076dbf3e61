"""What those rely on who carry on: CONTRIBUTING.md works as written, and --help, citation and hooks say what is so."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from conftest import ball_case, write

import geols_precompute
from geols_precompute import LabelStore, VolumeStore
from geols_precompute.cli import precompute as precompute_cli
from geols_precompute.maps.case import compute_maps
from geols_precompute.recipe.parameters import MapParameters
from geols_train import cli as train_cli
from geols_train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PACKAGES = ("geols_precompute", "geols_train")
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
#: Title to text of each recipe, for instance "A seed strategy: 2 files".
RECIPES = dict(part.split("\n", 1) for part in TEXT.split("\n### ")[1:])
SPACING = (2.0, 1.5, 1.0)


# --- the recipes ---------------------------------------------------------------------------------------------------


def replaced(text: str, hunk: str) -> str:
    """Return a file's text with the hunk of a diff applied: what it shows must be there once."""
    lines = hunk.strip("\n").split("\n")
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(before) == 1, f"{text.count(before)} times:\n{before}"
    return text.replace(before, after)


def apply(recipe: str, tree: Path) -> tuple[set[str], set[str]]:
    """Apply the blocks of a recipe to a copy of the sources; return the files that were changed, and the new ones."""
    changed, new = set(), set()
    for name, text in re.findall(r"^`(\S+\.py)`, new:\n\n```python\n(.*?)```", recipe, re.DOTALL | re.MULTILINE):
        assert not (tree / name).exists()
        (tree / name).write_text(text)
        new.add(name)
    for block in re.findall(r"```diff\n(.*?)```", recipe, re.DOTALL):
        for part in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
            name, *hunks = re.split(r"\n@@\n", part)
            for hunk in hunks:
                (tree / name).write_text(replaced((tree / name).read_text(), hunk))
            changed.add(name)
    return changed, new


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources with all additions of the page."""
    copy = tmp_path_factory.mktemp("extended")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for title, recipe in RECIPES.items():
        changed, new = apply(recipe, copy)
        count, plus = re.fullmatch(r".*: (\d) files?( and a new one)?", title).groups()
        assert (len(changed), len(new)) == (int(count), 1 if plus else 0), title
    return copy


@pytest.fixture(scope="module")
def run(tree, tmp_path_factory):
    """Run a command of the copy: run("geols_precompute.cli.precompute.precompute", *arguments)."""
    machine_code = tmp_path_factory.mktemp("numba")

    def command(name: str, *arguments: object) -> None:
        module, function = name.rsplit(".", 1)
        code = f"import {module} as m; print(m.__file__); m.{function}()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], cwd=tree, timeout=200, text=True, check=False,
            capture_output=True, env={
                **os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(machine_code), "OMP_NUM_THREADS": "1"
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.startswith(str(tree))

    return command


@pytest.fixture(scope="module")
def made(run, tmp_path_factory) -> Path:
    """Stores of a data set in the new layout, with seeds of the new strategy."""
    data = tmp_path_factory.mktemp("pairs")
    for number in range(5):
        image, label = ball_case(number, (8, 9, 10))
        write(image[0], data / f"images/c{number}.nii.gz", spacing=SPACING[::-1])
        write(label, data / f"labels/c{number}.nii.gz", spacing=SPACING[::-1])
    run(
        "geols_precompute.cli.precompute.precompute",
        "--workers",
        0,
        "--seeds",
        "extremes",
        "--classes",
        "1=a,2=b",
        data,
    )
    return data


def test_the_additions_are_in_the_style_of_the_house(tree):
    files = set(re.findall(r"^(?:--- |`)(geols_\w+/\S+\.py)", "".join(RECIPES.values()), re.MULTILINE))
    assert len(files) == 9
    for check in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, "--no-cache", *files], cwd=tree, check=True)


def test_a_new_layout_is_recognised(made):
    volumes = VolumeStore.open(made / "geols/volumes.zarr")
    assert volumes.cases == ("c0", "c1", "c2", "c3", "c4")
    np.testing.assert_array_equal(volumes.label("c3"), ball_case(3, (8, 9, 10))[1])


def test_a_new_seed_strategy_places_the_seeds(made):
    store = LabelStore.open(made / "geols/labels.zarr")
    assert store.recipe["maps"]["seeds"] == "extremes"
    for case in store.cases:
        label = VolumeStore.open(made / "geols/volumes.zarr").label(case)
        for value, maps in zip((1, 2), store.maps(case), strict=True):
            voxels = np.argwhere(label == value)
            ends = voxels[[*voxels.argmin(axis=0), *voxels.argmax(axis=0)]]
            assert (maps[tuple(ends.T)] == 255).all()
            found = store.metadata(case).geols["seeds"][str(value)]
            assert found == {"count": len(np.unique(ends, axis=0)), "fallbacks": 0}


@pytest.mark.parametrize("metric", ["gradient", "riemannian"])
def test_a_new_engine_measures_the_distances(made, run, metric):
    flags = ["--engine", "shortest", "--iterations", "exact", "--metric", metric]
    flags += ["--seeds", "centroid", "--classes", "1=a,2=b", "--name", metric]
    run("geols_precompute.cli.precompute.precompute", "--workers", 0, *flags, made)
    store = LabelStore.open(made / f"geols/{metric}.zarr")
    assert store.recipe["maps"]["engine"] == {"name": "shortest", "version": 1}
    image, label = ball_case(1, (8, 9, 10))
    ours = compute_maps(
        image, label, SPACING, parameters=MapParameters(seeds="centroid", iterations="exact", metric=metric),
        classes=store.classes, modalities=["image"], case_id="c1",
    )  # fmt: skip
    np.testing.assert_allclose(store.maps("c1").astype(int), ours.stored.astype(int), atol=1)


def test_a_new_method_trains_and_its_twins_are_equal(made, run, tree, tmp_path):
    small = ["--features", "4,8", "--split", "3,1,1", "--epochs", 1, "--device", "cpu", "--precision", "float32"]
    run("geols_train.cli.train", "--method", "box", *small, "--out", tmp_path / "run", made)
    assert '"method": "box"' in (tmp_path / "run/summary.json").read_text()

    numpy_twin, torch_twin = (loaded(tree / f) for f in ("geols_precompute/softlabel.py", "geols_train/targets.py"))
    label = ball_case(0, (8, 9, 10))[1]
    label[:2, 3:5] = 255
    soft = numpy_twin.soft_label("box", label, n_classes=3)
    np.testing.assert_allclose(soft.sum(axis=0), label != 255, atol=1e-6)
    assert 0 < soft[1].max() <= 1
    assert len(np.unique(soft.round(4))) > 5
    (twin,) = torch_twin.soft_label("box", torch.from_numpy(label[np.newaxis]), n_classes=3).numpy()
    np.testing.assert_allclose(twin, soft, atol=1e-6)


def loaded(path: Path):
    """A module of the copy, beside the one that is imported."""
    spec = importlib.util.spec_from_file_location(f"extended_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the map, the tests -------------------------------------------------------------------------------------------


def test_the_map_of_the_tree_names_every_module_and_no_other():
    (block,) = re.findall(r"```text\n(geols_precompute/.*?)```", TEXT, re.DOTALL)
    named, folders = [], []
    for line in block.splitlines():
        indent, name, what = re.fullmatch(r"( *)(\S+) *(.*)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        if name.endswith(".py"):
            named.append("".join(folders))
            assert what, f"{name} has no line of its own"
    there = [path.relative_to(ROOT).as_posix() for p in PACKAGES for path in (ROOT / p).rglob("*.py")]
    assert sorted(named) == sorted(there)


def test_every_test_file_is_named_and_no_other():
    named = re.findall(r"^\| (test_\w+\.py) \|", TEXT, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "tests").glob("test_*.py"))


# --- help ---------------------------------------------------------------------------------------------------------


def options_of(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("module", [precompute_cli, train_cli], ids=PACKAGES)
def test_every_option_stands_under_a_heading_once(module):
    command = module.precompute if module is precompute_cli else module.train
    names = [name for listed in module.HEADINGS.values() for name in listed.split()]
    of_all_commands = {"debug", "config_file"}
    assert sorted([*names, *of_all_commands & {p.name for p in command.params}]) == sorted(
        option.name for option in options_of(command)
    )
    text = command.get_help(click.Context(command))
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [*module.HEADINGS, "Other"]
    for option in options_of(command):
        assert len(re.findall(rf"^  .*{option.opts[0]}\b(?!-)", text, re.MULTILINE)) >= 1


@pytest.mark.parametrize("command", [precompute_cli.precompute, train_cli.train])
def test_every_option_says_what_it_is_and_its_default(command):
    context = click.Context(command)
    for option in options_of(command):
        _, text = option.get_help_record(context)
        assert not text.startswith("["), option.name
        assert (option.is_flag and not option.secondary_opts) or "[default: " in text, option.name


@pytest.mark.parametrize("command", [precompute_cli.precompute, train_cli.train])
def test_defaults_in_the_help_are_those_of_the_code(command):
    configuration = MapParameters if command is precompute_cli.precompute else TrainConfig
    defaults = {field.name: field.default for field in fields(configuration)}
    known = [option for option in options_of(command) if defaults.get(option.name) is not None]
    assert len(known) > 8
    for option in known:
        (said,) = re.findall(r"\[default: (.*)\]$", option.help)
        wanted = defaults[option.name]
        if isinstance(wanted, bool):
            assert said == (option.opts if wanted else option.secondary_opts)[0].removeprefix("--"), option.name
        elif isinstance(wanted, int | float):
            assert float(said) == wanted, option.name
        else:
            assert said == (",".join(map(str, wanted)) if isinstance(wanted, tuple) else wanted), option.name


# --- citation and hooks -------------------------------------------------------------------------------------------


def parsed(name: str):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation():
    citation = parsed("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == geols_precompute.__version__
    assert citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Adiga V", "Dolz", "Lombaert"]
    assert paper["title"].removeprefix("GeoLS: ") in " ".join((ROOT / "README.md").read_text().split())


def test_the_changelog_has_the_version():
    assert re.search(rf"^## \[?{re.escape(geols_precompute.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_hooks_run_what_make_test_runs():
    (repository,) = parsed(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    commands: dict[str, list[str]] = {}
    for hook in repository["hooks"]:
        shell, _, script = shlex.split(hook["entry"])
        assert (shell, hook["language"], hook["pass_filenames"]) == ("sh", "system", False)
        (stage,) = hook["stages"]
        commands.setdefault(stage, []).append(script.removeprefix('PATH=".venv/bin:$PATH" exec '))
    rules = re.findall(r"^\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands == {
        "pre-commit": ["ruff check .", "ruff format --check .", "mypy"],
        "pre-push": ["python -m pytest"],
    }
    assert {*commands["pre-commit"], *commands["pre-push"]} <= set(rules)


def test_a_hook_runs_from_the_virtual_environment_or_the_path(tmp_path):
    script = shlex.split(parsed(".pre-commit-config.yaml")["repos"][0]["hooks"][0]["entry"])
    done = []
    for folder in (tmp_path / "bin", tmp_path / ".venv/bin"):
        folder.mkdir(parents=True)
        (folder / "ruff").write_text(f"#!/bin/sh\necho {folder} $*\n")
        (folder / "ruff").chmod(0o755)
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        done.append(subprocess.check_output(script, cwd=tmp_path, env=environment, text=True).strip())
    assert done == [f"{tmp_path / 'bin'} check .", f"{tmp_path / '.venv/bin'} check ."]
