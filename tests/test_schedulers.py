"""Dask clusters that are there already: used as they are, refused in one line, lost in one line."""

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

from geols_precompute.errors import ClusterError
from geols_precompute.run import existing as scheduler
from geols_precompute.run.state import read


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
    for number, where in enumerate(there):
        # paths are relative to this process's folder, not to the workers'
        command = [
            sys.executable,
            "-m",
            "geols_precompute",
            "--scheduler",
            str(where),
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
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 1)
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

    from geols_precompute.cli import precompute as cli

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
        ((scheduler._version(), "/data"), r"worker tcp://w:1 does not see /data; .* shared"),
        (ModuleNotFoundError("No module named 'geols_precompute'"), r"a worker cannot run geols \(ModuleNotFoundError"),
    ],
)
def test_workers_that_cannot_do_the_work(answer, says):
    with pytest.raises(ClusterError, match=says):
        scheduler._require_fit(Pretended(answer), [Path("/data")])


def test_what_a_worker_looks_at(tmp_path):
    assert scheduler.what_worker_sees([str(tmp_path)]) == (scheduler._version(), "")
    assert scheduler.what_worker_sees([str(tmp_path), str(tmp_path / "x")])[1] == str(tmp_path / "x")


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
