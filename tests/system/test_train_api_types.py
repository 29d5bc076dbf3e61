"""The public names, as a user has them: the examples run, and a type checker knows the types."""

from __future__ import annotations

import re
import subprocess
import sys

from blocking import ROOT

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
