"""What those rely on who carry on: CONTRIBUTING.md works as written, and --help, citation and hooks say what is so."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest
from datasets import ball_case, write

import geols_precompute
from geols_precompute import LabelStore, MapParameters, Recipe, VolumeStore, compute_maps
from geols_precompute.cli import precompute as precompute_cli
from geols_train import cli as train_cli
from geols_train.config import TrainConfig

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").is_file():
    ROOT = ROOT.parent

RECIPES = (ROOT / "CONTRIBUTING.md").read_text().split("\n### ")[1:]
SPACING = (2.0, 1.5, 1.0)
PRECOMPUTE = "from geols_precompute.cli.precompute import precompute; precompute()"
TRAIN = "from geols_train.cli import train; train()"


# --- the recipes ---------------------------------------------------------------------------------------------------

#: A block of code and where it goes: a new file, or a place beside a line that is named by how it begins.
BLOCK = re.compile(
    r"^(?:`(?P<new>\S+\.py)`, new|(?:In `(?P<file>\S+\.py)`,|and) (?P<place>before|in place of) `(?P<line>[^`]+)`):\n"
    r"\n```python\n(?P<code>.*?)```",
    re.DOTALL | re.MULTILINE,
)


def apply(recipe: str, tree: Path) -> set[str]:
    """Apply the blocks of a recipe to a copy of the sources; return the files that were written."""
    written: list[str] = []
    for block in BLOCK.finditer(recipe):
        written.append(block["new"] or block["file"] or written[-1])
        path = tree / written[-1]
        assert path.exists() != bool(block["new"])
        path.write_text(block["code"] if block["new"] else placed(path.read_text(), **block.groupdict()))
    assert len(written) == recipe.count("```python")
    return set(written)


def placed(text: str, *, line: str, place: str, code: str, **_: object) -> str:
    """Return a module's text with code before the first line that begins with `line`, or in place of its statement."""
    lines = text.splitlines(keepends=True)
    number = next(n for n, there in enumerate(lines) if there.lstrip().startswith(line))
    indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
    added = textwrap.indent(code, indent) + "\n\n" * code.startswith("def ")
    statements = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt))
    end = number if place == "before" else next(s.end_lineno for s in statements if s.lineno == number + 1)
    return "".join([*lines[:number], added, *lines[end:]])


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> tuple[Path, set[str]]:
    """A copy of the sources with all additions of the page, and the files that these changed."""
    copy = tmp_path_factory.mktemp("extended")
    for package in ("geols_precompute", "geols_train"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy, set().union(*(apply(recipe, copy) for recipe in RECIPES))


@pytest.fixture(scope="module")
def run(extended, tmp_path_factory):
    """Run Python code in the copy, with arguments."""
    tree, machine_code = extended[0], tmp_path_factory.mktemp("numba")
    environment = {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(machine_code), "OMP_NUM_THREADS": "1"}

    def python(code: str, *arguments: object) -> None:
        code = f"import geols_precompute; print(geols_precompute.__file__)\n{code}"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tree,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stdout.startswith(str(tree))

    return python


@pytest.fixture(scope="module")
def made(run, tmp_path_factory) -> Path:
    """Stores of a data set in the new layout, with seeds of the new strategy."""
    data = tmp_path_factory.mktemp("pairs")
    for number in range(5):
        image, label = ball_case(number, (8, 9, 10))
        write(image[0], data / f"scans/c{number}.nii.gz", spacing=SPACING[::-1])
        write(label, data / f"contours/c{number}.nii.gz", spacing=SPACING[::-1])
    run(PRECOMPUTE, "--workers", 0, "--seeds", "extremes", "--classes", "1=a,2=b", data)
    return data


def test_the_four_recipes_are_there():
    assert len(RECIPES) == 4


def test_the_additions_are_in_the_style_of_the_sources(extended):
    tree, files = extended
    for check in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, "--no-cache", *sorted(files)], cwd=tree, check=True)


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
    run(PRECOMPUTE, "--workers", 0, *flags, made)
    store = LabelStore.open(made / f"geols/{metric}.zarr")
    assert store.recipe["maps"]["engine"] == {"name": "shortest", "version": 1}
    image, label = ball_case(1, (8, 9, 10))
    recipe = Recipe(maps=MapParameters(seeds="centroid", iterations="exact", metric=metric))
    ours = compute_maps(image, label, SPACING, classes=store.classes, recipe=recipe)
    np.testing.assert_allclose(store.maps("c1").astype(int), ours.stored.astype(int), atol=1)


def test_a_new_method_trains(made, run, tmp_path):
    small = ["--features", "4,8", "--split", "3,1,1", "--epochs", 1, "--device", "cpu", "--precision", "float32"]
    run(TRAIN, "--method", "box", *small, "--out", tmp_path / "run", made)
    assert '"method": "box"' in (tmp_path / "run/summary.json").read_text()


def test_the_twins_of_a_new_method_are_equal(run, tmp_path):
    label = ball_case(0, (8, 9, 10))[1]
    label[:2, 3:5] = 255
    np.save(tmp_path / "label.npy", label)
    run(
        """
import sys
import numpy as np, torch
import geols_precompute, geols_train
label = np.load(sys.argv[1])
soft = geols_precompute.soft_label(label, method="box", n_classes=3)
twin = geols_train.soft_label(torch.from_numpy(label[np.newaxis]), method="box", n_classes=3)
np.savez(sys.argv[2], soft=soft, twin=twin[0].numpy())
""",
        tmp_path / "label.npy",
        tmp_path / "twins.npz",
    )
    twins = np.load(tmp_path / "twins.npz")
    soft = twins["soft"]
    np.testing.assert_allclose(soft.sum(axis=0), label != 255, atol=1e-6)
    assert 0 < soft[1].max() <= 1
    assert len(np.unique(soft.round(4))) > 5
    np.testing.assert_allclose(twins["twin"], soft, atol=1e-6)


# --- help ---------------------------------------------------------------------------------------------------------


def options_of(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@pytest.mark.parametrize("command", [precompute_cli.precompute, train_cli.train], ids=lambda command: command.name)
def test_every_option_stands_under_a_heading_once(command):
    names = [name for listed in command.headings.values() for name in listed.split()]
    of_all_commands = {"debug", "version", "config_file"}
    assert sorted([*names, *of_all_commands & {p.name for p in command.params}]) == sorted(
        option.name for option in options_of(command)
    )
    text = command.get_help(click.Context(command))
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [*command.headings, "Other", "Example"]
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
    assert citation.get("version", geols_precompute.__version__) == geols_precompute.__version__
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
    for command in (*commands["pre-commit"], *commands["pre-push"]):
        assert any(f"{rule} ".startswith(f"{command} ") for rule in rules), command


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
