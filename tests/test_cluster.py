"""Where tasks run: workers that die and those that do not, clusters that are there already, schedulers that vanish."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_cli import digest, error_line, precompute

from geols_precompute import cluster, resources
from geols_precompute.cases import Case
from geols_precompute.errors import ClusterError
from geols_precompute.headers import read_case_header
from geols_precompute.recipe import MapParameters, Preprocessing, Recipe, class_table
from geols_precompute.runlog import read
from geols_precompute.task import Outcome, Task

RECIPE = Recipe(classes=class_table({1: "a"}), preprocessing=Preprocessing(modalities=("m",)), maps=MapParameters())


def tasks_of(folder: Path, ids) -> list[Task]:
    return [Task(case=Case(id=id_, images=(), label=None), recipe=RECIPE, volumes=folder, labels=folder) for id_ in ids]


def act(task: Task) -> Outcome:
    """Leave a mark; a case named die… ends its process, one named wait… takes a while."""
    with (task.labels / task.case.id).open("a") as file:
        file.write("x")
    if task.case.id.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.case.id.startswith("wait"):
        time.sleep(0.05)
    return Outcome(case=task.case.id, status="computed")


@contextmanager
def two_workers():
    with cluster.local_cluster(2, 2**30, MapParameters(), dashboard=False) as executor:
        yield executor


def test_a_case_that_kills_its_worker_three_times_fails_and_no_other_does(tmp_path):
    ids = [f"wait{i}" for i in range(20)]
    ids[3:3] = ["die1"]
    ids[9:9] = ["die2"]
    with two_workers() as executor:
        outcomes = {outcome.case: outcome for outcome in executor.run(act, tasks_of(tmp_path, ids))}
    assert set(outcomes) == set(ids)
    for case, outcome in outcomes.items():
        assert outcome.status == ("failed" if case.startswith("die") else "computed"), outcome
    for case in ("die1", "die2"):
        assert "its worker process died 3 times, most likely out of memory" in outcomes[case].error
        assert len((tmp_path / case).read_text()) <= 3


def test_only_a_few_tasks_are_submitted_ahead_and_results_are_let_go(tmp_path):
    with two_workers() as executor:
        ahead = []
        for _ in executor.run(act, tasks_of(tmp_path, map(str, range(60)))):
            ahead.append(len(executor.client.futures))
        assert max(ahead) <= cluster.LOOK_AHEAD * 2
        assert len(executor.client.futures) <= 1


def test_a_worker_that_is_killed_costs_only_what_it_was_doing(tmp_path):
    ids = [f"wait{i:02d}" for i in range(40)]
    with two_workers() as executor:
        outcomes = []
        for outcome in executor.run(act, tasks_of(tmp_path, ids)):
            outcomes.append(outcome)
            if len(outcomes) == 10:
                victim = next(iter(executor.client.run(os.getpid).values()))
                os.kill(victim, signal.SIGKILL)
    assert sorted(o.case for o in outcomes) == ids
    assert {o.status for o in outcomes} == {"computed"}
    assert sum(len((tmp_path / id_).read_text()) for id_ in ids) <= len(ids) + cluster.LOOK_AHEAD


# --- clusters that are there already ---------------------------------------------------------------------------------


def dask(*arguments) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill(process) -> None:
    """Kill a process and all of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@contextmanager
def running_cluster(folder, workers=2):
    """Start a scheduler and workers, each a process of its own; (scheduler file, {name: process})."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    processes = {
        "scheduler": dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file)
    }
    for number in range(workers):
        processes[f"worker{number}"] = dask(
            "worker", "--scheduler-file", file, "--nthreads", 1, "--no-dashboard", "--local-directory", folder / "dask"
        )
    try:
        yield file, processes
    finally:
        for process in processes.values():
            kill(process)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as (file, _):
        from distributed import Client

        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield file, address


def test_an_existing_cluster_by_address_and_by_file_ends_with_the_same_digest(nnunet, tmp_path, there, monkeypatch):
    root = nnunet(cases=5)
    expected = digest(precompute("--out", tmp_path / "here", root))
    monkeypatch.chdir(tmp_path)
    for number, scheduler in enumerate(there):
        # paths are relative to this process's folder, not to the workers'
        command = [
            sys.executable,
            "-m",
            "geols_precompute",
            "--scheduler",
            str(scheduler),
            "--out",
            f"o{number}",
            root.name,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(r"2 threads at tcp://127.0.0.1:\d+, dashboard http", done.stdout)
        assert expected in done.stdout
    workers = {record["worker"] for record in read(tmp_path / "o0/run.jsonl")}
    assert 1 <= len(workers) <= 2
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)


def test_the_cluster_is_left_as_it_was(there, nnunet, tmp_path):
    from distributed import Client

    precompute_there = [sys.executable, "-m", "geols_precompute", "--scheduler", there[1], "--out", tmp_path / "o"]
    assert (
        subprocess.run([*precompute_there, nnunet(cases=1)], capture_output=True, timeout=120, check=False).returncode
        == 0
    )
    with Client(there[1], set_as_default=False) as client:
        assert len(client.nthreads()) == 2
        assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ("nothing.json", "neither an address such as tcp://host:8786 nor a scheduler file"),
        ("", "neither an address such as tcp://host:8786 nor a scheduler file"),
        ("nosuch://x:1", "no address of the form tcp://host:8786"),
        ("tcp://", "no address of the form tcp://host:8786"),
        ("tcp://127.0.0.1", "no address of the form tcp://host:8786"),
        ("http://127.0.0.1:1", "no address of the form tcp://host:8786"),
    ],
)
def test_a_scheduler_that_is_not_there(nnunet, scheduler, says):
    done = computed_at(scheduler, nnunet(cases=1))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --scheduler {scheduler}: {says}")


@pytest.mark.parametrize("content", ["", "[]", "{}", '"x"', '{"address": 5}', '{"address": "garbage"}', "\0"])
def test_a_scheduler_file_that_is_none(nnunet, tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    done = computed_at(tmp_path / "s.json", nnunet(cases=1))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is no scheduler file" in line or "no address of the form" in line


def test_nothing_that_listens_or_something_that_is_no_scheduler(nnunet, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    line = error_line(invoke(nnunet(cases=1), "--scheduler", "tcp://127.0.0.1:1"))
    assert "no Dask scheduler answers at tcp://127.0.0.1:1; is it running?" in line
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        assert f"no Dask scheduler answers at {address}" in error_line(
            invoke(nnunet("other", cases=1), "--scheduler", address)
        )


def computed_at(scheduler, root):
    command = [sys.executable, "-m", "geols_precompute", "--scheduler", str(scheduler), str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def invoke(*arguments):
    from click.testing import CliRunner

    from geols_precompute import cli

    return CliRunner().invoke(cli.precompute, list(map(str, arguments)))


def test_workers_and_a_scheduler_are_one_too_many(nnunet):
    assert "--workers belongs to" in error_line(invoke(nnunet(cases=1), "--scheduler", "tcp://x:1", "--workers", "2"))


class Pretended:
    """A client whose workers say what they are told to."""

    def __init__(self, answer):
        self.answer = answer

    def run(self, function, *arguments):
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"tcp://w:1": self.answer}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (("0.0.1", ""), r"worker tcp://w:1 has geols 0\.0\.1"),
        ((cluster._version(), "/data"), r"worker tcp://w:1 does not see /data; .* shared"),
        (ModuleNotFoundError("No module named 'geols_precompute'"), r"a worker cannot run geols \(ModuleNotFoundError"),
    ],
)
def test_workers_that_cannot_do_the_work(answer, says):
    with pytest.raises(ClusterError, match=says):
        cluster._require_fit(Pretended(answer), [Path("/data")])


def test_what_a_worker_looks_at(tmp_path):
    assert cluster.what_worker_sees([str(tmp_path)]) == (cluster._version(), "")
    assert cluster.what_worker_sees([str(tmp_path), str(tmp_path / "x")])[1] == str(tmp_path / "x")


def test_a_scheduler_that_vanishes_is_one_line(nnunet, tmp_path):
    root = nnunet(cases=40, shape=(24, 60, 60))
    with running_cluster(tmp_path, workers=1) as (file, processes):
        wait_until(file.exists)
        command = [sys.executable, "-m", "geols_precompute", "--scheduler", str(file), "--out", tmp_path / "o", root]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: list((tmp_path / "o").glob("labels.zarr/case_*")), client)
        kill(processes["scheduler"])
        _, errors = client.communicate(timeout=120)
    assert client.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("error: the connection to the scheduler was lost")


def wait_until(condition, process=None, seconds=100):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)


# --- how many workers ------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    import dask.system
    import distributed.system

    monkeypatch.setattr(distributed.system, "MEMORY_LIMIT", 10 * 10**9)
    monkeypatch.setattr(dask.system, "CPU_COUNT", 8)


@pytest.mark.parametrize(
    ("need", "wanted", "count", "note"),
    [
        (10**8, None, 8, ""),
        (10**8, 3, 3, ""),
        (2 * 10**9, None, 4, "there is memory for 4 of 8 workers"),
        (9 * 10**9, 2, 1, "there is memory for 1 of 2 workers"),
        (0, None, 8, ""),
    ],
)
def test_workers_by_memory(machine, need, wanted, count, note):
    fitting = resources.workers_for(need, wanted)
    assert (fitting.count, fitting.note) == (count, note)
    assert fitting.memory * count <= 10 * 10**9
    assert fitting.memory >= need


def test_a_case_too_large_for_the_machine(machine):
    with pytest.raises(ClusterError, match=r"the largest case needs about 11 GB, and this machine has 10 GB"):
        resources.workers_for(11 * 10**9, None)


def test_the_need_follows_from_the_largest_case(nnunet):
    from geols_precompute.layouts import discover

    small, large = (
        discover(nnunet(name, cases=1, shape=shape)).cases[0]
        for name, shape in (("a", (12, 14, 16)), ("b", (40, 50, 60)))
    )
    needs = [resources.case_bytes(read_case_header(case, modalities=1), RECIPE) for case in (small, large)]
    assert resources.largest_need([small, large], RECIPE) == needs[1] > needs[0]
    (large.images[0]).write_bytes(b"")
    assert resources.largest_need([small, large], RECIPE) == needs[0]
    assert resources.largest_need([large], RECIPE) == 0


def test_memory_is_measured_per_case(nnunet, tmp_path):
    precompute("--out", tmp_path / "o", nnunet(cases=2))
    for record in read(tmp_path / "o/run.jsonl"):
        assert 50e6 < record["peak_memory"] < 5e9
        assert record["worker"].endswith(f":{os.getpid()}")


def test_the_peak_is_forgotten():
    import numpy as np

    from geols_precompute import memory

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux forgets the peak")
    np.ones(40_000_000)
    high = memory.peak_bytes()
    memory.forget_peak()
    assert memory.peak_bytes() < high - 200_000_000


def on_a_terminal(command) -> str:
    """What a command prints where its output is a terminal."""
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(command, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    output = b""
    with suppress(OSError):
        while piece := os.read(parent, 4096):
            output += piece
    os.close(parent)
    assert process.wait(60) == 0, output
    return output.decode()


def test_a_terminal_shows_a_bar_and_the_dashboard(nnunet, tmp_path):
    pytest.importorskip("bokeh")
    command = [sys.executable, "-m", "geols_precompute", "--workers", "2", "--out", str(tmp_path / "o")]
    output = on_a_terminal([*command, str(nnunet(cases=3))])
    assert re.search(r"2 workers of [\d.]+ GB, dashboard http://127\.0\.0\.1:\d+/status", output)
    assert re.search(r"maps: +100%\|.*\| 3/3 ", output)
    assert "the largest case needs about 3" in output


def test_a_full_disk_ends_a_run_on_workers_and_the_next_goes_on(nnunet, tmp_path):
    root = nnunet(cases=8, shape=(40, 50, 60))
    expected = digest(precompute("--out", tmp_path / "o", root))
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        arguments = ("--workers", "2", "--out", disk / "o", root)
        line = error_line(precompute(*arguments))
        assert "no space left; free some and run the same command again, it goes on where it stopped" in line
        assert not (disk / "o/labels.zarr/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        result = precompute(*arguments)
        assert result.exit_code == 0
        assert " 8 cases computed" not in result.output
        assert digest(result) == expected
    finally:
        subprocess.run(["umount", disk], check=True)
