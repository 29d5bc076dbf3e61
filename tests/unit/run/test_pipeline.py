"""Runs in process: resume, changed sources, failures that cost nothing else, and outputs that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ball_case, write
from runs import plan_of, run

from geols_precompute.errors import OutputError
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.run import state, task
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.store.reader import LabelStore, VolumeStore


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_volumes_and_maps_are_what_the_files_hold(nnunet, tmp_path):
    root = nnunet(cases=2, modalities=2)
    run(root, tmp_path / "out")
    volumes, labels = VolumeStore.open(tmp_path / "out/volumes.zarr"), LabelStore.open(tmp_path / "out/labels.zarr")
    assert volumes.cases == labels.cases == ("case_00", "case_01")
    assert volumes.modalities == ("m0", "m1")
    assert labels.geols["licence"] == "CC-BY 4.0"
    for number, case in enumerate(volumes.cases):
        image, label = ball_case(number, modalities=2)
        scale, offset = volumes.scale_offset(case)
        decoded = volumes.image(case) * scale[:, None, None, None] + offset[:, None, None, None]
        np.testing.assert_array_equal(decoded, image)
        np.testing.assert_array_equal(volumes.label(case), label)
        assert volumes.metadata(case).geometry.spacing == (1.0, 1.5, 2.0)
        assert labels.maps(case).shape == (2, *label.shape)
        assert labels.present(case) == (0, 1, 2)
        stored = labels.metadata(case).geols
        assert stored["source"] == volumes.metadata(case).geols["source"]
        assert set(stored["seeds"]) == set(stored["stats"]) == {"1", "2"}


def test_a_second_run_computes_nothing_and_ends_the_same(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    assert (first.computed, first.unchanged) == (3, 0)
    again = run(root, out)
    assert (again.computed, again.unchanged, again.digest) == (0, 3, first.digest)


def test_another_name_reuses_the_volumes(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    image = out / "volumes.zarr/case_00/image/c/0/0/0/0"
    before = image.stat().st_mtime_ns
    other = run(root, out, name="erosion", seeds="erosion")
    assert other.computed == 3
    assert other.digest != first.digest
    assert image.stat().st_mtime_ns == before
    assert run(root, out).digest == first.digest


def test_touched_sources_are_read_again_and_changed_ones_computed_again(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    os.utime(root / "labelsTr/case_01.nii.gz")
    touched = run(root, out)
    assert (touched.computed, touched.unchanged, touched.digest) == (0, 3, first.digest)
    _, label = ball_case(99)
    write(label, root / "labelsTr/case_01.nii.gz", spacing=(1.0, 1.5, 2.0))
    changed = run(root, out)
    assert (changed.computed, changed.unchanged) == (1, 2)
    assert changed.digest != first.digest
    np.testing.assert_array_equal(VolumeStore.open(out / "volumes.zarr").label("case_01"), label)
    fresh = run(root, tmp_path / "fresh")
    assert fresh.digest == changed.digest


def test_a_change_seen_by_one_label_store_is_not_missed_by_the_other(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    run(root, out)
    run(root, out, name="erosion", seeds="erosion")
    _, label = ball_case(99)
    write(label, root / "labelsTr/case_01.nii.gz", spacing=(1.0, 1.5, 2.0))
    run(root, out)
    assert run(root, out, name="erosion", seeds="erosion").computed == 1


def test_an_interrupted_run_goes_on_where_it_stopped(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "out"
    undisturbed = run(root, tmp_path / "whole")
    plan = plan_of(root, out)
    create_stores(plan)

    class StopsAfterTwo(InProcess):
        def run(self, function, tasks):
            yield from super().run(function, tasks[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(plan, StopsAfterTwo())
    with state.log_path(out, state.STATE).open("ab") as file:
        file.write(b'{"case":"case_02","sour')
    resumed = run(root, out)
    assert (resumed.computed, resumed.unchanged, resumed.digest) == (2, 2, undisturbed.digest)


def test_a_damaged_committed_case_is_computed_again(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    (out / "labels.zarr/case_01/maps/c/0/0/0/0").write_bytes(b"")
    shutil.rmtree(out / "volumes.zarr/case_02/label")
    repaired = run(root, out)
    assert (repaired.computed, repaired.digest) == (2, first.digest)


def test_a_committed_case_whose_metadata_was_edited_is_computed_again(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    path = out / "labels.zarr/case_01/zarr.json"
    path.write_text(path.read_text().replace('"present":[0,1,2]', '"present":[0,1]'))
    repaired = run(root, out)
    assert (repaired.computed, repaired.digest) == (1, first.digest)


def test_a_case_that_fails_since_its_source_changed_leaves_the_manifest(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    path = root / "labelsTr/case_01.nii.gz"
    good = path.read_bytes()
    _, label = ball_case(1)
    write(label * 9, path, spacing=(1.0, 1.5, 2.0))
    assert list(run(root, out).failures) == ["case_01"]
    for name in ("labels", "volumes"):
        assert "case_01" not in json.loads((out / f"{name}.zarr/manifest.json").read_text())["cases"]
    path.write_bytes(good)
    assert run(root, out).digest == first.digest


def test_cases_that_left_the_data_stay_and_are_named(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    for part in ("imagesTr/case_01_0000", "labelsTr/case_01"):
        (root / f"{part}.nii.gz").unlink()
    assert plan_of(root, out).strays == ("case_01",)
    assert run(root, out).digest == first.digest


def test_a_store_without_a_case_takes_any_recipe(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    create_stores(plan_of(root, out, iterations=9))
    assert run(root, out).computed == 3


def test_damaged_state_is_passed_over(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    with state.log_path(out, state.STATE).open("ab") as file:
        file.write(b'{"case":[1]}\n{"case":"case_00","sources":5}\n[[1,2]]\n5\n\xff\n' + b"[" * 100_000 + b"\n")
    again = run(root, out)
    assert (again.computed, again.digest) == (0, first.digest)


def test_an_output_inside_a_store_is_refused(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    run(root, out)
    with pytest.raises(OutputError, match="lies in the store"):
        run(root, out / "labels.zarr" / "deeper")


def test_a_fifo_in_the_output_does_not_hang_a_run(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    path = out / "labels.zarr/case_01/zarr.json"
    path.unlink()
    os.mkfifo(path)
    assert run(root, out).digest == first.digest


def test_bad_cases_fail_one_by_one_and_the_rest_goes_on(nnunet, tmp_path):
    root = nnunet(cases=9)
    images, labels = root / "imagesTr", root / "labelsTr"
    _, label = ball_case(0)
    spacing = (1.0, 1.5, 2.0)

    def image_path(n):
        return images / f"case_{n:02d}_0000.nii.gz"

    def label_path(n):
        return labels / f"case_{n:02d}.nii.gz"

    image_path(0).unlink()
    write(label[:, 1:], label_path(1), spacing=spacing)
    write(label, label_path(2), spacing=(1.0, 1.5, 2.5))
    nan = np.full(label.shape, np.nan, np.float32)
    write(nan, image_path(3), spacing=spacing)
    label_path(4).unlink()
    write(label * 3, label_path(5), spacing=spacing)
    write(label.astype(np.float32) * 0.25, label_path(6), spacing=spacing)
    image_path(7).write_bytes(image_path(7).read_bytes()[:200])
    summary = run(root, tmp_path / "out")
    assert summary.computed == 1
    assert list(summary.failures) == [f"case_0{number}" for number in range(8)]
    reasons = {case[-1]: reason for case, reason in summary.failures.items()}
    for number, says in {
        "0": "does not exist",
        "1": "size",
        "2": "spacing",
        "3": "NaN",
        "4": "has no label",
        "5": r"label values without a class: 3",
        "6": "not a whole number",
        "7": "compressed data end early",
    }.items():
        assert says in reasons[number], (number, reasons[number])
        assert "\n" not in reasons[number]
        assert f"case_0{number}" in reasons[number]
    written = records(tmp_path / "out/failures.jsonl")
    assert {r["case"]: r["reason"] for r in written} == summary.failures
    assert LabelStore.open(tmp_path / "out/labels.zarr").cases == ("case_08",)
    # mended data: the next run takes up the rest and the list of failures is empty
    shutil.rmtree(root)
    nnunet(cases=9)
    assert run(root, tmp_path / "out").failures == {}
    assert records(tmp_path / "out/failures.jsonl") == []


def test_a_source_that_changes_while_it_is_read_is_caught(nnunet, tmp_path, monkeypatch):
    root = nnunet(cases=1)
    read = task.read_source

    def read_and_touch(case, preprocessing, classes):
        found = read(case, preprocessing, classes)
        os.utime(case.label)
        return found

    monkeypatch.setattr(task, "read_source", read_and_touch)
    summary = run(root, tmp_path / "out")
    assert "changed while it was read" in summary.failures["case_00"]


def test_an_unexpected_error_costs_one_case_only(nnunet, tmp_path, monkeypatch):
    root = nnunet()
    compute = task.MapStream

    def fails_once(*args, case, **options):
        if case == "case_01":
            raise ZeroDivisionError("oops")
        return compute(*args, case=case, **options)

    monkeypatch.setattr(task, "MapStream", fails_once)
    summary = run(root, tmp_path / "out")
    assert summary.computed == 2
    assert summary.failures == {"case_01": "unexpected ZeroDivisionError: oops (--debug shows where)"}
    assert list(summary.traces) == ["case_01"]
    assert "in fails_once" in summary.traces["case_01"]


def test_a_full_disk_stops_the_run_and_keeps_what_is_committed(nnunet, tmp_path, monkeypatch):
    import errno

    root, out = nnunet(), tmp_path / "out"
    commit = task.commit_case
    calls = []

    def full_after_three(*args, **options):
        calls.append(args[1])
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(out / "x"))
        return commit(*args, **options)

    monkeypatch.setattr(task, "commit_case", full_after_three)
    with pytest.raises(OutputError, match="no space left; free some and run the same command again"):
        run(root, out)
    monkeypatch.undo()
    resumed = run(root, out)
    assert (resumed.computed, resumed.unchanged) == (2, 1)


def test_an_output_that_is_a_file_is_refused(nnunet, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="--out"):
        run(nnunet(), tmp_path / "out")


def test_training_hints_change_no_digest_and_outlive_a_run_without_a_recipe(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    first = run(root, out)
    plan = plan_of(root, out)
    hinted = replace(plan, recipe=replace(plan.recipe, hints=TrainingHints(crop=(8, 8, 8))))
    create_stores(hinted)
    # the manifest fits at once, so that no reader meets a root that differs from it
    assert VolumeStore.open(out / "volumes.zarr").geols["training"]["crop"] == [8, 8, 8]
    assert run(root, out).digest == first.digest
    assert VolumeStore.open(out / "volumes.zarr").geols["training"]["crop"] == [8, 8, 8]


def test_the_state_holds_a_record_for_each_case_that_ended(nnunet, tmp_path):
    root, out = nnunet(), tmp_path / "out"
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    (root / "labelsTr/case_02.nii.gz").unlink()
    summary = run(root, out)
    # a case that cannot be read at all comes first
    missing, computed, failed = records(out / "state.jsonl")
    assert (missing["case"], missing["status"], missing["failed"]) == (
        "case_02",
        "failed",
        summary.failures["case_02"],
    )
    assert (computed["case"], computed["status"]) == ("case_00", "computed")
    assert list(computed["seconds"]) == ["commit maps", "commit volume", "maps", "prepare", "read"]
    assert all(seconds >= 0 for seconds in computed["seconds"].values())
    assert "failed" not in computed
    assert [Path(path).name for path, *_ in computed["sources"]] == ["case_00_0000.nii.gz", "case_00.nii.gz"]
    assert (failed["case"], failed["status"], failed["failed"]) == ("case_01", "failed", summary.failures["case_01"])
    assert "sources" not in failed
    for record in (computed, failed):
        assert record["store"] == "labels"
        assert record["peak_memory"] > 1e7
        assert record["worker"].endswith(f":{os.getpid()}")
        assert record["at"] <= time.time()


def test_a_record_of_a_case_whose_volume_is_there_or_that_is_unchanged(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "out"
    run(root, out)
    run(root, out, name="erosion", seeds="erosion")
    os.utime(root / "labelsTr/case_00.nii.gz")
    run(root, out)
    first, other, pending, touched = records(out / "state.jsonl")
    assert (pending["status"], pending["store"]) == ("pending", "labels")
    assert [record["store"] for record in (first, other, touched)] == ["labels", "erosion", "labels"]
    assert [record["status"] for record in (first, other, touched)] == ["computed", "computed", "unchanged"]
    assert list(other["seconds"]) == ["commit maps", "maps", "prepare", "read"]
    assert list(touched["seconds"]) == ["read"]
    assert first["source"] == other["source"] == touched["source"]
    assert first["sources"] != touched["sources"]


def test_every_case_that_ends_is_told_with_why_it_failed(nnunet, tmp_path):
    root = nnunet()
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    plan = plan_of(root, tmp_path / "out")
    create_stores(plan)
    told = []
    summary = execute(plan, InProcess(), lambda case, error: told.append((case, error)))
    assert told == [("case_00", ""), ("case_01", summary.failures["case_01"]), ("case_02", "")]
