"""Stores on servers: nginx with and without ranges, and a server that fails in every way."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import time

import pytest
from servers import Faults, failing, nginx
from sharing import CASES, SHARD, make_store, packed, run, verified_store

from geols_precompute.errors import StoreError
from geols_precompute.share import copy as share
from geols_precompute.share import remote
from geols_precompute.share.remote import is_url, remote_files
from geols_precompute.store.reader import LabelStore


@pytest.fixture
def site(tmp_path):
    """The folder of a web site that holds a store, as a folder and packed; and the store."""
    root = tmp_path / "site"
    store = make_store(root / "labels.zarr", CASES)
    packed(store, root / "labels.zarr.zip")
    return root, store


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(remote, "READ_SECONDS", 1)


def files_of(store) -> set[str]:
    return {f"/labels.zarr/{p.relative_to(store.path).as_posix()}" for p in store.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("directives", ["", "max_ranges 0;", "gzip on; gzip_types *; gzip_min_length 1;"])
def test_pull_a_folder_from_nginx_asks_for_the_named_files_once_and_for_nothing_else(site, tmp_path, directives):
    root, store = site
    with nginx(root, directives) as server:
        result = run("pull", f"{server.url}/labels.zarr", "--digest", store.digest, "-o", tmp_path / "out.zarr")
        assert result.exit_code == 0, result.output
        verified_store(tmp_path / "out.zarr", store.digest)
        paths = [path for path, _ in server.log()]
    assert set(paths) == files_of(store)
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("directives", ["", "max_ranges 0;"])
def test_pull_an_archive_from_nginx(site, tmp_path, directives):
    root, store = site
    with nginx(root, directives) as server:
        url = f"{server.url}/labels.zarr.zip?download=1"
        result = run("pull", url, "--cases", "a,b", "-o", tmp_path / "out" / "labels.zarr")
        assert result.exit_code == 0, result.output
        assert LabelStore.open(tmp_path / "out/labels.zarr").cases == ("a", "b")
        assert run("pull", url, "-o", tmp_path / "out" / "labels.zarr").exit_code == 0
        verified_store(tmp_path / "out/labels.zarr", store.digest)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["labels.zarr"]
        size = (root / "labels.zarr.zip").stat().st_size
        tails = [start for start, stop in ranges(server.log()) if stop == size - 1]
        asked = sum(stop - start + 1 for start, stop in ranges(server.log()) if stop < size - 1)
    if not directives:
        # what is not wanted, or there already, is not asked for again; headers and the end of the archive come twice
        assert tails == [size - 65_558] * 2
        assert asked < size + 10_000


def ranges(log):
    return [tuple(map(int, re.findall(r"\d+", part))) for _, part in log if part]


def test_case_files_that_the_server_has_not_got_are_named(site, tmp_path):
    root, _ = site
    (root / SHARD[1:]).unlink()
    (root / "labels.zarr/c/zarr.json").unlink()
    with nginx(root) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 1
        assert f"failed: b: {server.url}{SHARD}: the server answers 404 Not Found" in result.output
        assert f"failed: c: {server.url}/labels.zarr/c/zarr.json: the server answers 404" in result.output
    assert sorted(p.name for p in (tmp_path / "out.zarr").iterdir()) == ["a", "d", "zarr.json"]


@pytest.mark.parametrize("code", [403, 500])
def test_refusals_are_named(site, tmp_path, code):
    root, _ = site
    with nginx(root, f"location = {SHARD} {{ return {code}; }}") as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 1
        assert f"failed: b: {server.url}{SHARD}: " in result.output
        assert str(code) in result.output
        assert not (tmp_path / "out.zarr/b").exists()


def test_an_address_that_is_wrong(site, tmp_path):
    root, _ = site
    with nginx(root) as server:
        for path in ("/nothing.zarr", "/nothing.zarr.zip"):
            result = run("pull", server.url + path, "-o", tmp_path / "out.zarr")
            assert result.exit_code == 2
            assert "404 Not Found; is the address right?" in result.output
            assert not (tmp_path / "out.zarr").exists()
        closed = server.url
    result = run("pull", f"{closed}/labels.zarr", "-o", tmp_path / "out.zarr")
    assert result.exit_code == 2
    assert "Connection refused, 3 times in a row; run the same command again later" in result.output
    assert "unknown" not in result.output


@pytest.mark.parametrize("ranges_on", [True, False])
def test_a_cut_transfer_goes_on_where_it_broke(site, tmp_path, ranges_on, monkeypatch):
    monkeypatch.setattr(remote, "WEB_PIECE_BYTES", 1000)
    root, store = site
    size = (root / SHARD[1:]).stat().st_size
    faults = Faults(lambda path, before: "cut" if path == SHARD and before < 2 else "", ranges=ranges_on)
    with failing(root, faults) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 0, result.output
    verified_store(tmp_path / "out.zarr", store.digest)
    parts = [part for path, part in faults.seen if path == SHARD]
    assert len(parts) == 3
    assert parts[0] == ""
    # what came in whole pieces is kept
    start, stop = ranges(faults.seen)[0]
    assert size // 2 - 1000 < start <= size // 2
    assert stop == size


def test_every_second_transfer_may_be_cut(site, tmp_path, monkeypatch):
    monkeypatch.setattr(share, "TRANSFERS", 1)
    root, store = site
    faults = Faults(lambda path, before: "cut" if before % 2 else "")
    with failing(root, faults) as server:
        result = run("pull", f"{server.url}/labels.zarr.zip", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 0, result.output
    verified_store(tmp_path / "out.zarr", store.digest)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cut", "IncompleteRead"),
        ("short", "bytes, "),
        ("wrong", "differs from its digest"),
        ("slow", "timed out"),
        ("404", "404"),
        ("500", "500"),
        ("503", "503"),
        ("418", "418"),
    ],
)
@pytest.mark.parametrize("target", [SHARD, "/labels.zarr/b/zarr.json", "/labels.zarr/b/maps/zarr.json"])
def test_a_lasting_fault_costs_its_case_only_and_is_named(site, tmp_path, fault, says, target):
    root, _ = site
    faults = Faults(lambda path, before: fault if path == target else "", seconds=1.5)
    out = tmp_path / "out.zarr"
    with failing(root, faults) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", out)
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert line.startswith(f"failed: b: {server.url}{target}: ")
    assert says in line or (fault == "short" and "differs from its digest" in line)
    assert sorted(p.name for p in out.iterdir()) == ["a", "c", "d", "zarr.json"]


@pytest.mark.parametrize("fault", ["500", "429", "slow", "cut"])
def test_a_passing_fault_is_not_noticed(site, tmp_path, fault):
    root, store = site
    faults = Faults(lambda path, before: fault if before == 0 else "", seconds=1.2)
    with failing(root, faults) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
    assert result.exit_code == 0, result.output
    verified_store(tmp_path / "out.zarr", store.digest)


@pytest.mark.parametrize("target", ["/labels.zarr/manifest.json", "/labels.zarr/zarr.json"])
@pytest.mark.parametrize("fault", ["wrong", "short", "cut", "404", "500"])
def test_a_damaged_manifest_or_root_leaves_nothing(site, tmp_path, fault, target):
    root, store = site
    with failing(root, Faults(lambda path, before: fault if path == target else "")) as server:
        result = run("pull", f"{server.url}/labels.zarr", "--digest", store.digest, "-o", tmp_path / "out.zarr")
    assert result.exit_code == 2
    assert f"{server.url}{target}: " in result.output or "its digest is" in result.output
    assert not (tmp_path / "out.zarr").exists()


def test_a_server_that_dies_is_given_up_and_the_next_run_goes_on(tmp_path):
    root = tmp_path / "site"
    cases = [f"{letter}{number}" for letter in "ab" for number in range(30)]
    store = make_store(root / "labels.zarr", cases)
    asked: set[str] = set()

    def act(path, before):
        asked.add(path)
        return "500" if len(asked) > 40 else ""

    with failing(root, Faults(act)) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 2
        assert "20 cases in a row failed, the last: " in result.output
    with failing(root, Faults(lambda path, before: "")) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
        assert result.exit_code == 0
        assert " 0 there already" not in result.output
    verified_store(tmp_path / "out.zarr", store.digest)


def test_a_file_that_changes_while_it_is_fetched_is_an_error_not_a_mixture(site, tmp_path):
    root, _ = site
    other = make_store(tmp_path / "other.zarr", CASES, seed=1)

    def act(path, before):
        if path == SHARD and before == 1:
            (root / SHARD[1:]).write_bytes((other.path / "b/maps/c/0/0/0/0").read_bytes())
        return "cut" if path == SHARD and before == 0 else ""

    with failing(root, Faults(act)) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
    assert result.exit_code == 1
    assert re.search(r"failed: b: .*(differs from its digest|bytes, \d+ expected)", result.output)
    assert not (tmp_path / "out.zarr/b").exists()


def test_answers_that_do_not_tell_their_length(site, tmp_path):
    root, store = site
    with failing(root, Faults(lambda path, before: "unsized")) as server:
        for name in ("labels.zarr", "labels.zarr.zip"):
            result = run("pull", f"{server.url}/{name}", "-o", tmp_path / f"of-{name}")
            assert result.exit_code == 0, result.output
            verified_store(tmp_path / f"of-{name}", store.digest)


def test_user_and_password_of_an_address_are_sent(site, tmp_path):
    root, store = site
    faults = Faults(lambda path, before: "")
    with failing(root, faults) as server:
        url = server.url.replace("http://", "http://user:secret@") + "/labels.zarr"
        result = run("pull", url, "-o", tmp_path / "out.zarr")
    assert result.exit_code == 0, result.output
    assert "secret" not in result.output
    verified_store(tmp_path / "out.zarr", store.digest)
    assert faults.authorizations == {"Basic " + base64.b64encode(b"user:secret").decode()}


def test_secrets_in_an_address_are_not_shown(site):
    root, _ = site
    with failing(root, Faults(lambda path, before: "404")) as server:
        url = server.url.replace("http://", "http://user:secret@") + "/labels.zarr?token=secret"
        result = run("pull", url, "-o", root.parent / "out.zarr")
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_what_is_an_address():
    assert is_url("https://lab.example/labels.zarr")
    assert is_url("s3://bucket/labels.zarr")
    assert not is_url("/data/labels.zarr")
    assert not is_url("C:labels.zarr")
    where, name = remote_files("https://lab.example/a/labels.zarr.zip?x=1")
    assert (where.location, name) == ("https://lab.example/a", "labels.zarr.zip")
    where, name = remote_files("https://lab.example/a/labels.zarr/")
    assert (where.location, name) == ("https://lab.example/a/labels.zarr", "")
    with pytest.raises(StoreError, match="nosuch"):
        remote_files("nosuch://bucket/labels.zarr")


def test_a_missing_package_gives_one_line_with_the_pip_command(tmp_path):
    from blocking import BLOCKER

    for url, package in (("http://127.0.0.1:9/x", "requests"), ("s3://bucket/x", "fsspec")):
        code = f"""
import sys
import time
from geols_precompute.cli.store import store
sys.argv = ["geols-store", "pull", {url!r}, "-o", {str(tmp_path / "x")!r}]
store()
"""
        command = [sys.executable, "-c", BLOCKER.format(blocked={package}) + code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f'error: {package} is not installed; run: pip install "geols[remote]"'


def test_ctrl_c_ends_a_pull_that_waits_for_a_server(site, tmp_path):
    root, store = site
    out = tmp_path / "out.zarr"
    code = "from geols_precompute.cli.store import store; store()"
    with failing(root, Faults(lambda path, before: "slow" if path == SHARD else "", seconds=60)) as server:
        command = [sys.executable, "-c", code, "pull", f"{server.url}/labels.zarr", "-o", out]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 100
        while SHARD not in [path for path, _ in server.log()] or len(list(out.glob("[acd]"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=50)
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "stopped; run the same command again to go on"
    assert run("pull", store.path, "-o", out).exit_code == 0
    verified_store(out, store.digest)
