"""A mutation fuzzer over real stores: whatever is done to one, reading gives a GeolsError or correct data.

It runs in a process of its own whose memory is bounded, so that a store that makes the reader allocate too much fails.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from stores import RECIPE, SOURCE, geometry, maps_array, reseal

from geols_precompute.cli.store import store as store_command
from geols_precompute.data.prepare import to_int16
from geols_precompute.errors import GeolsError
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import strange_entries, verify_case
from geols_precompute.store.writer import commit_case, create_store, write_manifest

SHAPE = (6, 20, 70)
MEMORY_BYTES = 1 << 30
INTERESTING = [
    b"0", b"-1", b"1e999", b"4294967296", b"18446744073709551615", b"null", b"[]", b"{}", b'"', b"\\u0000", b"../",
    b"true", b"9" * 400, b"[" * 3000, b"\xff", b"\x00" * 16, b"zstd", b"gzip", b"object", b"float64", b"/",
]  # fmt: skip


def make_stores(root: Path) -> None:
    create_store(root / "l", root_metadata("geols-labels", RECIPE.as_json(), RECIPE.classes, {}))
    create_store(root / "v", root_metadata("geols-volumes", RECIPE.preprocessing_json(), RECIPE.classes, {}))
    for number, case in enumerate(("one", "two")):
        maps = maps_array(number, SHAPE)
        document = {"source": SOURCE, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
        commit_case(root / "l", case, {"maps": maps}, geometry(SHAPE), document)
        image, scale, offset = to_int16(maps[:1].astype(np.float32))
        document = {"source": SOURCE, "image": {"scale": scale, "offset": offset}}
        commit_case(root / "v", case, {"image": image, "label": maps[0] % 3}, geometry(SHAPE), document)
    write_manifest(root / "l")
    write_manifest(root / "v")


def read_everything(root: Path) -> dict[str, np.ndarray]:
    """Read all there is; a store or case that is refused is left out."""
    found = {}
    window = (slice(2, 5), slice(3, 20), slice(50, 70))
    for store_type, name, arrays in ((LabelStore, "l", ("maps", "present")), (VolumeStore, "v", ("image", "label"))):
        try:
            store = store_type.open(root / name)
        except GeolsError:
            continue
        for case in store.cases:
            verify_case(store, case)
            for array in arrays:
                try:
                    whole = np.asarray(getattr(store, array)(case))
                    found[f"{name}/{case}/{array}"] = whole
                    if array != "present":
                        part = getattr(store, array)(case, window)
                        np.testing.assert_array_equal(part, whole[(..., *window)])
                except GeolsError:
                    continue
        strange_entries(store)
        for command in ("info", "finalize"):
            result = CliRunner().invoke(store_command, [command, str(root / name)])
            assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
            assert "unexpected" not in result.output, result.output
    return found


def mutate(path: Path, rng: random.Random) -> None:
    """Damage one file at random: bits, slices, numbers, or a neighbour's content."""
    content = bytearray(path.read_bytes())
    kind = rng.randrange(6)
    at = rng.randrange(len(content) + 1)
    if kind == 0 and content:
        content[at % len(content)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[at:at] = rng.choice(INTERESTING)
    elif kind == 2:
        word = rng.choice(INTERESTING)
        content[at : at + len(word)] = word
    elif kind == 3:
        del content[at : at + rng.choice([1, 8, 100, len(content)])]
    elif kind == 4:
        end = rng.randrange(len(content) + 1)
        content[at:at] = content[min(at, end) : max(at, end)]
    else:
        other = rng.choice([p for p in path.parent.rglob("*") if p.is_file()])
        content = bytearray(other.read_bytes())
    path.write_bytes(content)


VALUES = [None, True, 0, -1, 2**31, 2**70, 10**400, 0.5, "", "x", "../x", "\ud800", [], {}, [[]] * 3, [1] * 3, {"a": 1}]


def mutate_document(path: Path, rng: random.Random) -> None:
    """Replace, remove or add one value anywhere in a JSON file."""
    document = json.loads(path.read_text())
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        break
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(VALUES)
    path.write_text(json.dumps(document))


def fuzz(root: Path, seconds: float, seed: int) -> int:
    """Mutate and read until the time is over; half of the time the digests are made to fit the mutation."""
    rng = random.Random(seed)
    make_stores(root / "good")
    good = read_everything(root / "good")
    assert len(good) == 8
    rounds = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shutil.rmtree(root / "bad", ignore_errors=True)
        shutil.copytree(root / "good", root / "bad")
        name = rng.choice("lv")
        files = [p for p in (root / "bad" / name).rglob("*") if p.is_file()]
        target = rng.choice(files)
        if target.suffix == ".json" and rng.random() < 0.6:
            mutate_document(target, rng)
        else:
            mutate(target, rng)
        sealed = rng.random() < 0.5 and target.name != "manifest.json"
        if sealed:
            try_reseal(root / "bad" / name)
        for key, array in read_everything(root / "bad").items():
            if not sealed:
                np.testing.assert_array_equal(array, good[key], err_msg=f"seed {seed} round {rounds} {target}")
        rounds += 1
    return rounds


def try_reseal(path: Path) -> None:
    """As an attacker would who controls the digests."""

    class Sealed:
        def __init__(self, path):
            self.path = path

    try:
        reseal(Sealed(path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError, GeolsError):
        return


@pytest.mark.parametrize(("seed", "seconds"), [(0, 8), pytest.param(1, 60, marks=pytest.mark.slow)])
def test_seconds_of_mutations(tmp_path, seed, seconds):
    helpers = Path(__file__).parents[1] / "helpers"
    environment = {**os.environ, "GEOLS_FUZZ_SECONDS": str(seconds), "PYTHONPATH": str(helpers)}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 10, done.stdout


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    count = fuzz(Path(sys.argv[1]), float(os.environ.get("GEOLS_FUZZ_SECONDS", "30")), int(sys.argv[2]))
    print(count, "mutations")
