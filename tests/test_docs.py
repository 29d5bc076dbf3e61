"""What the documents show is what the code does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from servers import nginx

from geols_precompute import softlabel
from geols_precompute.cli import precompute as cli
from geols_precompute.cli import store as store_cli
from geols_precompute.recipe.files import assemble_recipe, load_recipe_file
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


def test_python_in_the_sharing_document_runs(nnunet, tmp_path, monkeypatch):
    root = nnunet("data", cases=3)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.precompute, ["--workers", "0", str(root)]).exit_code == 0
    (block,) = code_blocks("docs/sharing.md", "python")
    assert len([line for line in block.splitlines() if line.strip()]) == 15
    names: dict[str, Any] = {}
    exec(compile(block, "docs/sharing.md", "exec"), names)
    # the last batch holds the third case alone
    store, volumes, box = names["Cases"].labels, names["Cases"].volumes, (slice(0, 8),) * 3
    maps = softlabel.class_maps(store.maps("case_02", box), channels=(1, 2), present=(0, 1, 2), n_classes=3)
    wanted = softlabel.geols(volumes.label("case_02", box), maps, alpha=0.1)
    np.testing.assert_allclose(names["soft"][0].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("document", ["README.md", "docs/sharing.md", "docs/training.md", "docs/clusters.md"])
def test_every_flag_in_a_document_exists(document):
    commands: dict[str, click.Command] = {"geols-precompute": cli.precompute}
    commands |= {f"geols-store {name}": command for name, command in store_cli.store.commands.items()}
    commands |= {"geols-train": train_cli.train, "geols-predict": train_cli.predict}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for line in re.findall(r"^(geols-\S+.*)$", "\n".join(code_blocks(document, "bash")), re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in project
        command = commands.get(words[0]) or commands[" ".join(words[:2])]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def run_blocks(document: str, replacements: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the bash blocks of a document, in order, in one shell that stops at the first failure."""
    script = "\n".join(block for block in code_blocks(document, "bash") if not block.startswith("pip "))
    for text, replacement in replacements.items():
        assert text in script
        script = script.replace(text, replacement)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip


def test_the_story_of_the_sharing_document(nnunet, tmp_path):
    nnunet("data", cases=4)
    tiny = "geols-train --epochs 1 --features 4,8 --split 2,1,1 --device cpu"
    (published,) = re.findall(r"--digest (\w+)", (ROOT / "docs/sharing.md").read_text())
    with nginx(tmp_path / "public") as server:
        done = run_blocks(
            "docs/sharing.md",
            {
                "https://www.lab-a.example/maps": server.url,
                # lab B has no stores yet
                published: "$(sha256sum < data/geols/labels.zarr/manifest.json | cut -c1-64) && rm -r data/geols",
                "geols-train": tiny,
            },
            tmp_path,
        )
    assert done.returncode == 0, done.stderr
