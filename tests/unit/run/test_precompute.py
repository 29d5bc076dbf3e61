"""`precompute`, the one call that the command makes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from commands import digest
from commands import precompute as command
from datasets import ball_case, write
from runs import Heard

from geols_precompute import LabelStore, MapParameters, Recipe, VolumeStore, precompute
from geols_precompute.errors import InputError, RecipeError, StoreError


def test_it_does_what_the_command_does(nnunet, tmp_path):
    root = nnunet()
    flags = ("--seeds", "erosion", "--preset", "paper", "--iterations", "6", "--clip", "1", "99")
    expected = digest(command(*flags, "--out", tmp_path / "command", root))
    maps = MapParameters().changed(preset="paper", seeds="erosion", iterations=6)
    summary = precompute(str(root), recipe=Recipe(maps=maps, clip=(1.0, 99.0)), out=str(tmp_path / "call"), workers=0)
    assert summary.digest == expected
    assert (summary.computed, summary.reused, summary.unchanged, summary.failures) == (3, 0, 0, {})
    assert (summary.labels, summary.volumes) == (tmp_path / "call/labels.zarr", tmp_path / "call/volumes.zarr")
    assert LabelStore.open(summary.labels).digest == expected
    assert VolumeStore.open(summary.volumes).digest == VolumeStore.open(tmp_path / "command/volumes.zarr").digest


def test_without_options_it_is_the_command_without_flags(nnunet, tmp_path, capfd):
    root = nnunet(cases=2)
    summary = precompute(root, workers=0)
    assert summary.labels == root / "geols/labels.zarr"
    assert summary.digest == digest(command("--out", tmp_path / "o", root))
    again = precompute(root, workers=0)
    assert (again.computed, again.unchanged, again.digest) == (0, 2, summary.digest)
    # by default nobody hears anything
    assert capfd.readouterr() == ("", "")


def test_progress_hears_lines_and_cases(nnunet, tmp_path):
    root, heard = nnunet(), Heard()
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    summary = precompute(root, out=tmp_path / "o", workers=0, progress=heard)
    assert heard.lines[0].splitlines()[0] == "nnU-Net: 3 cases, classes 1 organ1, 2 organ2"
    assert heard.announced == [(3, "maps")]
    assert heard.ended == [("case_00", ""), ("case_01", summary.failures["case_01"]), ("case_02", "")]
    assert heard.closed == 1
    again = Heard()
    precompute(root, out=tmp_path / "o", workers=0, progress=again)
    assert again.announced == [(1, "maps")]
    assert "finished already: 2 cases" in again.lines[0]


def test_failures_notes_and_traces_are_by_case(nnunet, tmp_path):
    root = nnunet()
    (root / "labelsTr/case_02.nii.gz").write_bytes(b"")
    (root / "imagesTr/case_01_0000.nii.gz").unlink()
    image, _ = ball_case(0)
    write((image[0] * 0).astype(np.int16), root / "imagesTr/case_00_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    summary = precompute(root, out=tmp_path / "o", workers=0)
    assert list(summary.failures) == ["case_01", "case_02"]
    assert "does not exist" in summary.failures["case_01"]
    assert "case_02.nii.gz" in summary.failures["case_02"]
    assert list(summary.traces) == ["case_02"]
    assert "read_source" in summary.traces["case_02"]
    (note,) = summary.notes["case_00"]
    assert "span only 0" in note
    assert LabelStore.open(summary.labels).cases == ("case_00",)
    assert summary.digest is not None


def test_a_part_has_no_digest(nnunet, tmp_path):
    root = nnunet()
    summary = precompute(root, out=tmp_path / "o", workers=0, part="1/2", name="b")
    assert (summary.computed, summary.digest, summary.labels) == (2, None, tmp_path / "o/b.zarr")
    with pytest.raises(StoreError, match="run geols-store finalize"):
        LabelStore.open(summary.labels)


def test_maps_of_another_store_are_taken(nnunet, tmp_path):
    root = nnunet()
    first = precompute(root, out=tmp_path / "a", workers=0)
    summary = precompute(root, out=tmp_path / "b", workers=0, reuse=str(first.labels))
    assert (summary.reused, summary.computed, summary.digest) == (3, 0, first.digest)


def test_wrong_arguments_are_refused_and_nothing_is_written(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "o"
    for arguments, error, says in (
        ({"workers": 2, "scheduler": "tcp://localhost:1"}, RecipeError, "--workers belongs to a cluster on this"),
        ({"workers": 0, "scheduler": "tcp://localhost:1"}, RecipeError, "--workers belongs to a cluster on this"),
        ({"name": "../x"}, RecipeError, "--name"),
        ({"part": "3/2"}, InputError, "--part 3/2: give i/n"),
        ({"part": ""}, InputError, "--part : give i/n"),
        ({"recipe": Recipe(maps=MapParameters(modalities="t9"))}, RecipeError, "choose average, joint, or one of m0"),
        ({"reuse": str(tmp_path / "none.zarr")}, StoreError, "no such store"),
        ({"recipe": Recipe(ignore=1)}, RecipeError, "both a class and the ignore"),
    ):
        with pytest.raises(error, match=says):
            precompute(root, out=out, **{"workers": 0} | arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no known layout"):
        precompute(tmp_path / "empty", out=out, workers=0)
    assert not out.exists()


def test_data_and_output_may_be_relative_paths(nnunet, tmp_path, monkeypatch):
    nnunet("data")
    monkeypatch.chdir(tmp_path)
    summary = precompute("data", out=Path("o"), workers=0)
    assert not os.path.isabs(summary.labels)
    assert len(LabelStore.open("o/labels.zarr")) == 3


def test_a_recipe_names_what_the_data_do_not(tmp_path):
    image, label = ball_case(0, classes=2)
    write(image[0], tmp_path / "d/c1/c1_img.nii.gz")
    write(np.where(label == 2, 9, label), tmp_path / "d/c1/c1_seg.nii.gz")
    with pytest.raises(RecipeError, match="does not name its label values"):
        precompute(tmp_path / "d", workers=0)
    summary = precompute(tmp_path / "d", recipe=Recipe(classes={1: "liver"}, ignore=9), workers=0)
    assert summary.failures == {}
    volumes = VolumeStore.open(summary.volumes)
    np.testing.assert_array_equal(volumes.label("c1"), np.where(label == 2, 255, label))
    assert volumes.classes.ignore == 9
