"""The documentation site: it builds without a warning and without the network, and has every page and public name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import geols_precompute
import geols_train

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").is_file():
    ROOT = ROOT.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, str]:
    """The built site, and what Zensical said."""
    if not (find_spec("zensical") and find_spec("mkdocstrings")):
        pytest.skip('zensical or mkdocstrings is missing; run: pip install ".[docs]"')
    copy = tmp_path_factory.mktemp("documentation")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    for folder in ("docs", "geols_precompute", "geols_train"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # an address that leads nowhere stands between the build and the network
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=copy,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "site", done.stdout + done.stderr


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


@pytest.mark.parametrize("package", [geols_precompute, geols_train], ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_api(site, package):
    page = (site[0] / "api.html").read_text()
    for name in package.__all__:
        identity = f"{getattr(package, name).__module__}.{name}"
        assert f'href="#{identity}"' in page
        assert f'id="{identity}"' in page


def test_methods_that_classes_inherit_and_examples_are_in_the_api(site):
    page = (site[0] / "api.html").read_text()
    for store in ("LabelStore", "VolumeStore"):
        assert f'id="geols_precompute.store.reader.{store}.open"' in page
    # code in docstrings is shown as code
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page


def test_no_search_is_shown_that_would_not_work_from_the_disk(site):
    assert "md-search" not in re.sub(r"<style.*?</style>", "", (site[0] / "index.html").read_text(), flags=re.DOTALL)


def test_studies_leave_no_pages(site):
    assert not list(site[0].glob("results/*/runs"))


def test_a_link_that_leads_nowhere_ends_the_build(site):
    copy = site[0].parent
    (copy / "docs/data.md").write_text("# Your data\n\n[there](nowhere.md)\n")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "page does not exist" in done.stdout + done.stderr
