"""Two runs at once, runs that were cut short, folders prepared by others: one is refused by name, nothing is mixed."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from commands import digest, error_line, precompute, store
from datasets import ball_case, write
from stores import contents

from geols_precompute.atomic import in_use, is_in_use
from geols_precompute.errors import OutputError, StoreError
from geols_precompute.recipe.parameters import MapParameters, Recipe
from geols_precompute.run import state, task
from geols_precompute.run.dask import InProcess
from geols_precompute.run.execute import create_stores, execute
from geols_precompute.run.plan import plan_run
from geols_precompute.run.task import run_case
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.writer import committed_case, remove_case


def plan_of(root, out, name="labels", part=None, **maps):
    return plan_run(root, recipe=Recipe(maps=MapParameters().changed(**maps)), out=out, name=name, part=part)


def relabel(root: Path, case: str, seed: int = 60) -> None:
    """Correct the label map of a case."""
    write(ball_case(seed)[1], root / f"labelsTr/{case}.nii.gz", spacing=(1.0, 1.5, 2.0))


def label_of(root: Path, out: Path, case: str) -> bool:
    """Whether the volume store has the label map that the file holds."""
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(root / f"labelsTr/{case}.nii.gz")))
    return np.array_equal(zarr.open_array(out / "volumes.zarr" / case / "label", mode="r")[...], voxels)


def source(out: Path, name: str, case: str) -> dict:
    return json.loads((out / f"{name}.zarr/{case}/zarr.json").read_text())["attributes"]["geols"]["source"]


def listed(out: Path, name: str = "labels") -> list[str]:
    return sorted(json.loads((out / f"{name}.zarr/manifest.json").read_text())["cases"])


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_run_whose_store_was_given_another_recipe_commits_nothing_more(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    first, second = plan_of(root, out, part="1/2"), plan_of(root, out, part="2/2", lam=0.25)
    create_stores(first)
    create_stores(second)
    execute(second, InProcess())
    with pytest.raises(OutputError, match=r"a run with other parameters \(recipe.maps.lam: 1.0, store has 0.25\)"):
        execute(first, InProcess())
    assert committed_case(out / "labels.zarr", "case_00") is None
    assert committed_case(out / "labels.zarr", "case_01") is not None
    assert "case_00" in error_line(store("finalize", out / "labels.zarr"))


def test_the_later_of_two_runs_is_refused_while_the_first_has_no_case_yet(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    create_stores(plan_of(root, out))
    with in_use(out / "labels.zarr"):
        line = error_line(precompute("--out", out, "--lam", "0.25", root))
        assert "is being filled by a run with other parameters (recipe.maps.lam: 0.25, store has 1" in line
        assert "--name" in line
        # of one recipe, several may fill it
        assert precompute("--out", out, root).exit_code == 0
    shutil.rmtree(out)
    create_stores(plan_of(root, out))
    assert precompute("--out", out, "--lam", "0.25", root).exit_code == 0


def test_other_classes_are_another_store(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    first = plan_of(root, out)
    create_stores(first)
    described = json.loads((root / "dataset.json").read_text())
    described["labels"] = {"background": 0, "organ1": 2, "organ2": 1}
    (root / "dataset.json").write_text(json.dumps(described))
    create_stores(plan_of(root, out))
    with pytest.raises(OutputError, match="classes"):
        execute(first, InProcess())


def test_a_mark_of_use_ends_with_it(tmp_path):
    assert not is_in_use(tmp_path)
    with in_use(tmp_path), in_use(tmp_path):
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_case_whose_label_is_corrected_while_it_is_computed_is_made_from_the_new_label(nnunet, tmp_path, monkeypatch):
    root, out = nnunet(cases=1), tmp_path / "o"
    compute, corrected = task.MapStream, []

    def corrected_meanwhile(*arguments, **options):
        if not corrected:
            corrected.append(relabel(root, "case_00"))
        return compute(*arguments, **options)

    monkeypatch.setattr(task, "MapStream", corrected_meanwhile)
    assert precompute("--out", out, root).exit_code == 0
    assert label_of(root, out, "case_00")
    assert source(out, "volumes", "case_00") == source(out, "labels", "case_00")
    monkeypatch.undo()
    assert store("verify", "--data", root, out / "labels.zarr").exit_code == 0
    assert "1 unchanged" in precompute("--out", out, root).output


def test_a_slow_run_does_not_put_old_maps_back(nnunet, tmp_path, monkeypatch):
    root, out = nnunet(cases=2), tmp_path / "o"
    slow = plan_of(root, out)
    create_stores(slow)
    compute, expected = task.MapStream, []

    def suspended(*arguments, case, **options):
        if not expected:
            monkeypatch.undo()
            relabel(root, case)
            expected.append(digest(precompute("--out", out, root)))
        return compute(*arguments, case=case, **options)

    monkeypatch.setattr(task, "MapStream", suspended)
    summary = execute(slow, InProcess())
    assert (summary.computed, summary.unchanged, summary.failures) == (0, 2, {})
    assert summary.digest == expected[0] == LabelStore.open(out / "labels.zarr").digest
    assert label_of(root, out, "case_00")


def test_a_case_that_a_slow_run_could_not_read_and_another_has_done_since_stays(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    good = (root / "labelsTr/case_00.nii.gz").read_bytes()
    (root / "labelsTr/case_00.nii.gz").write_bytes(b"")
    slow = plan_of(root, out)
    create_stores(slow)

    class Suspended(InProcess):
        def run(self, function, tasks):
            yield function(tasks[0])
            (root / "labelsTr/case_00.nii.gz").write_bytes(good)
            assert precompute("--out", out, root).exit_code == 0
            yield function(tasks[1])

    assert set(execute(slow, Suspended()).failures) == {"case_00"}
    assert listed(out) == ["case_00", "case_01"]


def test_files_that_keep_changing_are_a_failure(nnunet, tmp_path, monkeypatch):
    root, out = nnunet(cases=1), tmp_path / "o"
    compute, seeds = task.MapStream, iter(range(60, 70))

    def changing(*arguments, **options):
        relabel(root, "case_00", next(seeds))
        return compute(*arguments, **options)

    monkeypatch.setattr(task, "MapStream", changing)
    result = precompute("--out", out, root)
    assert result.exit_code == 1
    assert "a file of the case changed while it was computed; run again" in result.output


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_another_file_of_the_same_size_and_time_is_noticed(nnunet, tmp_path, suffix):
    root, out = nnunet(cases=1, ending=suffix), tmp_path / "o"
    label = root / f"labelsTr/case_00{suffix}"
    write(ball_case(0)[1], label, spacing=(1.0, 1.5, 2.0))
    precompute("--out", out, root)
    before = label.stat()
    for path in (label.with_name(f"new{suffix}"), label):  # another inode, then the same one
        voxels = np.flip(sitk.GetArrayFromImage(sitk.ReadImage(str(label))), 0)
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
        image.SetSpacing((1.0, 1.5, 2.0))
        sitk.WriteImage(image, str(path), False)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        path.replace(label)
        assert label.stat().st_mtime_ns == before.st_mtime_ns
        assert "1 case computed" in precompute("--out", out, root).output
        stored = zarr.open_array(out / "volumes.zarr/case_00/label", mode="r")[...]
        assert np.array_equal(stored, voxels)


def test_lines_of_earlier_versions_do_not_say_what_files_hold(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    expected = digest(precompute("--out", out, root))
    log = out / "state.jsonl"
    old = json.loads(log.read_text())
    old["sources"] = [stamp[:3] for stamp in old["sources"]]
    del old["run"]
    log.write_text(json.dumps(old) + "\n")
    assert len(plan_of(root, out).tasks) == 1
    result = precompute("--out", out, root)
    assert "0 cases computed, 1 unchanged" in result.output
    assert digest(result) == expected


# --- to be redone ----------------------------------------------------------------------------------------------------


def test_what_was_to_be_computed_again_is_not_finalized_until_it_is(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, root)
    relabel(root, "case_01")
    create_stores(plan_of(root, out))  # and killed
    assert listed(out) == ["case_00"]
    for name in ("labels", "volumes"):
        line = error_line(store("finalize", out / f"{name}.zarr"))
        assert "1 planned case is missing: case_01 (it was to be computed again" in line
    result = store("finalize", "--partial", out)
    assert result.exit_code == 0
    assert "left out: case_01: it was to be computed again" in result.output
    assert listed(out) == listed(out, "volumes") == ["case_00"]
    precompute("--out", out, root)
    result = store("finalize", out)
    assert result.exit_code == 0
    assert "left out" not in result.output
    assert listed(out) == ["case_00", "case_01"]
    assert label_of(root, out, "case_01")


def test_it_is_said_before_anything_is_changed(nnunet, tmp_path, monkeypatch):
    from geols_precompute.run import execute as executing

    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    relabel(root, "case_00")
    plan = plan_of(root, out)

    def killed(*arguments, **options):
        assert state.known_failures(out, "labels") == {"case_00": state.PENDING}
        raise KeyboardInterrupt

    monkeypatch.setattr(executing, "amend_manifest", killed)
    monkeypatch.setattr(executing, "remove_case", killed)
    with pytest.raises(KeyboardInterrupt):
        create_stores(plan)
    assert listed(out) == ["case_00"]


def test_a_second_label_store_that_is_cut_short_does_not_cost_the_first(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    expected = digest(precompute("--out", out, root))
    create_stores(plan_of(root, out, name="erosion", seeds="erosion"))  # and killed
    assert f"digest  {expected}" in store("finalize", out / "labels.zarr", out / "volumes.zarr").output


def test_a_case_that_is_found_done_after_all_is(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    os.utime(root / "labelsTr/case_00.nii.gz")
    create_stores(plan_of(root, out))  # and killed
    precompute("--out", out, "--name", "erosion", "--seeds", "erosion", root)  # which learns what the files hold
    assert error_line(store("finalize", out / "labels.zarr"))
    assert "0 cases computed, 1 unchanged" in precompute("--out", out, root).output
    assert store("finalize", out).exit_code == 0


def test_a_case_that_left_the_data_while_it_was_to_be_redone_is_left_out(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, root)
    relabel(root, "case_01")
    create_stores(plan_of(root, out))  # and killed
    for path in ("imagesTr/case_01_0000.nii.gz", "labelsTr/case_01.nii.gz"):
        (root / path).unlink()
    precompute("--out", out, root)
    assert listed(out) == ["case_00"]


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
@pytest.mark.parametrize("parts", [("2/2", "2/2"), ("2/2", None), ("2/2", "1/1")])
def test_clocks_of_hosts_decide_nothing(nnunet, tmp_path, monkeypatch, shift, parts):
    root, out = nnunet(cases=2), tmp_path / "o"

    def run(part):
        return precompute("--out", out, *(["--part", part] if part else []), root)

    run("1/2")
    run(parts[0])
    good = (root / "labelsTr/case_01.nii.gz").read_bytes()
    write(ball_case(1)[1] * 9, root / "labelsTr/case_01.nii.gz", spacing=(1.0, 1.5, 2.0))
    with monkeypatch.context() as patched:
        patched.setattr(state.time, "time", lambda: 1.7e9 + shift)
        assert run(parts[1]).exit_code == 1
    assert "case_01" in error_line(store("finalize", out))
    (root / "labelsTr/case_01.nii.gz").write_bytes(good)
    with monkeypatch.context() as patched:
        patched.setattr(state.time, "time", lambda: 1.7e9 - 2 * shift)
        assert run(parts[0]).exit_code == 0
    assert store("finalize", out).exit_code == 0


def test_a_failure_beside_a_success_of_the_same_time_counts(tmp_path):
    one, other = (state.log_path(tmp_path, state.STATE, suffix) for suffix in ("-1-of-2", "-2-of-2"))
    state.append(one, state.failed_record("a", "labels", "bad", 3))
    state.append(other, state.done_record("a", "labels", 3))
    assert state.known_failures(tmp_path) == {"a": "bad"}
    assert state.next_run(tmp_path) == 4
    state.append(other, state.done_record("a", "labels", 4))
    assert state.known_failures(tmp_path) == {}


# --- what others wrote -----------------------------------------------------------------------------------------------


def expert_labels(root: Path) -> None:
    """Somebody's labels, a group per case, by zarr-python."""
    group = zarr.open_group(str(root), mode="w")
    group.attrs["what"] = "labels of three readers"
    for case in ("case_00", "case_01"):
        group.create_group(f"{case}/a").create_array("mask", data=np.ones((4, 4, 4), np.uint8))


def old_zarr(root: Path) -> None:
    """A Zarr of version 2."""
    (root / "case_00").mkdir(parents=True)
    for folder in (root, root / "case_00"):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')


def some_text(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"mine": 1}\n')


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("labels.zarr", expert_labels),
        ("volumes.zarr", expert_labels),
        ("labels.zarr", old_zarr),
        ("labels.zarr", some_text),
        ("labels.zarr/notes.txt", some_text),
        ("labels.zarr/case_00/zarr.json", some_text),
        ("plan.json", some_text),
        ("state.jsonl", some_text),
        ("failures.jsonl", some_text),
        ("failures-1-of-2.jsonl", some_text),
        ("plan.json", Path.mkdir),
    ],
)
@pytest.mark.parametrize("preview", [[], ["--preview", "case_00"], ["--dry-run"]])
def test_what_others_wrote_is_refused_by_name_and_stays(nnunet, tmp_path, name, make, preview):
    root, out = nnunet(cases=2), tmp_path / "o"
    out.mkdir()
    make(out / name)
    before = contents(out)
    line = error_line(precompute("--out", out, *preview, root))
    assert str(out / name.split("/")[0]) in line
    assert "move it away, or name another --out" in line
    assert contents(out) == before
    assert sorted(path.name for path in out.iterdir()) == [name.split("/")[0]]


def test_names_that_only_look_alike_are_left_alone(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    names = ("failures-of-readers.jsonl", "state-of-the-art.jsonl", "cases.csv", "labels.csv", "plan.json.bak")
    for name in names:
        some_text(out / name)
    before = contents(out)
    for _ in range(2):
        assert precompute("--out", out, root).exit_code == 0
    assert {name: content for name, content in contents(out).items() if name in names} == before


@pytest.mark.parametrize("name", ["notes.txt", "maps/c/0/0/0/1", "other/zarr.json"])
@pytest.mark.parametrize("damage", [True, False])
def test_what_somebody_put_into_a_case_stays(nnunet, tmp_path, name, damage):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, root)
    case = out / "labels.zarr/case_01"
    some_text(case / name)
    if damage:
        (case / "maps/c/0/0/0/0").write_bytes(b"")
    else:
        relabel(root, "case_01")
    result = precompute("--out", out, root)
    assert result.exit_code in (1, 2)
    assert "was not written by geols" in result.output
    assert (case / name).read_text() == '{"mine": 1}\n'


def test_remains_of_a_case_are_removed_and_nothing_else(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    labels = out / "labels.zarr"
    (labels / "case_00/zarr.json").write_text('{"attributes": {"multiscales": []}, "node_type": "group"}')
    with pytest.raises(StoreError, match=r"case_00/zarr.json: was not written by geols"):
        remove_case(labels, "case_00")
    (labels / "case_00/zarr.json").write_text('{"attr')
    remove_case(labels, "case_00")
    assert not (labels / "case_00").exists()
    remove_case(labels, "case_00")


@pytest.mark.parametrize("name", ["labels.zarr", "volumes.zarr", "plan.json", "state.jsonl", "failures.jsonl"])
@pytest.mark.parametrize("dangling", [True, False])
def test_links_lead_nothing_elsewhere(nnunet, tmp_path, name, dangling):
    root, out, other = nnunet(cases=1), tmp_path / "o", tmp_path / "other"
    precompute("--out", other, root)
    target = tmp_path / "nothing" if dangling else other / name
    out.mkdir()
    (out / name).symlink_to(target)
    before = contents(other)
    line = error_line(precompute("--out", out, root))
    assert f"{out / name}: is a link" in line
    assert contents(other) == before
    assert not (tmp_path / "nothing").exists()
    assert (out / name).is_symlink()


def test_a_link_to_the_output_itself_is_followed(nnunet, tmp_path):
    root = nnunet(cases=1)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "o").symlink_to(tmp_path / "scratch")
    assert precompute("--out", tmp_path / "o", root).exit_code == 0
    assert VolumeStore.open(tmp_path / "scratch/volumes.zarr").cases == ("case_00",)


def test_a_preview_replaces_a_preview_and_no_other_file(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    page = out / "preview-labels-case_00.html"
    for _ in range(2):
        assert precompute("--out", out, "--preview", "case_00", root).exit_code == 0
    some_text(page)
    assert f"{page}: is there, and was not written by geols" in error_line(
        precompute("--out", out, "--preview", "case_00", root)
    )
    assert page.read_text() == '{"mine": 1}\n'


# --- outputs in stores -----------------------------------------------------------------------------------------------


def test_no_output_lies_in_a_store(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    labels = out / "labels.zarr"
    (tmp_path / "link").symlink_to(labels)
    before = contents(out)
    for inside in (labels, tmp_path / "link", labels / "case_00" / ".." / "new", labels / "case_00"):
        for arguments in (
            ("report", labels, "-o", inside / "report.html"),
            ("report", labels, "-o", inside / "zarr.json"),
            ("export", labels, "--case", "case_00", "-o", inside / "maps.nii.gz"),
            ("pack", labels, "-o", inside / "x.zarr.zip"),
        ):
            assert f"lies in the store {labels}" in error_line(store(*arguments))
        for more in ([], ["--preview", "case_00"], ["--dry-run"]):
            assert f"lies in the store {labels}" in error_line(precompute("--out", inside / "x", *more, root))
    assert contents(out) == before


def test_commits_of_a_store_come_one_after_another(nnunet, tmp_path):
    """A recipe that is claimed while a case is committed waits for it, and finds it."""
    root, out = nnunet(cases=1), tmp_path / "o"
    first = plan_of(root, out)
    create_stores(first)
    claimed = []

    def claim():
        try:
            create_stores(plan_of(root, out, lam=0.25))
            claimed.append("")
        except StoreError as error:
            claimed.append(str(error))

    check = task.require_recipe

    def slowly(store_root, expected):
        check(store_root, expected)
        if store_root.name == "labels.zarr":
            other = threading.Thread(target=claim)
            other.start()
            time.sleep(0.3)
            threads.append(other)

    threads: list[threading.Thread] = []
    task.require_recipe = slowly
    try:
        assert run_case(first.tasks[0]).status == "computed"
    finally:
        task.require_recipe = check
    threads[0].join()
    assert "was made with other parameters (recipe.maps.lam: 0.25, store has 1" in claimed[0]
