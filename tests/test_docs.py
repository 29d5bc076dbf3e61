"""What the documents show is what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner

from geols_precompute import cli, store_cli
from geols_precompute.recipes import assemble_recipe, load_recipe_file
from geols_precompute.store.layout import MAPS, array_metadata
from geols_train import cli as train_cli

ROOT = Path(__file__).parents[1]


def code_blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_array_metadata_in_the_format_document():
    block = next(b for b in code_blocks("docs/store-format.md", "json") if "chunk_grid" in b)
    assert json.loads(block) == array_metadata(MAPS, (4, 112, 160, 208))


def test_the_recipe_in_the_method_document(tmp_path):
    (block,) = code_blocks("docs/method.md", "toml")
    (tmp_path / "r.toml").write_text(block)
    recipe = assemble_recipe(load_recipe_file(str(tmp_path / "r.toml")), data_classes=None, data_modalities=())
    assert recipe.maps.seeds == "random-5"
    assert recipe.preprocessing.ignore == 255


def test_python_in_the_readme_runs(nnunet, tmp_path, monkeypatch):
    root = nnunet("data", cases=1)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.precompute, ["--workers", "0", str(root)]).exit_code == 0
    blocks = code_blocks("README.md", "python")
    assert blocks
    for block in blocks:
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
        assert names["soft"].shape == (3, 12, 14, 16)
        np.testing.assert_allclose(names["soft"].sum(axis=0), 1, atol=1e-6)


def test_every_flag_in_the_readme_exists():
    commands: dict[str, click.Command] = {"geols-precompute": cli.precompute}
    commands |= {f"geols-store {name}": command for name, command in store_cli.store.commands.items()}
    commands |= {"geols-train": train_cli.train, "geols-predict": train_cli.predict}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for line in re.findall(r"^(geols-\S+.*)$", "\n".join(code_blocks("README.md", "bash")), re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in project
        command = commands.get(words[0]) or commands[" ".join(words[:2])]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line
