"""The same files and recipe give the same store on any processor: no result hangs on its vector instructions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from datasets import ball_case, write
from numcodecs import blosc

from geols_precompute.digests import sha256_hex
from geols_precompute.store.layout import IMAGE, MAPS
from geols_precompute.store.shard import encode_shard

RECIPE = """
modalities = ["flair", "t1ce"]
spacing = [1.5, 1.0, 1.2]
clip = [1, 99]
[classes]
1 = "a"
2 = "b"
"""


def store_digest(root, out, *flags, **environment) -> str:
    command = [sys.executable, "-m", "geols_precompute", "--workers", "0", "--out", str(out), *flags, str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1]


def disabled_numpy_features() -> str:
    """Every instruction set beyond NumPy's baseline that this processor has."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return " ".join(found)


# the distances of the preset "paper" are among those that test_geodesic_processes.py compares
@pytest.mark.parametrize("preset", ["default", pytest.param("paper", marks=pytest.mark.slow)])
def test_a_plain_processor_gives_the_same_bytes(tmp_path, preset):
    rng = np.random.default_rng(0)
    for case in range(2):
        image, label = ball_case(case, (20, 26, 30), modalities=2)
        for suffix, array in (("flair", image[0]), ("t1ce", rng.normal(size=label.shape).astype(np.float32))):
            write(array, tmp_path / f"d/c{case}/c{case}_{suffix}.nii.gz")
        write(label, tmp_path / f"d/c{case}/c{case}_seg.nii.gz")
    (tmp_path / "r.toml").write_text(RECIPE)
    flags = ("--recipe", str(tmp_path / "r.toml"), "--preset", preset)
    here = store_digest(tmp_path / "d", tmp_path / "here", *flags)
    plain = store_digest(
        tmp_path / "d",
        tmp_path / "plain",
        *flags,
        NUMBA_CPU_NAME="generic",
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
        NPY_DISABLE_CPU_FEATURES=disabled_numpy_features(),
    )
    assert here == plain


@pytest.mark.parametrize("kind", [MAPS, IMAGE])
def test_blosc_threads_do_not_shuffle_a_chunk_of_many_blocks(kind, monkeypatch):
    # one chunk of 2.9 million elements
    places, noise = np.indices((80, 90, 100)).sum(0), np.random.default_rng(0).normal(0, 3, (4, 80, 90, 100))
    maps = np.stack([200 * np.exp(-places / 40 * k) for k in range(1, 5)])
    array = np.clip(maps + noise, 0, 255).astype(kind.dtype)
    # as numcodecs has them by itself; zarr, once imported, lets it use one only
    monkeypatch.setattr(blosc, "use_threads", None)
    threads = blosc.set_nthreads(4)
    try:
        shards = {sha256_hex(encode_shard(array, kind)) for _ in range(10)}
        assert len(shards) == 1
        # the thread of a Dask worker is no main thread, where numcodecs would use one
        with ThreadPoolExecutor(1) as other:
            assert shards == {sha256_hex(other.submit(encode_shard, array, kind).result())}
        assert blosc.use_threads is None
    finally:
        blosc.set_nthreads(threads)


@pytest.mark.slow  # of small volumes test_cli.py says it, of a chunk of many blocks the test above
def test_workers_or_none_the_store_of_a_large_volume_is_the_same(nnunet, tmp_path):
    root = nnunet(cases=2, shape=(70, 80, 90))
    digests = {store_digest(root, tmp_path / str(n), "--workers", str(n)) for n in (0, 2)}
    assert len(digests) == 1
