"""Time pulling a store against wget, and --reuse against computing; measure the memory of pull and pack.

    GEOLS_TEST_DATA=../shared/data python workflows/benchmarks/sharing.py
    python workflows/benchmarks/sharing.py --cases 4 --many 300      # small: does it run?

One CT of 112×160×208 voxels and 4 classes (see inputs.py) is computed and put 40 times into a store (11.2 MB a case),
which nginx serves on this machine as a folder and packed. `pull` of the folder, with every digest checked and every
file synced, is timed in turn with `wget` of the archive, which does neither; interpreter start is not in it. Reuse is
timed on the CT, step by step, in turn with computing. Peak memory is that of whole processes, also with a store of
many tiny cases. Every store that comes out must have the digest of the one that went in.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from case import prepare_task, timed_task, write_files
from click.testing import CliRunner
from inputs import DATA, load_ct

from geols_precompute.cli.store import store as store_command
from geols_precompute.run.reuse import Reuse
from geols_precompute.run.task import run_case
from geols_precompute.share.copy import renamed
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import commit_case, create_store, write_manifest

COMPUTING = ("maps", "commit maps")
#: Prints a process's own peak at its end; what its parent is told of it would include the parent. It imports nothing
#: that the command does not.
MEASURED = """
import atexit, re
def peak_bytes():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
atexit.register(lambda: print(peak_bytes()))
from geols_precompute.cli.store import store
store()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and measure sharing; see the top of this file.")
    parser.add_argument("--cases", type=int, default=40, help="CTs in the store (default 40)")
    parser.add_argument("--many", type=int, default=30_000, help="tiny cases for the memory (default 30000)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ct = root / "ct"
        ct.mkdir()
        write_files(load_ct(DATA, quick=False), ct)
        timed_task(ct, root / "out")
        write_manifest(root / "out/labels.zarr")
        reuse_table(ct, root, arguments.repeats)
        public = root / "public"
        store = multiply(root / "out/labels.zarr", public / "labels.zarr", arguments.cases)
        archive = public / "labels.zarr.zip"
        command("pack", store.path, "-o", archive)
        many = multiply(tiny_store(root / "tiny.zarr"), public / "many.zarr", arguments.many)
        with nginx(public) as url:
            pull_table(url, store, root, arguments.repeats)
            memory_table(url, {"CTs": store, "tiny cases": many}, root)
        check_digests(store, archive, root)


def reuse_table(data: Path, root: Path, repeats: int) -> None:
    """Time a task that computes and one that takes its maps from a store, in turn."""
    shutil.copytree(root / "out/labels.zarr", root / "known.zarr")
    recipe = prepare_task(data, root / "out").recipe
    reuse = Reuse.of(str(root / "known.zarr"), recipe)
    computing: list[float] = []
    taking: list[float] = []
    for _ in range(repeats):
        _, outcome = timed_task(data, root / "out")
        computing.append(sum(outcome.seconds[step] for step in COMPUTING))
        outcome = run_case(replace(prepare_task(data, root / "out"), reuse=reuse))
        if outcome.status != "reused" or set(COMPUTING) & set(outcome.seconds):
            raise SystemExit(f"{outcome.case}: {outcome.status}, not reused: {outcome.notes}")
        taking.append(outcome.seconds["reuse"])
    if write_manifest(root / "out/labels.zarr") != LabelStore.open(root / "known.zarr").digest:
        raise SystemExit("a reused store has another digest")
    saved = statistics.median(1 - t / c for t, c in zip(taking, computing, strict=True))
    print(f"\n## Reuse of one CT, medians of {repeats} in turn\n\n| | seconds |\n|---|---|")
    print(f"| seeds, distances, maps, compression, commit | {statistics.median(computing):.3f} |")
    print(f"| reuse: read, check, commit | {statistics.median(taking):.3f} |\n| saved | {saved:.1%} |")


def pull_table(url: str, store: LabelStore, root: Path, repeats: int) -> None:
    """Time pull of a folder and of an archive, and wget of the archive, in turn."""

    def pull(name: str) -> None:
        command("pull", f"{url}/{name}", "--digest", store.digest, "-o", root / "pulled.zarr")

    ways: dict[str, Callable[[], Any]] = {
        "wget of the archive": lambda: wget(f"{url}/labels.zarr.zip", root / "fetched.zip"),
        "pull of the folder": lambda: pull("labels.zarr"),
        "pull of the archive": lambda: pull("labels.zarr.zip"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if number:  # the first round warms the server's cache, and imports
                seconds[name].append(time.perf_counter() - begin)
            remove(root / "fetched.zip", root / "pulled.zarr")
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    print(f"\n## Pull of {len(store.cases)} CTs, {size / 1e6:.0f} MB, medians of {repeats} in turn\n")
    print("| | seconds | against wget |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(np.divide(times, seconds["wget of the archive"]))
        print(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f}× |")


def memory_table(url: str, stores: dict[str, LabelStore], root: Path) -> None:
    """Measure the peak memory of whole processes."""
    print("\n## Peak memory of a process\n\n| | cases | pack, MB | pull, MB | pull, seconds |\n|---|---|---|---|---|")
    for name, store in stores.items():
        archive, pulled = root / "packed.zarr.zip", root / "pulled.zarr"
        packing, _ = peak_megabytes("pack", store.path, "-o", archive)
        pulling, seconds = peak_megabytes("pull", f"{url}/{store.path.name}", "-o", pulled)
        if LabelStore.open(archive).digest != store.digest or LabelStore.open(pulled).digest != store.digest:
            raise SystemExit(f"{name}: the digest changed on the way")
        print(f"| {name} | {len(store.cases)} | {packing:.0f} | {pulling:.0f} | {seconds:.1f} |")
        remove(archive, pulled)


def check_digests(store: LabelStore, archive: Path, root: Path) -> None:
    """Unpack, and merge halves; both must have the digest of the original."""
    half = len(store.cases) // 2
    command("unpack", archive, "-o", root / "unpacked.zarr")
    for name, cases in (("a", store.cases[:half]), ("b", store.cases[half:])):
        command("pull", archive, "--cases", ",".join(cases), "-o", root / f"half-{name}.zarr")
    command("merge", root / "half-a.zarr", root / "half-b.zarr", "-o", root / "merged.zarr")
    for name in ("unpacked", "merged"):
        if LabelStore.open(root / f"{name}.zarr").digest != store.digest:
            raise SystemExit(f"{name}: the digest changed on the way")
    print(f"\nPacked, unpacked, pulled and merged stores have the digest {store.digest[:12]}… of the original.")


def multiply(source: Path, root: Path, count: int) -> LabelStore:
    """Make a store of `count` cases out of the one case of another."""
    store = LabelStore.open(source)
    (case,) = store.cases
    root.mkdir(parents=True)
    shutil.copy(source / "zarr.json", root)
    for number in range(count):
        name = f"case_{number:05d}"
        shutil.copytree(source / case, root / name)
        (root / name / "zarr.json").write_bytes(renamed(store.metadata(case), name))
    write_manifest(root)
    return LabelStore.open(root)


def tiny_store(root: Path) -> Path:
    """Make a store of one case of 4×8×8 voxels, with what a CT's has beside the maps."""
    source = LabelStore.open(root.parent / "known.zarr")
    (case,) = source.cases
    metadata = source.metadata(case)
    size = (8, 8, 4)
    maps = np.zeros((len(source.channels), *size[::-1]), np.uint8)
    create_store(root, {"zarr_format": 3, "node_type": "group", "attributes": {"geols": dict(source.geols)}})
    keys = ("source", "present", "channels", "seeds", "stats")
    document = {key: metadata.geols[key] for key in keys}
    commit_case(root, case, {"maps": maps}, replace(metadata.geometry, size=size), document)
    write_manifest(root)
    return root


@contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Serve a folder on this machine and provide its address."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        raise SystemExit("nginx is not installed (Debian: apt-get install nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = root.parent / "nginx"
    home.mkdir()
    user = "user root;" if os.getuid() == 0 else ""
    paths = "".join(f"{p}_temp_path {home}/{p};" for p in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"{user} daemon off; pid {home}/pid; events {{}} http {{ {paths} access_log off; sendfile on;"
        f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}"
    )
    server = subprocess.Popen([binary, "-e", f"{home}/error.log", "-c", f"{home}/nginx.conf"])
    try:
        for _ in range(100):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wget(url: str, path: Path) -> None:
    subprocess.run(["wget", "--quiet", "-O", path, url], check=True)


def command(*arguments: object) -> None:
    """Run a command of geols-store in this process."""
    result = CliRunner().invoke(store_command, [str(a) for a in arguments])
    if result.exit_code:
        raise SystemExit(result.output)


def peak_megabytes(*arguments: object) -> tuple[float, float]:
    """Run a command of geols-store in a process of its own; (its largest resident memory, seconds)."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - begin
    return int(done.stdout.split()[-1]) / 1e6, seconds


def remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
