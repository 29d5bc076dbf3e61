"""The public names of the package: lazy, typed, and with examples that run."""

from __future__ import annotations

import doctest
import importlib
from importlib.metadata import version
from pathlib import Path

import pytest

import geols_precompute

ROOT = Path(__file__).parents[2]


def test_every_public_name_is_what_it_says():
    for name in geols_precompute.__all__:
        assert getattr(geols_precompute, name).__name__ == name
    assert geols_precompute.__version__ == version("geols")
    assert sorted(geols_precompute.__all__) == geols_precompute.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'geols_precompute' has no attribute 'LabelStor'"):
        geols_precompute.LabelStor  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'LabelStor'"):
        from geols_precompute import LabelStor  # noqa: F401


def modules_with_examples() -> list[str]:
    paths = [path for path in (ROOT / "geols_precompute").rglob("*.py") if ">>> " in path.read_text()]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_public_functions_and_classes_have_examples():
    for name in ("LabelStore", "Recipe", "ClassTable", "compute_maps", "geodesic_distance", "precompute", "soft_label"):
        assert ">>> " in getattr(geols_precompute, name).__doc__, name
