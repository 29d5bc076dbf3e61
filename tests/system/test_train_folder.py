"""Run folders: one training at a time, nothing of others replaced, and one line for what is damaged."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from train_fixtures import make_stores, tiny_config
from trainings import SMALL

from geols_precompute.errors import GeolsError, InputError, OutputError, RecipeError, StoreError
from geols_train import cli, training
from geols_train import run as run_module
from geols_train.checkpoint import load_checkpoint, load_network, save_checkpoint
from geols_train.folder import LOCK, claimed
from geols_train.log import read_log
from geols_train.run import resumed_config, train_and_test


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def trained(out, tmp_path_factory):
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_and_test(tiny_config(out, epochs=1), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def resume(folder, **given):
    return train_and_test(resumed_config(folder, given), folder, resume=True)


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- one training at a time -------------------------------------------------------------------------------------------


def test_of_two_trainings_one_is_refused_by_name(out, tmp_path):
    (tmp_path / "run").mkdir()
    with claimed(tmp_path / "run"):
        with pytest.raises(InputError, match=r"run is the run folder of another training, which is under way.*--out"):
            train_and_test(tiny_config(out), tmp_path / "run")
        assert [p.name for p in (tmp_path / "run").iterdir()] == [LOCK]
    assert not list((tmp_path / "run").iterdir())


def test_a_training_that_came_and_went_meanwhile_is_not_replaced(out, run, monkeypatch):
    # the first look, before anything is locked, finds an empty folder
    calls, look = [], run_module.require_free

    def late(folder):
        calls.append(folder)
        if len(calls) > 1:
            look(folder)

    monkeypatch.setattr(run_module, "require_free", late)
    before = everything(run)
    with pytest.raises(InputError, match="holds a run already"):
        train_and_test(tiny_config(out, lr=0.5), run)
    assert everything(run) == before


def test_the_lock_of_a_dead_process_is_none(out, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom geols_train.folder import claimed\n"
        "with claimed(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"  # as a process that loads batches, which outlives its parent for a while
        "    if child: print(child, flush=True)\n"
        "    time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(InputError, match="under way"), claimed(folder):
            pass
        process.kill()
        process.wait()
        assert (folder / LOCK).exists()
        with claimed(folder):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
    assert not (folder / LOCK).exists()


def test_a_lock_that_its_owner_removed_is_taken_anew(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def slow(descriptor, operation):
        flock(descriptor, operation)
        if not calls:  # between the opening of the file and its lock, the owner ended
            (tmp_path / LOCK).unlink()
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", slow)
    with claimed(tmp_path):
        assert (tmp_path / LOCK).exists()
        assert len(calls) == 2


def test_a_file_system_without_locks_refuses_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(95, "not supported")))
    with claimed(tmp_path):
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"), claimed(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


# --- files of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.toml", "split.json", "log.jsonl", "best.pt", "summary.json", "test_cases.csv", "curves.png"]
)
def test_files_of_others_are_never_replaced(out, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_text("somebody's work")
    with pytest.raises(InputError, match=rf"folder holds {name}, which this run would replace; name another folder"):
        train_and_test(tiny_config(out), folder)
    assert everything(folder) == {name: b"somebody's work"}


def test_what_nobody_trained_on_is_begun_anew_and_files_of_other_names_stay(out, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(training.Trainer, "train_step", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_and_test(tiny_config(out), folder)
    monkeypatch.undo()
    assert {p.name for p in folder.iterdir()} == {"config.toml", "split.json", "log.jsonl"}
    (folder / "notes.txt").write_text("mine")
    train_and_test(tiny_config(out, epochs=1, lr=0.02), folder)
    assert "lr = 0.02" in (folder / "config.toml").read_text()
    assert (folder / "notes.txt").read_text() == "mine"


def test_links_in_a_run_folder_lead_nothing_elsewhere(out, run, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("mine")
    for name in ("summary.json", "test_cases.csv", "curves.png", "cases.png"):
        (run / name).unlink()
    for name in ("test_cases.csv", "curves.png", "cases.png"):
        (run / name).symlink_to(other)
    resume(run)
    assert other.read_text() == "mine"
    assert not (run / "test_cases.csv").is_symlink()
    (tmp_path / "many").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "many/repeat-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="repeat-1: is a link"):
        train_and_test(tiny_config(out, repeats=2, epochs=1), tmp_path / "many")
    assert not list((tmp_path / "elsewhere").iterdir())


# --- damage -----------------------------------------------------------------------------------------------------------

HOSTILE = {
    "empty": b"",
    "binary": b"\xff\xfe\x00\x01" * 8,
    "brackets": b"[" * 100_000,
    "number": b"5",
    "escape": b'{"a": "\x1b[2J"}\n',
    "other": b'{"version": 1, "step": "x", "stores": {}, "structures": 3, "train": 5}\n',
    "nan": b'{"step": NaN}\n',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", ["config.toml", "split.json", "log.jsonl", "summary.json", "last.pt", "best.pt"])
def test_a_damaged_file_gets_one_plain_line_before_anything_is_trained(run, monkeypatch, name, content):
    if name not in ("summary.json", "config.toml", "split.json"):
        (run / "summary.json").unlink()
    monkeypatch.setattr(training.Trainer, "train_epoch", lambda *args: pytest.fail("it trains"))
    (run / name).write_bytes(content)
    if name == "log.jsonl" and b"}\n" not in content:
        return  # a line that a crash cut short
    before = everything(run)
    result = CliRunner().invoke(cli.train, ["--resume", "--epochs", "2", "--out", str(run)])
    assert result.exit_code == 2, result.output
    (line,) = [x for x in result.output.splitlines() if x and not x.startswith(("reading:", "geols (", "crop "))]
    assert line.startswith("error: ")
    assert "unexpected" not in line
    assert name in line
    assert line.isprintable()
    changed = {n for n, found in everything(run).items() if before.get(n) != found}
    assert changed <= ({"config.toml"} if name not in ("config.toml", "split.json") else set())  # two epochs


def test_settings_that_were_cut_off_are_not_taken_from_the_defaults(run):
    path = run / "config.toml"
    lines = path.read_text().splitlines(keepends=True)
    lost = lines.pop().partition(" =")[0]
    path.write_text("".join(lines))
    with pytest.raises(RecipeError, match=rf"config.toml: lacks {lost}; restore it"):
        resume(run, epochs=2)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(run):
    for name in ("config.toml", "split.json", "summary.json", "log.jsonl"):
        content = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(GeolsError, match=f"{name}|no run to resume"):
            resume(run, epochs=2)
        (run / name).unlink()
        (run / name).write_bytes(content)


def test_the_epochs_of_a_run_do_not_fall(run):
    (run / "summary.json").unlink()
    path = run / "last.pt"
    spec, content = load_checkpoint(path)
    for progress in ({"epoch": 7}, {"losses": [0.1] * 99}, {"epoch": "1"}, {"more": 1}, {"best_epoch": -1}):
        save_checkpoint(path, spec, {**content, "progress": {**content["progress"], **progress}})
        with pytest.raises(StoreError, match=r"last\.pt (is not of|does not fit) this run"):
            resume(run)


def test_every_damaged_byte_of_a_checkpoint_is_refused(run):
    path = run / "best.pt"
    whole = path.read_bytes()
    assert zipfile.ZipFile(path).testzip() is None
    places = [*np.random.default_rng(0).integers(len(whole), size=150), 0, len(whole) - 1, len(whole) - 80]
    for place in map(int, places):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"best\.pt: (damaged|not a whole checkpoint|not a checkpoint)"):
            load_checkpoint(path)
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreError, match=r"best\.pt"):
            load_checkpoint(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(StoreError, match=r"best\.pt"):
        load_checkpoint(path)
    path.write_bytes(whole)
    load_checkpoint(path)


def test_checkpoints_of_before_there_were_digests_are_read_and_their_damage_is_found(run):
    path = run / "best.pt"
    spec, content = load_checkpoint(path)
    torch.save({**content, "version": 1, "spec": spec.as_json()}, path)
    assert not zipfile.ZipFile(path).comment
    found, network = load_network(path, torch.device("cpu"))
    assert found == spec
    assert all(torch.equal(network.state_dict()[name], value) for name, value in content["model"].items())
    damaged = bytearray(path.read_bytes())
    place = bytes(damaged).rfind(content["model"]["head.weight"].numpy().tobytes())
    damaged[place + 3] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="damaged"):
        load_checkpoint(path)


def test_a_checkpoint_that_asks_for_all_the_memory_takes_none(tmp_path, run):
    path = tmp_path / "best.pt"
    spec, content = load_checkpoint(run / "best.pt")
    document = spec.as_json()
    view = torch.zeros(1).expand(2**40)
    for changed, message in (
        ({"spec": {**document, "features": [60000, 60000]}}, "weights do not fit"),
        ({"spec": {**document, "window": [10**9, 8, 8]}}, "three voxel counts"),
        ({"spec": {**document, "overlap": 1.0}}, "--overlap"),
        ({"spec": {**document, "classes": 3}}, "not a whole checkpoint"),
        ({"model": {**content["model"], "head.weight": view}}, "larger than the file"),
    ):
        torch.save({**content, "version": 1, "spec": document, **changed}, path)
        assert path.stat().st_size < 2**20
        with pytest.raises(StoreError, match=message):
            load_network(path, torch.device("cpu"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 2**20)
    with pytest.raises(StoreError, match="compressed"):
        load_checkpoint(path)


# --- best.pt and last.pt belong together ------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_said_before_training_goes_on(out, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_and_test(tiny_config(out, epochs=6, lr=0.02), folder)
    best = load_checkpoint(folder / "best.pt")[1]["progress"]["best_epoch"]
    assert best > 1
    (folder / "summary.json").unlink()
    monkeypatch.setattr(training.Trainer, "train_epoch", lambda *args: pytest.fail("it trains"))
    (folder / "best.pt").rename(tmp_path / "kept")
    with pytest.raises(StoreError, match=rf"best.pt is missing, but epoch {best} was the best so far; restore it"):
        resume(folder, epochs=8)
    shutil.copy(tmp_path / "kept", folder / "best.pt")
    (folder / "last.pt").unlink()
    with pytest.raises(StoreError, match=r"last.pt is missing, but not best.pt, so more was trained; restore it"):
        resume(folder, epochs=8)


def test_a_run_killed_between_its_first_two_checkpoints_is_trained_again_to_the_same_numbers(out, run):
    (run / "last.pt").unlink()
    (run / "summary.json").unlink()
    before = [line["loss"] for line in read_log(run)]
    resume(run)
    assert [line["loss"] for line in read_log(run)] == before


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_what_is_saved_and_the_run_goes_on(out, run, monkeypatch, tmp_path):
    (run / "summary.json").unlink()
    last = (run / "last.pt").read_bytes()
    save = torch.save

    def full(content, file):
        # as torch does it: its own error, raised while that of the system is handled
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662")  # noqa: B904

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"no space left; what is saved stays: free some, and go on with --resume"):
        resume(run, epochs=3)
    monkeypatch.setattr(torch, "save", save)
    assert (run / "last.pt").read_bytes() == last
    assert not list(run.glob(".tmp-*"))
    resumed = resume(run, epochs=3)
    whole = train_and_test(tiny_config(out, epochs=3), tmp_path / "whole")
    assert resumed["structures"] == whole["structures"]


def small_disk(tmp_path, size):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no right to mount")
    (tmp_path / "disk").mkdir(exist_ok=True)
    return ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs {tmp_path}/disk && exec "$@"', "sh"]


@pytest.mark.slow
def test_a_training_on_a_disk_that_is_full(out, tmp_path):
    command = small_disk(tmp_path, "64k")
    code = "import sys; from geols_train.cli import train; train(sys.argv[1:])"
    train = [sys.executable, "-c", code, *SMALL, "--features", "8,16", "--out", f"{tmp_path}/disk/run"]
    started = time.monotonic()
    done = subprocess.run([*command, *train, str(out)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("reading:", "epoch"))]
    assert [line for line in errors if line] == [line for line in errors if "no space left" in line]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 190
