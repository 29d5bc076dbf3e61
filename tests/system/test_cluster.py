"""Where tasks run: workers that die and those that do not, how many there are, and what a terminal shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest
from commands import digest, error_line, precompute

from geols_precompute.data.cases import Case
from geols_precompute.data.headers import read_case_header
from geols_precompute.errors import ClusterError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters, Preprocessing, ResolvedRecipe
from geols_precompute.run import dask as cluster
from geols_precompute.run import memory as resources
from geols_precompute.run.executor import executor_for
from geols_precompute.run.state import read
from geols_precompute.run.task import Outcome, Task

RECIPE = ResolvedRecipe(classes=ClassTable.from_names({1: "a"}), preprocessing=Preprocessing(modalities=("m",)))


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


def test_ctrl_c_while_the_workers_start_ends_the_run_once_they_can_be_closed(monkeypatch):
    start = distributed.LocalCluster

    def interrupted(**options):
        signal.raise_signal(signal.SIGINT)
        started.append(start(**options))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    started = []
    monkeypatch.setattr(distributed, "LocalCluster", interrupted)
    with pytest.raises(KeyboardInterrupt), cluster.local_cluster(1, 2**30, MapParameters(), dashboard=False):
        started.append("a run")
    assert [one.status for one in started] == [distributed.Status.closed]


HELPERS = Path(__file__).parents[1] / "helpers"
BLOCKED_SIGNALS = """
import psutil
from pathlib import Path
from test_cluster import two_workers

if __name__ == "__main__":
    with two_workers():
        for child in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                print(next(line for line in Path(f"/proc/{child.pid}/status").open() if line.startswith("SigBlk:")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc, which shows the signals of a process")
def test_ctrl_c_reaches_no_worker(tmp_path):
    script = tmp_path / "blocked.py"
    script.write_text(BLOCKED_SIGNALS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(HELPERS)])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    blocked = [int(line.split()[1], 16) for line in done.stdout.split("\n") if line]
    assert len(blocked) == 2
    assert all(signals & (1 << signal.SIGINT - 1) for signals in blocked)


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


# --- which executor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ids", "workers"), [(["a"], 0), ([], None), ([], 2)])
def test_no_workers_or_no_tasks_are_this_process_and_nothing_is_said(tmp_path, ids, workers):
    said: list[str] = []
    with executor_for(tasks_of(tmp_path, ids), RECIPE, [], workers=workers, say=said.append) as executor:
        assert isinstance(executor, cluster.InProcess)
        assert [outcome.case for outcome in executor.run(act, tasks_of(tmp_path, ids))] == ids
    assert [line for line in said if not line.startswith("compiling kernels")] == []


def test_workers_of_this_machine_are_as_many_as_memory_allows_and_that_is_said(tmp_path, machine, monkeypatch):
    @contextmanager
    def pretended(*arguments, dashboard):
        started.append((*arguments, dashboard))
        yield cluster.OnDask(client=None, description="what it is")

    started, said = [], []
    monkeypatch.setattr(cluster, "local_cluster", pretended)
    monkeypatch.setattr("geols_precompute.run.executor.largest_need", lambda cases, recipe: 9 * 10**9)
    tasks = tasks_of(tmp_path, ["a"])
    with executor_for(tasks, RECIPE, [], workers=2, say=said.append, dashboard=True) as executor:
        assert isinstance(executor, cluster.OnDask)
    assert started == [(1, 10**10, RECIPE.maps, True)]
    assert said == ["note: there is memory for 1 of 2 workers", "the largest case needs about 9 GB", "what it is"]


def test_workers_of_an_existing_cluster_must_also_see_what_is_reused(tmp_path, monkeypatch):
    @contextmanager
    def pretended(*arguments):
        asked.append(arguments)
        yield cluster.OnDask(client=None, description="what it is")

    asked, said = [], []
    monkeypatch.setattr("geols_precompute.run.existing.existing_cluster", pretended)
    reused = SimpleNamespace(path=tmp_path / "theirs.zarr")
    tasks = [replace(task, reuse=reused) for task in tasks_of(tmp_path, ["a", "b"])]
    paths = [tmp_path / "data", tmp_path / "out"]
    with executor_for(tasks, RECIPE, paths, scheduler="tcp://x:1", say=said.append) as executor:
        assert isinstance(executor, cluster.OnDask)
    assert asked == [("tcp://x:1", RECIPE.maps, [*paths, reused.path])]
    assert said == ["what it is"]


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
    from geols_precompute.data.layouts import discover

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
    records = list(read(tmp_path / "o/state.jsonl"))
    assert len(records) == 2
    for record in records:
        assert 50e6 < record["peak_memory"] < 5e9
        assert record["worker"].endswith(f":{os.getpid()}")


def test_the_peak_is_forgotten():
    import numpy as np

    from geols_precompute.run import memory

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
    assert "the largest case needs about 29" in output


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
