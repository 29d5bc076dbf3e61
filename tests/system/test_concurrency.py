"""Runs that write at the same moment: nothing of either is lost, and no lock outlives its holder."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from stores import SOURCE, geometry, label_store, maps_array

from geols_precompute import atomic
from geols_precompute.run import state
from geols_precompute.share import copy as share
from geols_precompute.share import pack
from geols_precompute.store import writer
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import (
    amend_manifest,
    commit_case,
    manifest_digests,
    read_attributes,
    remove_case,
    write_manifest,
)

SHAPE = (9, 10, 11)


def together(*jobs):
    """Run jobs in threads that start at one moment; raise what one of them raised."""
    gate, errors = threading.Barrier(len(jobs)), []

    def work(job):
        gate.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def count_up(counter, lock, times):
    for _ in range(times):
        with atomic.locked(lock):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


def hold_for_ever(lock):
    with atomic.locked(lock):
        (lock.parent / "held").touch()
        time.sleep(1000)


def lock_as(user, lock):
    os.setuid(user)
    with atomic.locked(lock):
        pass


def test_one_holds_a_lock_at_a_time(tmp_path):
    counter, lock = tmp_path / "counter", tmp_path / "lock"
    counter.write_text("0")
    processes = [multiprocessing.Process(target=count_up, args=(counter, lock, 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "200"
    assert not lock.exists()


def test_a_lock_ends_with_its_holder(tmp_path):
    lock = tmp_path / "lock"
    process = multiprocessing.Process(target=hold_for_ever, args=(lock,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert lock.exists()
    with atomic.locked(lock):
        pass
    assert not lock.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_a_lock_that_another_user_left_behind():
    with tempfile.TemporaryDirectory() as folder:  # the folders of pytest are closed to others
        Path(folder).chmod(0o777)
        lock = Path(folder) / "lock"
        lock.touch(mode=0o644)
        os.chown(lock, 1001, 1001)
        process = multiprocessing.get_context("fork").Process(target=lock_as, args=(1002, lock))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert not lock.exists()


def test_cases_that_several_parts_take_out_of_a_manifest_are_all_out(tmp_path, monkeypatch):
    cases = [f"case_{number}" for number in range(6)]
    store = label_store(tmp_path / "labels.zarr", cases, shape=SHAPE)
    known = manifest_digests

    def slowly(root):
        found = known(root)
        time.sleep(0.02)  # in which the others look, too
        return found

    monkeypatch.setattr(writer, "manifest_digests", slowly)
    together(*(lambda case=case: amend_manifest(store.path, without=[case]) for case in cases[:5]))
    assert set(known(store.path)) == {"case_5"}
    assert not list(store.path.glob(".tmp-*"))


def test_a_stale_case_that_two_runs_replace_is_replaced_once(tmp_path, monkeypatch):
    store = label_store(tmp_path / "labels.zarr", ["a"], shape=SHAPE)
    source = SOURCE | {"label_sha256": "3" * 64}
    document = {"source": source, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}

    def commit():
        commit_case(store.path, "a", {"maps": maps_array(7, SHAPE)}, geometry(SHAPE), document)

    def faster(root, case):
        """Take the stale case away, after which the other run commits before this one does."""
        monkeypatch.undo()
        remove_case(root, case)
        commit()

    # on a file system without locks; where there are, only one commits at a time
    monkeypatch.setattr(atomic, "locked", lambda path: nullcontext())
    monkeypatch.setattr(writer, "remove_case", faster)
    commit()
    write_manifest(store.path)
    assert read_attributes(store.path / "a")["source"] == source
    assert LabelStore.open(store.path).cases == ("a",)
    assert not list(store.path.glob(".tmp-*"))


def test_a_case_that_vanishes_while_it_is_compared_is_committed(tmp_path, monkeypatch):
    store = label_store(tmp_path / "labels.zarr", ["a"], shape=SHAPE)
    digest = store.digest
    document = {"source": SOURCE, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
    found = writer.committed_case

    def taken_away(root, case, *arguments):
        monkeypatch.undo()
        result = found(root, case, *arguments)
        remove_case(root, case)
        return result

    monkeypatch.setattr(writer, "committed_case", taken_away)
    commit_case(store.path, "a", {"maps": maps_array(0, SHAPE)}, geometry(SHAPE), document)
    assert write_manifest(store.path) == digest


def test_a_store_that_another_pull_begins_meanwhile_is_filled_by_both(tmp_path, monkeypatch):
    store, out = label_store(tmp_path / "labels.zarr", shape=SHAPE), tmp_path / "out.zarr"
    look = atomic.remove_abandoned

    def begun_by_another(root):
        monkeypatch.undo()
        look(root)
        share.create_like(out, store.root_content)

    monkeypatch.setattr(atomic, "remove_abandoned", begun_by_another)
    share.create_like(out, store.root_content)
    assert (out / "zarr.json").read_bytes() == store.root_content


def test_releases_that_are_named_together_share_one_secret(tmp_path, monkeypatch):
    write = pack._write_private

    def slowly(path, text):
        time.sleep(0.05)
        write(path, text)

    monkeypatch.setattr(pack, "_write_private", slowly)
    named = {}
    together(*(lambda case=case: named.update(pack.private_names(tmp_path, [case])) for case in "abcd"))
    assert named == pack.private_names(tmp_path, "abcd")
    assert set((tmp_path / pack.NAMES).read_text().splitlines()[1:]) == {f"{c},{name}" for c, name in named.items()}


@pytest.mark.parametrize("cut", ["", '{"case":"a","fail', '{"case":"a"}\n'])
def test_a_record_after_a_line_that_was_cut_is_read(tmp_path, cut):
    log = tmp_path / "state.jsonl"
    log.write_text(cut)
    state.append(log, {"case": "b"})
    state.append(log, {"case": "c"})
    assert [record["case"] for record in state.read(log)][-2:] == ["b", "c"]
