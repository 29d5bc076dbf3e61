"""Stores and data that have drifted apart: training says so, and --prune drops what is gone."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from click.testing import CliRunner
from commands import digest, error_line, precompute
from datasets import ball_case, write

from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_train.cli import train
from geols_train.stores import notes_of_data, open_stores


def remove(root, case):
    (root / f"imagesTr/{case}_0000.nii.gz").unlink()
    (root / f"labelsTr/{case}.nii.gz").unlink()


def notes(root):
    return notes_of_data(open_stores(root, "labels", maps_needed=True))


def test_training_says_what_failed_what_changed_and_what_is_gone(nnunet, tmp_path):
    root = nnunet(cases=6)
    write(ball_case(5)[1] * 9, root / "labelsTr/case_05.nii.gz", spacing=(1.0, 1.5, 2.0))
    assert precompute(root).exit_code == 1
    assert len(notes(root)) == 1
    remove(root, "case_00")
    path = root / "labelsTr/case_01.nii.gz"
    path.write_bytes(path.read_bytes())
    expected = [
        "no maps, as geols-precompute failed or was ended: 1 case (case_05); failures.jsonl says why",
        "files changed since the maps were made: 1 case (case_01); run geols-precompute again",
        "no longer in the data: 1 case (case_00); geols-precompute --prune drops what is gone",
    ]
    assert notes(root) == expected
    arguments = ["--epochs", "1", "--features", "4,8", "--split", "2,1,2", "--device", "cpu", "--workers", "0"]
    result = CliRunner().invoke(train, [str(root), *arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if "case_0" in line] == [f"note: {line}" for line in expected]
    # the same voxels: reading them again settles it
    assert precompute("--prune", root).exit_code == 1
    assert notes(root) == expected[:1]


def test_stores_on_another_machine_are_not_called_gone(nnunet, tmp_path):
    root = nnunet()
    precompute(root)
    shutil.move(root / "geols", tmp_path / "elsewhere")
    shutil.rmtree(root)
    assert notes(tmp_path / "elsewhere") == []
    os.remove(tmp_path / "elsewhere/state.jsonl")
    (tmp_path / "elsewhere/plan.json").write_text("x")
    assert notes(tmp_path / "elsewhere") == []


def test_prune_drops_what_is_gone_and_gives_the_store_of_the_rest(nnunet, tmp_path):
    root = nnunet()
    precompute(root)
    remove(root, "case_01")
    result = precompute(root)
    assert "note: 1 case of the stores, not in" in result.output
    assert "--prune is given: case_01" in result.output
    result = precompute("--prune", root)
    assert f"dropped 1 case not in {root}: case_01" in result.output
    assert "note:" not in result.output
    for store in (LabelStore.open(root / "geols/labels.zarr"), VolumeStore.open(root / "geols/volumes.zarr")):
        assert store.cases == ("case_00", "case_02")
        assert not (store.path / "case_01").exists()
    fresh = precompute("--out", tmp_path / "fresh", root)
    assert digest(result) == digest(fresh)
    assert "dropped" not in precompute("--prune", root).output


def test_prune_drops_what_is_gone_from_the_stores_of_other_recipes_too(nnunet):
    root = nnunet()
    precompute(root)
    precompute("--seeds", "centroid", "--name", "centroid", root)
    remove(root, "case_01")
    precompute("--prune", root)
    for name in ("labels", "centroid"):
        assert LabelStore.open(root / f"geols/{name}.zarr").cases == ("case_00", "case_02")


def test_a_case_that_cannot_be_read_now_is_not_gone(nnunet):
    root = nnunet()
    precompute(root)
    (root / "labelsTr/case_01.nii.gz").unlink()
    result = precompute("--prune", root)
    assert "dropped" not in result.output
    assert "failed: case_01: " in result.output
    assert (root / "geols/volumes.zarr/case_01").exists()


@pytest.mark.parametrize("other", [("--part", "1/2"), ("--dry-run",), ("--preview", "case_00")])
def test_prune_goes_with_runs_of_all_cases_only(nnunet, other):
    line = error_line(precompute("--prune", *other, nnunet()))
    assert other[0] in line
    assert "leave" in line


def test_the_manifests_never_list_what_is_not_there(nnunet, monkeypatch):
    root = nnunet()
    precompute(root)
    remove(root, "case_01")
    monkeypatch.setattr(
        "geols_precompute.run.prune.remove_case", lambda *args: (_ for _ in ()).throw(OSError(28, "full"))
    )
    assert "no space left" in error_line(precompute("--prune", root))
    manifest = json.loads((root / "geols/labels.zarr/manifest.json").read_text())
    assert sorted(manifest["cases"]) == ["case_00", "case_02"]
