"""Dask clusters that are there already: used as they are, refused in one line, lost in one line."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import digest, error_line, precompute
from dask_processes import dask_scheduler, dask_worker, kill

from geols_precompute.errors import ClusterError, MissingExtraError
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run import existing as scheduler
from geols_precompute.run.state import read


@contextmanager
def running_cluster(folder, workers=2):
    """Start a scheduler and workers, each a process of its own; (scheduler file, {name: process})."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    processes = {"scheduler": dask_scheduler(file)}
    for number in range(workers):
        processes[f"worker{number}"] = dask_worker(file, folder)
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
    workers = {record["worker"] for record in read(tmp_path / "o0/state.jsonl")}
    assert 1 <= len(workers) <= 2
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)


@pytest.fixture
def left_as_it_was(there):
    """Compare what a scheduler and its workers hold before a test and, in the end, after it."""
    from distributed import Client

    def of_scheduler(dask_scheduler):
        names = ("clients", "extensions", "nanny_plugins", "plugins", "tasks", "worker_plugins", "workers")
        return {name: sorted(map(str, getattr(dask_scheduler, name))) for name in names}

    def of_worker(dask_worker):
        held = (dask_worker.plugins, dask_worker.data, dask_worker.state.tasks)
        return [sorted(map(str, one)) for one in held]

    def everything():
        return client.run_on_scheduler(of_scheduler), client.run(of_worker)

    with Client(there[1], set_as_default=False) as client:
        before = everything()
        assert len(before[1]) == 2
        assert before[0]["tasks"] == []
        yield
        wait_until(lambda: everything() == before, seconds=30)


def start_there(there, *arguments) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "geols_precompute", "--scheduler", there[1], *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_the_cluster_is_left_as_it_was(there, left_as_it_was, nnunet, tmp_path):
    assert start_there(there, "--out", tmp_path / "o", nnunet(cases=1)).wait(120) == 0


def test_a_client_that_is_killed_leaves_the_cluster_as_it_was(there, left_as_it_was, nnunet, tmp_path):
    client = start_there(there, "--out", tmp_path / "o", nnunet(cases=40, shape=(24, 60, 60)))
    wait_until(lambda: list((tmp_path / "o").glob("labels.zarr/case_*")), client)
    client.kill()
    client.wait(10)


def test_a_worker_that_joins_later_does_the_work(nnunet, tmp_path):
    with running_cluster(tmp_path, workers=0) as (file, processes):
        wait_until(file.exists)
        command = [sys.executable, "-m", "geols_precompute", "--scheduler", str(file), "--out", tmp_path / "o"]
        client = subprocess.Popen([*command, nnunet(cases=3)], stdout=subprocess.PIPE, text=True)
        said = client.stdout.readline()
        while said and "dashboard" not in said:
            said = client.stdout.readline()
        assert said.startswith("no worker yet; waiting for the first, dashboard http")
        processes["worker"] = dask_worker(file, tmp_path)
        output, _ = client.communicate(timeout=120)
    assert client.returncode == 0
    assert "3 cases computed" in output


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


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"address": "garbage"}',
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("[]", "{}", '"x"', '{"address": 5}', "\0")),
    ],
)
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


def test_a_worker_that_cannot_compile_is_named():
    with pytest.raises(ClusterError, match=r"worker tcp://w:1 cannot compute these maps: GeodisTK is not installed"):
        scheduler._compile_on_workers(Pretended("GeodisTK is not installed; run: pip"), MapParameters())
    scheduler._compile_on_workers(Pretended(""), MapParameters())


def test_why_a_worker_cannot_compile_is_a_text(monkeypatch):
    def compile_once(parameters):
        raise MissingExtraError("GeodisTK", "geodistk")

    assert scheduler.why_not_compiled(MapParameters()) == ""
    monkeypatch.setattr(scheduler, "compile_once", compile_once)
    assert scheduler.why_not_compiled(MapParameters(engine="geodistk")).startswith("GeodisTK is not installed")


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
    (line,) = [line for line in errors.splitlines() if line and not line.startswith("maps:")]
    assert line.startswith("error: the connection to the scheduler was lost")


def wait_until(condition, process=None, seconds=100):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)
