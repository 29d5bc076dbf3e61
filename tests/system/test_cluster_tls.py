"""A local cluster talks to nobody without the key that was made for it."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import subprocess
import sys
from importlib import util

import psutil
import pytest

from geols_precompute.errors import MissingExtraError
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run import dask
from geols_precompute.run.dask import local_cluster


@pytest.fixture(scope="module")
def executor():
    with local_cluster(1, 10**9, MapParameters(), dashboard=False) as running:
        yield running


def ports() -> set[int]:
    """Every TCP port that this process or one below it listens at, all of this machine alone."""
    me = psutil.Process()
    places = [
        connection.laddr
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {place.ip for place in places} == {"127.0.0.1"}
    return {place.port for place in places}


def is_web(port: int) -> bool:
    """Whether a port answers to HTTP, and if so whether every page of Dask's is missing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for page in ("/", "/status", "/info/main/workers.html", "/json/identity.json", "/metrics", "/health"):
            connection.request("GET", page)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 404, page
    except (ConnectionError, http.client.HTTPException, OSError):
        return False
    finally:
        connection.close()
    return True


def talk_without_certificate(port: int) -> None:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, anybody.wrap_socket(plain) as talk:
        talk.sendall(b"x" * 100)
        if talk.recv(1) == b"":
            raise ConnectionError("closed")


def test_tasks_run_in_another_process(executor):
    assert executor.client.scheduler.address.startswith("tls://127.0.0.1:")
    assert executor.client.submit(os.getpid, pure=False).result() != os.getpid()


def test_no_port_takes_plain_words_or_another_key(executor):
    from distributed.comm import connect
    from distributed.security import Security

    web = {port for port in ports() if is_web(port)}
    doors = ports() - web
    assert web
    # scheduler, nanny and worker
    assert len(doors) >= 3
    stranger = Security.temporary()

    async def knock(address, **options):
        comm = await connect(address, timeout=2, **options)
        # TLS 1.3 says only now that it does not take a certificate
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()

    for port in doors:
        for address, options in (
            (f"tcp://127.0.0.1:{port}", {}),
            (f"tls://127.0.0.1:{port}", stranger.get_connection_args("client")),
        ):
            with pytest.raises(OSError):  # noqa: PT011  # of many kinds
                asyncio.run(knock(address, **options))
        # without any certificate
        with pytest.raises(OSError):  # noqa: PT011
            talk_without_certificate(port)
    # who has the key is heard
    own = executor.client.security.get_connection_args("client")
    assert asyncio.run(knock(executor.client.scheduler.address, **own))["type"] == "Scheduler"


def test_without_what_makes_keys_no_cluster_starts(monkeypatch):
    found = util.find_spec
    monkeypatch.setattr(dask, "find_spec", lambda name: None if name == "cryptography" else found(name))
    with pytest.raises(
        MissingExtraError, match=r'cryptography is not installed; run: pip install "geols\[precompute\]"'
    ):
        dask._start_cluster(1, 10**9, dashboard=False)


TWICE = """
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run.dask import local_cluster

if __name__ == "__main__":
    for number in range(2):
        with local_cluster(1, 10**9, MapParameters(), dashboard=False) as executor:
            print(executor.client.submit(int, number).result())
"""


def test_a_process_may_have_one_cluster_after_another(tmp_path):
    # a process of its own: it matters whether Dask's parts were imported before
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n1\n"), done.stderr
