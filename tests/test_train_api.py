"""The public names, as a user has them: the examples run, and a type checker knows the types."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys

import pytest
from test_import_boundaries import ROOT
from train_fixtures import make_stores

from geols_train import data, loss, targets


@pytest.mark.parametrize("module", [data, loss, targets], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    make_stores(tmp_path, cases=2)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


SCRIPT = """
import torch
from geols_precompute import LabelStore
from geols_train import LabelMaps, SoftCrossEntropy, soft_label

store = LabelStore.open("labels.zarr")
loss = SoftCrossEntropy.for_store(store, alpha=0.1)
reveal_type(loss)
item = LabelMaps(store)[0]
reveal_type(item["case"])
reveal_type(item["maps"])
reveal_type(soft_label(torch.zeros(1, 2, 3, 4), method="ce", n_classes=2))
soft_label(torch.zeros(1, 2, 3, 4), method="cee", n_classes=2)
SoftCrossEntropy(chanels=(1, 2))
"""


def test_a_type_checker_knows_a_users_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "from geols_train import SoftCrossEntrpy\n")
    # with the project's own settings, which are strict, and its cache
    mypy = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", str(script)]
    checked = subprocess.run(mypy, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    found = "\n".join(line for line in checked.stdout.splitlines() if "script.py:" in line)
    revealed = [line.split(".")[-1] for line in re.findall(r'Revealed type is "([^"]+)"', found)]
    assert revealed == ["SoftCrossEntropy", "str", "Tensor", "Tensor"], found
    errors = re.findall(r"error: .*\[(.*)\]", found)
    assert errors == ["arg-type", "call-arg", "attr-defined"], found
