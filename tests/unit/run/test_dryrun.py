"""--dry-run: what a run will take, of which nothing stays."""

from __future__ import annotations

import math
import os
import re

import numpy as np
import pytest
from commands import error_line, precompute
from datasets import ball_case, write
from runs import plan_of, run

from geols_precompute.data import volumes
from geols_precompute.data.headers import read_case_header, read_header
from geols_precompute.formatting import duration, readable
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, ResolvedRecipe
from geols_precompute.run import estimate as dryrun
from geols_precompute.run import task
from geols_precompute.run.memory import needed_bytes


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def reads(monkeypatch):
    """The label files whose voxels are read from here on."""
    paths, read_source = [], task.read_source

    def counted(case, preprocessing, classes):
        paths.append(case.label.name)
        return read_source(case, preprocessing, classes)

    monkeypatch.setattr(task, "read_source", counted)
    return paths


def test_it_computes_one_case_of_median_size_and_nothing_stays(nnunet, tmp_path, reads):
    root = nnunet(cases=1)
    for number, size in enumerate((40, 20, 30), start=1):
        image, label = ball_case(number, (size, 20, 20))
        write(image[0].astype(np.int16), root / f"imagesTr/case_{number:02d}_0000.nii.gz")
        write(label, root / f"labelsTr/case_{number:02d}.nii.gz")
    before = tree(tmp_path)
    result = precompute("--workers", "2", "--dry-run", root)
    assert result.exit_code == 0, result.output
    assert tree(tmp_path) == before
    # sizes 2688, 8000, 12000, 16000
    assert reads == ["case_03.nii.gz"]
    assert "4 cases to compute, 0 finished, 0 with problems" in result.output
    seconds = float(re.search(r"case_03, of 0\.012 million voxels, took ([\d.]+) s and [\d.]+ [MG]B", result.output)[1])
    hours = float(re.search(r"time    ([\d.e-]+) CPU-hours; \d+ s with 2 workers", result.output)[1])
    assert hours * 3600 == pytest.approx(seconds * (2688 + 8000 + 12000 + 16000) / 12000, abs=0.03)
    assert re.search(r"disk    [\d.]+ kB \(volumes [\d.]+ kB, maps [\d.]+ kB\)", result.output)
    assert re.search(r"memory  \d+ MB per worker for the largest case", result.output)


def test_the_disk_is_what_the_run_takes(nnunet, tmp_path):
    root = nnunet(cases=3, shape=(30, 32, 34))
    found = dryrun.estimate(plan_of(root, tmp_path / "o"))
    run(root, tmp_path / "o")
    for name, size in (("volumes", found.volume_bytes), ("labels", found.label_bytes)):
        real = sum(p.stat().st_size for p in (tmp_path / f"o/{name}.zarr").glob("case_*/**/*") if p.is_file())
        assert size == pytest.approx(real, rel=0.1)


def test_problems_are_found_in_headers_without_reading_voxels(nnunet, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(volumes.sitk, "ReadImage", lambda *_: pytest.fail("voxels were read"))
    root = nnunet(cases=6)
    (root / "imagesTr/case_00_0000.nii.gz").write_bytes(b"nothing")
    _, label = ball_case(1, (9, 9, 9))
    write(label, root / "labelsTr/case_01.nii.gz", spacing=(1.0, 1.5, 2.0))
    _, label = ball_case(2)
    write(label, root / "labelsTr/case_02.nii.gz", spacing=(1.0, 1.5, 2.5))
    write(np.zeros((2, 12, 14, 16), np.int16)[0][:1], root / "imagesTr/case_03_0000.nii.gz")
    (root / "labelsTr/case_04.nii.gz").unlink()
    plan = plan_of(root, tmp_path / "o")
    monkeypatch.setattr(dryrun, "_computed", lambda plan, task: (task_outcome(task), 10, 20))
    found = dryrun.estimate(plan)
    reasons = {problem.case_id: problem.reason for problem in found.problems}
    assert set(reasons) == {f"case_0{i}" for i in range(5)}
    assert "cannot be read as NIfTI" in reasons["case_00"]
    assert "size (9, 9, 9) (x,y,z) differs" in reasons["case_01"]
    assert "spacing (1, 1.5, 2.5)" in reasons["case_02"]
    assert "3-D volumes are supported" in reasons["case_03"]
    assert found.cases == 1
    assert (found.volume_bytes, found.label_bytes) == (10, 20)


def task_outcome(planned):
    return task.Outcome(case=planned.case.id, status="computed", seconds={"maps": 1.0})


def test_a_sample_that_fails_is_a_problem_and_another_is_taken(nnunet, tmp_path):
    root = nnunet(cases=3)
    _, label = ball_case(1)
    write(np.where(label > 0, 7, 0).astype(np.uint8), root / "labelsTr/case_01.nii.gz", spacing=(1.0, 1.5, 2.0))
    result = precompute("--dry-run", root)
    assert result.exit_code == 1
    assert "problem: case_01: " in result.output
    assert "label values without a class: 7" in result.output
    assert "case_00, of" in result.output or "case_02, of" in result.output


def test_cases_that_all_fail_are_not_all_tried(nnunet, tmp_path, reads):
    root = nnunet(cases=9)
    for path in (root / "labelsTr").iterdir():
        write(np.full((12, 14, 16), 7, np.uint8), path, spacing=(1.0, 1.5, 2.0))
    result = precompute("--dry-run", root)
    assert result.exit_code == 1
    assert len(reads) == dryrun.MAX_SAMPLES
    assert f"{9 - dryrun.MAX_SAMPLES} cases to compute, 0 finished, {dryrun.MAX_SAMPLES} with problems" in result.output


def test_an_output_that_is_a_file(nnunet, tmp_path):
    (tmp_path / "o").write_text("mine")
    line = error_line(precompute("--dry-run", "--out", tmp_path / "o", nnunet(cases=1)))
    assert "is a file; name a folder with --out" in line


def test_what_is_finished_is_not_counted(nnunet, tmp_path):
    root = nnunet(cases=3)
    precompute(root)
    result = precompute("--dry-run", root)
    assert result.exit_code == 0
    assert "0 cases to compute, 3 finished, 0 with problems" in result.output
    assert "CPU-hours" not in result.output
    for path in root.glob("*/case_01*"):
        os.utime(path, (0, 0))
    before = tree(root)
    assert "1 case to compute, 2 finished" in precompute("--dry-run", root).output
    assert tree(root) == before
    assert "1 case to compute, 0 finished" in precompute("--dry-run", "--part", "2/3", root).output


def test_a_store_of_another_recipe_is_refused_as_in_a_run(nnunet):
    root = nnunet(cases=1)
    precompute(root)
    assert "made with other parameters" in error_line(precompute("--dry-run", "--lam", "0.5", root))


@pytest.mark.parametrize("spacing", [None, (2.0, 0.7, 1.1)])
def test_voxels_after_resampling_are_those_of_the_prepared_volume(nnunet, spacing):
    from geols_precompute.data.layouts import discover
    from geols_precompute.data.prepare import prepare, prepared_size
    from geols_precompute.recipe.parameters import Preprocessing

    case = discover(nnunet(cases=1)).cases[0]
    geometry = read_case_header(case, modalities=1)
    volume = volumes.read_volume(case.images, case.label, modalities=1)
    assert geometry == volume.geometry
    preprocessing = Preprocessing(modalities=("m0",), spacing=spacing)
    prepared = prepare(volume, preprocessing)
    assert math.prod(prepared_size(geometry, preprocessing)) == prepared.image[0].size


def test_a_header_of_several_modalities_in_one_file(tmp_path):
    import SimpleITK as sitk

    image = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16))] * 3)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    header = read_header(tmp_path / "a.nii.gz")
    assert (header.channels, header.geometry.size) == (3, (6, 5, 4))


def test_numbers_as_people_read_them():
    assert [readable(n) for n in (900, 12_345_678, 2.5e9, 3.21e12)] == ["0.9 kB", "12.3 MB", "2.5 GB", "3.21 TB"]
    assert [duration(n) for n in (59.6, 600, 7200 * 3)] == ["60 s", "10 min", "6.0 h"]


def test_what_a_killed_trial_left_is_removed_by_the_next(nnunet):
    root = nnunet()
    left = root / f".tmp-{'0123456789abcdef' * 2}"
    (left / "volumes.zarr").mkdir(parents=True)
    assert precompute("--dry-run", root).exit_code == 0
    assert not list(root.glob(".tmp-*"))


@pytest.mark.parametrize(("kept", "rater", "read"), [(True, "1", 4), (False, "majority", 4), (False, "1", 0)])
def test_raters_that_are_read_take_memory(kept, rater, read):
    def need(raters):
        preprocessing = Preprocessing(modalities=("ct",), rater=rater, keep_raters=kept)
        recipe = ResolvedRecipe(classes=ClassTable.from_names({1: "a"}), preprocessing=preprocessing)
        return needed_bytes(10**8, 10**8, recipe, raters=raters)

    # label values of the files in 4 bytes, class indices in 1
    assert need(4) - need(0) == read * 5 * 10**8
