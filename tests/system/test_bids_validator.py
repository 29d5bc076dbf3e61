"""geols-store export --bids, judged by the validator of BIDS."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from commands import precompute, store


def test_the_bids_validator_has_no_objection(nnunet, tmp_path):
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    assert precompute("--out", tmp_path / "o", nnunet(cases=2)).exit_code == 0
    assert store("export", tmp_path / "o/labels.zarr", "--bids", "-o", tmp_path / "bids").exit_code == 0
    assert validated(validator, tmp_path / "bids") == []
    (tmp_path / "bids/sub-case00/anat/sub-case00_softlabel.nii.gz").write_bytes(b"")
    assert validated(validator, tmp_path / "bids") != []


def validated(validator, folder):
    """The codes of the validator's errors."""
    done = subprocess.run([validator, folder, "--format", "json"], capture_output=True, check=False, timeout=120)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue["code"] for issue in issues if issue["severity"] == "error"]
