"""--part i/n: jobs that know nothing of each other fill one store, and finalize writes its manifest."""

from __future__ import annotations

import json
import shutil

import pytest
from commands import digest, error_line, precompute, store
from datasets import ball_case, write
from runs import plan_of

from geols_precompute.errors import InputError
from geols_precompute.run import state
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import Part
from geols_precompute.run.task import Outcome, run_case
from geols_precompute.store.reader import LabelStore, VolumeStore


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_item_is_in_exactly_one_part(count):
    items = list(range(13))
    parts = [Part(i, count).of(items) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", "1.0/2", " 1/2", "1/2\n"])
def test_what_is_no_part(text):
    with pytest.raises(InputError, match=r"(?s)--part .*give i/n with i from 1 to n"):
        Part.parse(text)


def test_finalize_waits_for_all_parts_unless_told(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "o"
    precompute("--out", out, "--part", "1/2", root)
    for path in (out, out / "labels.zarr", out / "volumes.zarr"):
        line = error_line(store("finalize", path))
        assert "2 planned cases are missing, the first is case_01; run geols-precompute again, or the part" in line
    assert not list(out.glob("*.zarr/manifest.json"))
    assert store("finalize", "--partial", out).exit_code == 0
    assert LabelStore.open(out / "labels.zarr").cases == ("case_00", "case_02")
    # the other part goes on, whatever the manifest says by now
    precompute("--out", out, "--part", "2/2", root)
    assert LabelStore.open(out / "labels.zarr").cases == ("case_00", "case_02")
    assert store("finalize", out).exit_code == 0
    assert len(LabelStore.open(out / "labels.zarr").cases) == 4


def test_a_part_runs_again_where_it_stopped_and_knows_what_others_did(nnunet, tmp_path):
    root, out = nnunet(cases=6), tmp_path / "o"
    precompute("--out", out, "--part", "1/2", root)
    assert "0 cases computed, 3 unchanged" in precompute("--out", out, "--part", "1/2", root).output
    assert "3 cases computed, 0 unchanged" in precompute("--out", out, "--part", "2/2", root).output
    # dealt out in another way
    assert "0 cases computed, 2 unchanged" in precompute("--out", out, "--part", "3/3", root).output


def test_a_failed_case_keeps_finalize_waiting_and_its_reason_is_told(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "o"
    good = (root / "labelsTr/case_01.nii.gz").read_bytes()
    (root / "labelsTr/case_01.nii.gz").write_bytes(good[:-20])
    assert precompute("--out", out, "--part", "1/2", root).exit_code == 0
    result = precompute("--out", out, "--part", "2/2", root)
    assert result.exit_code == 1
    assert "failed: case_01: " in result.output
    assert set(state.known_failures(out)) == {"case_01"}
    assert (out / "failures-2-of-2.jsonl").read_text().count("case_01.nii.gz") == 1
    line = error_line(store("finalize", out))
    assert "1 planned case is missing: case_01 (" in line
    assert "case_01.nii.gz: the compressed data end early" in line
    (root / "labelsTr/case_01.nii.gz").write_bytes(good)
    assert precompute("--out", out, "--part", "2/2", root).exit_code == 0
    assert state.known_failures(out) == {}
    assert store("finalize", out).exit_code == 0


def test_a_case_that_fails_now_is_not_published_as_it_was(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, root)
    (root / "labelsTr/case_00.nii.gz").write_bytes(b"")
    assert precompute("--out", out, "--part", "1/2", root).exit_code == 1
    assert "case_00" in error_line(store("finalize", out))
    store("finalize", "--partial", out)
    assert LabelStore.open(out / "labels.zarr").cases == ("case_01",)


def test_the_last_word_on_a_case_counts_whatever_its_file(tmp_path):
    log = state.log_path(tmp_path, state.STATE, "-1-of-2"), state.log_path(tmp_path, state.STATE)
    state.append(log[1], state.failed_record("a", "labels", "bad", 1), state.failed_record("b", "labels", "worse", 1))
    for case, path, file, name in (("a", "/x", log[0], "labels"), ("b", "/y", log[1], "other")):
        outcome = Outcome(case=case, status="computed", sources=((path, 3, 0, 7, 8),), source="digest")
        state.append(file, outcome.as_record(name, 2))
    assert state.known_failures(tmp_path) == {"b": "worse"}
    assert state.known_failures(tmp_path, "labels") == {"b": "worse"}
    assert state.known_failures(tmp_path, "other") == {}
    assert state.known_sources(tmp_path) == {
        "a": {(("/x", 3, 0, 7, 8),): {"digest"}},
        "b": {(("/y", 3, 0, 7, 8),): {"digest"}},
    }


def damage(root, case):
    path = root / f"labelsTr/{case}.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])


def change(root, case, seed=50):
    image, _ = ball_case(seed)
    write(image[0].astype("int16"), root / f"imagesTr/{case}_0000.nii.gz", spacing=(1.0, 1.5, 2.0))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["--part", "2/2"], ["--part", "1/3"]),
        (["--part", "2/2"], ["--part", "1/2"]),
        (["--name", "b", "--part", "2/2"], []),
        ([], ["--part", "1/3"]),
    ],
)
def test_a_failed_case_is_not_published_as_it_was_whatever_runs_next(nnunet, tmp_path, first, second):
    root, out = nnunet(cases=4), tmp_path / "o"
    precompute("--out", out, root)
    damage(root, "case_01")
    assert precompute("--out", out, *first, root).exit_code == 1
    described = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(described | {"licence": "other terms"}))
    if second:
        precompute("--out", out, *second, root)
    assert "case_01" in error_line(store("finalize", out / "volumes.zarr"))
    store("finalize", "--partial", out / "volumes.zarr")
    assert "case_01" not in VolumeStore.open(out / "volumes.zarr").cases
    if "--name" not in first:
        assert "case_01" in error_line(store("finalize", out / "labels.zarr"))
        assert "case_01" not in LabelStore.open(out / "labels.zarr").cases


def test_a_part_that_is_stopped_after_a_failure_has_said_so(nnunet, tmp_path):
    root, out = nnunet(cases=3), tmp_path / "o"
    precompute("--out", out, root)
    damage(root, "case_00")
    change(root, "case_01")
    plan = plan_of(root, out)

    class Stops(InProcess):
        def run(self, function, tasks):
            yield function(tasks[0])
            raise KeyboardInterrupt

    create_stores(plan)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, Stops())
    # the other was to be computed again, and was not
    assert set(state.known_failures(out)) == {"case_00", "case_01"}
    assert "end early" in state.known_failures(out)["case_00"]
    assert state.known_failures(out)["case_01"] == state.PENDING
    assert "case_00" in error_line(store("finalize", out))


def test_maps_made_from_other_files_than_their_volume_are_not_published(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, "--part", "1/1", root)
    change(root, "case_00")
    precompute("--out", out, "--part", "1/1", "--name", "b", "--lam", "0.5", root)
    line = error_line(store("finalize", out / "labels.zarr"))
    assert "case_00 (its maps were made from other files than its volume)" in line
    assert store("finalize", out / "b.zarr", out / "volumes.zarr").exit_code == 0
    store("finalize", "--partial", out / "labels.zarr")
    assert LabelStore.open(out / "labels.zarr").cases == ("case_01",)


def test_what_is_computed_again_is_computed_once(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "o"
    precompute("--out", out, root)
    for case in ("case_00", "case_02"):
        change(root, case)
    assert "2 cases computed" in precompute("--out", out, "--part", "1/2", root).output
    # until all parts are done, the manifest names neither the old nor the new
    assert LabelStore.open(out / "labels.zarr").cases == ("case_01", "case_03")
    for _ in range(2):
        assert "0 cases computed, 2 unchanged" in precompute("--out", out, "--part", "1/2", root).output
    assert "0 cases computed, 4 unchanged" in precompute("--out", out, root).output


def test_files_that_are_restored_are_not_taken_for_what_the_stores_hold(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    expected = digest(precompute("--out", out, root))
    shutil.copytree(root, tmp_path / "backup")
    change(root, "case_00")
    plan = plan_of(root, out)
    create_stores(plan)
    # committed, but killed before it was booked
    assert run_case(plan.tasks[0]).status == "computed"
    shutil.copytree(tmp_path / "backup", root, dirs_exist_ok=True)
    result = precompute("--out", out, root)
    assert "1 case computed, 1 unchanged" in result.output
    assert digest(result) == expected


@pytest.mark.parametrize("content", [b"", b'{"planned": ["case_0', b"[]", b'{"planned": "abc"}'])
def test_a_damaged_plan_does_not_pass_for_none(nnunet, tmp_path, content):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, "--part", "1/2", root)
    (out / "plan.json").write_bytes(content)
    assert "plan.json: is damaged; move it away, and run geols-precompute again" in error_line(store("finalize", out))
    assert "plan.json: was not written by geols" in error_line(precompute("--out", out, "--part", "2/2", root))


def test_cases_that_cannot_be_used_at_all_are_planned_too(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    (root / "labelsTr/case_01.nii.gz").unlink()
    precompute("--out", out, "--part", "1/2", root)
    precompute("--out", out, "--part", "2/2", root)
    assert "1 planned case is missing: case_01 (" in error_line(store("finalize", out))


def test_a_source_that_changes_is_computed_again_by_its_part(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "o"
    for part in ("1/2", "2/2"):
        precompute("--out", out, "--part", part, root)
    store("finalize", out)
    image, _ = ball_case(50)
    write(image[0].astype("int16"), root / "imagesTr/case_02_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    assert "1 case computed, 1 unchanged" in precompute("--out", out, "--part", "1/2", root).output
    assert "0 cases computed, 2 unchanged" in precompute("--out", out, "--part", "2/2", root).output
    store("finalize", out)
    assert LabelStore.open(out / "labels.zarr").digest == digest(precompute("--out", tmp_path / "new", root))


def test_finalize_of_what_is_no_store(tmp_path):
    line = error_line(store("finalize", tmp_path))
    assert "no store, and none in it; name the output folder of geols-precompute, or a store" in line
