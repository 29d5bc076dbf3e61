"""The documentation site: it builds without a warning or the network, its code runs, its messages are the sources'."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import geols_precompute
from geols_precompute import softlabel
from geols_precompute.cli import precompute as cli
from geols_precompute.cli import store as store_cli
from geols_train import cli as train_cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: What several lines of a page say about the network that the tests can wait for.
TINY = "--epochs 1 --features 4,8 --split 2,1,1 --device cpu"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


# --- the site ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, str]:
    """The built site, and what mkdocs said."""
    if not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")):
        pytest.skip('mkdocs-material or mkdocstrings is missing; run: pip install ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    # an address that leads nowhere stands between the build and the network
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)], cwd=ROOT, check=False, text=True,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout + done.stderr


def test_the_site_builds_without_a_warning(site):
    assert not [line for line in site[1].splitlines() if re.search("warning|error|deprecat", line, re.IGNORECASE)]


def test_every_page_is_in_the_navigation(site):
    built, said = site
    assert "not included" not in said
    navigation = (built / "index.html").read_text()
    pages = {path.relative_to(built).as_posix() for path in built.rglob("*.html")} - {"404.html"}
    assert {"index.html", "reading.html", "troubleshooting.html", "api.html", "results/engines.html"} <= pages
    for page in pages:
        href = "./" if page == "index.html" else page
        assert re.search(rf'<a href="(?:{re.escape(href)}|index\.html)" class="md-nav__link', navigation), page


class _Loaded(HTMLParser):
    """Collects the addresses that a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev"):
            return
        named = [values.get(name) for name in ("src", "srcset", "data", *(["href"] if tag == "link" else []))]
        self.addresses += [address for address in named if address]


def test_no_page_asks_another_server_for_anything(site):
    built, _ = site
    for page in built.rglob("*.html"):
        loaded = _Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        assert not [a for a in loaded.addresses if re.match(r"(\w+:)?//", a)], page
    for style in built.rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", style.read_text()), style


def test_every_public_name_is_in_the_api(site):
    page = (site[0] / "api.html").read_text()
    for name in geols_precompute.__all__:
        assert f"#{geols_precompute._LAZY[name]}.{name}" in page
        assert f'id="{geols_precompute._LAZY[name]}.{name}"' in page
    for name in ("targets.soft_label", "fused.Mix", "losses.dice_semimetric_loss", "metrics.agreement", "unet.UNet3D"):
        assert f'id="geols_train.{name}"' in page
    # code in docstrings is shown as code
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page


def test_studies_leave_no_pages(site):
    assert not list(site[0].glob("results/*/runs"))


# --- the code ------------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(nnunet, tmp_path, monkeypatch) -> Path:
    """A folder with data/ and its stores, which the test runs in."""
    data = nnunet("data", cases=3)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.precompute, ["--workers", "0", str(data)]).exit_code == 0
    return tmp_path


def run_python(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after another and return their names."""
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


def test_python_in_the_quickstart_runs(computed, capsys):
    names = run_python("index.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == names["store"].digest
    assert said[3] == "case_02 (12, 14, 16) ['background', 'organ1', 'organ2']"


def test_python_in_the_reading_page_runs(computed):
    packed = ["pack", "data/geols/labels.zarr", "-o", "organs.zarr.zip"]
    assert CliRunner().invoke(store_cli.store, packed).exit_code == 0
    names = run_python("reading.md")
    labels, volumes = names["labels"], names["volumes"]
    maps = softlabel.class_maps(
        labels.maps("case_00"), channels=labels.channels, present=labels.present("case_00"), n_classes=3
    )
    soft = softlabel.geols(volumes.label("case_00"), maps, alpha=0.1)
    np.testing.assert_array_equal(names["soft"], soft)
    assert names["plain"].item() == pytest.approx(names["lean"].item(), rel=1e-6)
    assert names["plain"].item() == pytest.approx(np.log(3), rel=1e-6)
    assert names["shape"] == (2, 12, 14, 16)
    # without a recipe that resamples, the image's grid is that of the maps
    np.testing.assert_allclose(names["elsewhere"], maps, atol=1e-6)
    np.testing.assert_allclose(names["g"], maps[1:, 2:10, 0:8, 4:12], atol=1e-6)
    np.testing.assert_array_equal(names["by_name"]["organ2"], names["g"][1])


def test_the_commands_of_the_quickstart_run(nnunet, tmp_path):
    nnunet("data", cases=4)
    script = "\n".join(block for block in blocks("index.md", "bash") if block.startswith("geols-"))
    for text in ("--epochs 20 --features 16,32,64,128 --lr 1e-3", "geols-train --alpha 0.1\n"):
        assert text in script
        script = script.replace(text, f"geols-train --alpha 0.1 {TINY}\n" if text.endswith("\n") else TINY)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (DOCS / "index.md").read_text()
    for name in ("labels.zarr", "volumes.zarr", "plan.json", "state.jsonl", "run.jsonl", "failures.jsonl"):
        assert (tmp_path / "data/geols" / name).exists()
        assert name in said
    assert (tmp_path / "runs/labels-geols-0.1/best.pt").exists()
    assert (tmp_path / "predictions/case_00.nii.gz").exists()
    assert (tmp_path / "soft.nii.gz").exists()


def commands() -> dict[str, click.Command]:
    """Every command by its name."""
    named: dict[str, click.Command] = {"geols-precompute": cli.precompute}
    named |= {f"geols-store {name}": command for name, command in store_cli.store.commands.items()}
    return named | {"geols-train": train_cli.train, "geols-predict": train_cli.predict}


@pytest.mark.parametrize("page", ["index.md", "reading.md", "troubleshooting.md"])
def test_every_flag_of_a_page_exists(page):
    text = (DOCS / page).read_text()
    known = {
        option for command in commands().values() for p in command.params for option in (*p.opts, *p.secondary_opts)
    }
    foreign = {"--array", "--version"}  # sbatch's
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known | foreign
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`(geols-[^`]+)`", text)]:
        words = line.split("#")[0].split()
        if not words or not words[0].startswith("geols-"):
            continue
        command = commands().get(words[0]) or commands().get(" ".join(words[:2]))
        if command is None:
            assert words == ["geols-store"], line
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


# --- the messages --------------------------------------------------------------------------------------------------


def templates() -> Iterator[str]:
    """Yield the texts in the sources, docstrings aside, with … in place of what is filled in."""
    for path in sorted([*ROOT.glob("geols_precompute/**/*.py"), *ROOT.glob("geols_train/**/*.py")]):
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values]
                yield re.sub("…+", "…", "".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def quoted_messages() -> list[str]:
    """Return what the first column of the tables quotes, the last section, which has no messages, aside."""
    text = (DOCS / "troubleshooting.md").read_text().split("\n## No message")[0]
    return [m for cell in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for m in re.findall("`([^`]+)`", cell)]


def test_every_quoted_message_is_in_the_sources():
    known = list(templates())
    quoted = quoted_messages()
    assert len(quoted) >= 100
    assert len(set(quoted)) == len(quoted)
    missing = [m for m in quoted if not any(m.strip("…: ") in template for template in known)]
    assert not missing


def test_a_message_that_is_not_in_the_sources_is_noticed():
    known = list(templates())
    assert any("cannot be read as an image (…); is the file damaged?" in template for template in known)
    assert not any("cannot be read as a picture" in template for template in known)


def test_further_messages_in_the_remedies_are_in_the_sources():
    known = list(templates())
    text = (DOCS / "troubleshooting.md").read_text()
    further = [m for m in re.findall("`([^`]*…[^`]*)`", text) if m not in quoted_messages() and len(m) > 5]
    further = [m for m in further if not m.startswith(("error: …", "failed: CASE"))]
    assert len(further) >= 4
    assert not [m for m in further if not any(m.strip("…: ") in template for template in known)]
