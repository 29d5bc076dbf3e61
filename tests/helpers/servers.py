"""Servers for the tests, all on this machine: nginx as labs run it, one that fails on purpose, and an S3 service."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@dataclass
class Site:
    """A running server: its address, and the requests (path, Range header) that it has seen."""

    url: str
    log: Callable[[], list[tuple[str, str]]]


@contextmanager
def nginx(root: Path, directives: str = "") -> Iterator[Site]:
    """Serve a folder with nginx; `directives` go into its server block."""
    if NGINX is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = root.parent / f"nginx-{port}"
    home.mkdir()
    log = home / "access.log"
    paths = "".join(f"{p}_temp_path {home}/{p};" for p in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"{'user root;' if os.getuid() == 0 else ''} daemon off; pid {home}/pid; worker_processes 1;"
        f"events {{}} http {{ {paths} log_format short '$uri $http_range'; access_log {log} short;"
        f"server {{ listen 127.0.0.1:{port}; root {root}; {directives} }} }}"
    )
    process = subprocess.Popen([NGINX, "-e", str(home / "error.log"), "-c", str(home / "nginx.conf")])
    try:
        wait_for(port)
        yield Site(f"http://127.0.0.1:{port}", lambda: [requested(line) for line in log.read_text().splitlines()])
    finally:
        process.terminate()
        process.wait(10)


def requested(line: str) -> tuple[str, str]:
    path, _, part = line.partition(" ")
    return path, "" if part == "-" else part


def wait_for(port: int) -> None:
    for _ in range(1200):
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


@dataclass
class Faults:
    """What a failing server does: `act(path, how often it was asked for before)` names a fault, or "" for none."""

    act: Callable[[str, int], str]
    ranges: bool = True
    seconds: float = 3.0
    seen: list[tuple[str, str]] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)


@contextmanager
def failing(root: Path, faults: Faults) -> Iterator[Site]:
    """Serve a folder with faults: cut (half the bytes), wrong (a flipped bit), slow, short, unsized (the end of the
    connection is the end of the file), or a status as 500.
    """
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            part = self.headers.get("Range", "")
            with lock:
                before = sum(path == self.path for path, _ in faults.seen)
                faults.seen.append((self.path, part))
                faults.authorizations.add(self.headers.get("Authorization", ""))
            fault = faults.act(self.path, before)
            file = root / self.path.lstrip("/")
            if fault.isdigit() or not file.is_file():
                self.send_error(int(fault) if fault else 404)
                return
            content = bytearray(file.read_bytes())
            size, start = len(content), 0
            if fault == "wrong":
                content[size // 2] ^= 1
            if fault == "short":
                del content[size // 2 :]
            if (match := re.fullmatch(r"bytes=(\d+)-(\d*)", part)) and faults.ranges:
                start, stop = int(match[1]), min(size, int(match[2] or size) + 1)
                content = content[start:stop]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            else:
                self.send_response(200)
            if fault != "unsized":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "slow":
                time.sleep(faults.seconds)
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
            self.close_connection = bool(fault)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, BrokenPipeError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_port}", lambda: faults.seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
