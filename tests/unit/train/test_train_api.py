"""The public names, as a user has them: the examples run, and a type checker knows the types."""

from __future__ import annotations

import doctest

import pytest
from train_fixtures import make_stores

from geols_train import data, loss, targets


@pytest.mark.parametrize("module", [data, loss, targets], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    make_stores(tmp_path, cases=2)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
