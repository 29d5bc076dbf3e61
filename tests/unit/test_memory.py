"""Free memory: what the machine has left, or a control group that this process is in, whichever is less."""

from __future__ import annotations

import os
import resource

import pytest

from geols_precompute import memory
from geols_precompute.memory import free_memory

MACHINE = "MemTotal: 9000 kB\nMemAvailable: 7000 kB\nSwapFree: 1000 kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8000 KiB free, whose files for control groups are these: {path: text}."""

    def make(membership, files):
        for name, text in {"self": membership, "machine": MACHINE, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "self")
        monkeypatch.setattr(memory, "_MACHINE", tmp_path / "machine")
        monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
        monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return free_memory()

    return make


def group(place, limit, used, stat="anon 1\n", names=("max", "current")):
    return {
        f"groups/{place}memory.{names[0]}": f"{limit}\n",
        f"groups/{place}memory.{names[1]}": f"{used}\n",
        f"groups/{place}memory.stat": stat,
    }


def test_the_machine_with_its_swap(system):
    assert system("0::/\n", {}) == 8000 * 1024


def test_a_group_above_has_the_limit(system):
    files = {**group("job/", 900_000, 200_000, "anon 5\ninactive_file 50000\n"), **group("job/step/", "max", 100_000)}
    assert system("0::/job/step\n", files) == 750_000


def test_a_container_sees_its_group_as_the_root(system):
    assert system("0::/host/knows/it/so\n", group("", 500_000, 100_000)) == 400_000


def test_groups_of_version_1(system):
    names = ("limit_in_bytes", "usage_in_bytes")
    files = {**group("memory/", 2**63 - 4096, 10, names=names), **group("memory/job/", 300_000, 100_000, names=names)}
    assert system("5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n", files) == 200_000


def test_a_group_that_is_full(system):
    assert system("0::/\n", group("", 100, 200)) == 0


def test_this_system():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < free_memory() < 4 * total
