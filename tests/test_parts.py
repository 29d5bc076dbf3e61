"""--part i/n: jobs that know nothing of each other fill one store, and finalize writes its manifest."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ball_case, write
from test_cli import digest, error_line, precompute, store

from geols_precompute import runlog
from geols_precompute.errors import InputError
from geols_precompute.parts import Part
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


def test_parts_side_by_side_end_with_the_digests_of_one_run(nnunet, tmp_path):
    root = nnunet(cases=7)
    expected = digest(precompute("--out", tmp_path / "one", root))
    out = tmp_path / "o"
    command = [sys.executable, "-m", "geols_precompute", "--workers", "0", "--out", str(out), str(root), "--part"]
    jobs = [subprocess.Popen([*command, f"{i}/3"], stdout=subprocess.PIPE, text=True) for i in (1, 2, 3)]
    outputs = [job.communicate(timeout=200)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert sorted(re.search(r"(\d) cases computed", output)[1] for output in outputs) == ["2", "2", "3"]
    assert all(f"after the last one: geols-store finalize {out}" in output for output in outputs)
    assert not any("digest" in output for output in outputs)
    assert not list(out.glob("*.zarr/manifest.json"))
    for _ in range(2):
        result = store("finalize", out)
        assert result.exit_code == 0, result.output
        assert f"store   {out / 'labels.zarr'}, 7 cases\ndigest  {expected}" in result.output
        assert VolumeStore.open(out / "volumes.zarr").digest == VolumeStore.open(tmp_path / "one/volumes.zarr").digest
    again = precompute("--out", out, root)
    assert "0 cases computed, 7 unchanged" in again.output
    assert digest(again) == expected


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
    assert set(runlog.known_failures(out)) == {"case_01"}
    line = error_line(store("finalize", out))
    assert "1 planned cases are missing, the first is case_01 (" in line
    assert "case_01.nii.gz: the gzip file ends early" in line
    (root / "labelsTr/case_01.nii.gz").write_bytes(good)
    assert precompute("--out", out, "--part", "2/2", root).exit_code == 0
    assert runlog.known_failures(out) == {}
    assert store("finalize", out).exit_code == 0


def test_a_case_that_fails_now_is_not_published_as_it_was(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    precompute("--out", out, root)
    (root / "labelsTr/case_00.nii.gz").write_bytes(b"")
    assert precompute("--out", out, "--part", "1/2", root).exit_code == 1
    assert "case_00" in error_line(store("finalize", out))
    store("finalize", "--partial", out)
    assert LabelStore.open(out / "labels.zarr").cases == ("case_01",)


def test_failures_of_other_parts_and_other_counts(tmp_path):
    for suffix in ("", "-1-of-2", "-2-of-2", "-1-of-3"):
        runlog.append(runlog.log_path(tmp_path, runlog.FAILURES, suffix), {"case": f"c{suffix}", "reason": "x"})
    runlog.forget_failures(tmp_path, "-1-of-2")
    assert set(runlog.known_failures(tmp_path)) == {"c-2-of-2"}
    runlog.forget_failures(tmp_path)
    assert runlog.known_failures(tmp_path) == {}


def test_the_latest_record_of_a_case_counts_whatever_its_file(tmp_path):
    for suffix, size, at in (("-1-of-2", 3, 30.0), ("-2-of-2", 1, 10.0), ("", 2, 20.0)):
        record = {"case": "a", "sources": [["/x", size, 0]], "at": at}
        runlog.append(runlog.log_path(tmp_path, runlog.STATE, suffix), record)
    assert runlog.known_sources(tmp_path) == {"a": (("/x", 3, 0),)}


def test_a_source_that_changes_is_computed_again_by_its_part(nnunet, tmp_path):
    root, out = nnunet(cases=4), tmp_path / "o"
    for part in ("1/2", "2/2"):
        precompute("--out", out, "--part", part, root)
    store("finalize", out)
    image, _ = ball_case(50)
    write(image[0].astype("int16"), root / "imagesTr/case_02_0000.nii.gz", spacing=(1.0, 1.5, 2.0))
    assert "1 cases computed, 1 unchanged" in precompute("--out", out, "--part", "1/2", root).output
    assert "0 cases computed, 2 unchanged" in precompute("--out", out, "--part", "2/2", root).output
    store("finalize", out)
    assert LabelStore.open(out / "labels.zarr").digest == digest(precompute("--out", tmp_path / "new", root))


def test_finalize_of_what_is_no_store(tmp_path):
    line = error_line(store("finalize", tmp_path))
    assert "no store, and none in it; name the output folder of geols-precompute, or a store" in line
