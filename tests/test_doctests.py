"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from geols_precompute import geodesic, maps


@pytest.mark.parametrize("package", [geodesic, maps], ids=lambda package: package.__name__)
def test_examples_in_docstrings_run(package):
    modules = [
        package,
        *(importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)),
    ]
    for module in modules:
        assert doctest.testmod(module).failed == 0


def test_the_example_of_the_distance_transform_is_found():
    assert doctest.testmod(geodesic).attempted > 0
