"""Compare ways to pack the arrays of a store: compressor, level, shuffle, length of parts; the choice is in layout.py.

    GEOLS_TEST_DATA=../shared/data taskset -c 0 python workflows/benchmarks/packing.py
    python workflows/benchmarks/packing.py --quick        # small crops, two ways: does it run?

The maps, image and label of the CT and the MR exam (see inputs.py) are written and read by the code of the store, from
memory. Per way: bytes against version 1 of the format, and processor milliseconds, the least of several runs, to write
the array, to read it whole, and to read a 96³ window with its checksums. Blosc's blocks are left at its own choice,
since no other size was better (16 KiB to 512 KiB were tried: up to 2 % smaller, up to 30 % slower to read).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from inputs import DATA, Case, load_ct, load_mr
from numpy.typing import NDArray

from geols_precompute.arrays import Window
from geols_precompute.data.prepare import to_int16
from geols_precompute.maps.case import MapStream
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.store.layout import IMAGE, LABEL, MAPS, ArrayKind, Packing, arrays_of
from geols_precompute.store.shard import decode_window, encode_shard

WINDOW = 96
WINDOWS = 8
COMPRESSORS = (("lz4", 1), ("lz4", 5), ("lz4", 9), ("lz4hc", 1), ("lz4hc", 5), ("zstd", 1), ("zstd", 3))
PARTS = (32, 40, 48, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to pack arrays; see the top of this file.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--quick", action="store_true", help="small crops, two ways, one run")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else arguments.repeats
    for load in (load_ct, load_mr):
        case = load(DATA, arguments.quick)
        for kind, array in arrays_of_case(case):
            print(f"\n## {kind.name} of {case.name}, {array.shape}, version 1 and then every way\n")
            print("| compressor | level | shuffle | part | size | write, ms | whole, ms | window, ms |")
            print("|---|---|---|---|---|---|---|---|")
            old = (arrays_of("geols-labels", 1) | arrays_of("geols-volumes", 1))[kind.name]
            size_of_old = len(encode_shard(array, old))
            ways = [old.packing, *all_ways(kind, only_chosen=arguments.quick)]
            for packing in ways:
                row = measure(array, replace(kind, packing=packing), repeats)
                chosen = " **chosen**" if packing == kind.packing else ""
                print(
                    f"| {packing.compressor}{chosen} | {packing.level} | {packing.shuffle} | {packing.part} "
                    f"| {row[0] / size_of_old:.2f} | {row[1]:.1f} | {row[2]:.1f} | {row[3]:.1f} |",
                    flush=True,
                )


def arrays_of_case(case: Case) -> list[tuple[ArrayKind, NDArray[Any]]]:
    """Return the arrays that the stores keep of a case: maps of the default recipe, image, label."""
    classes = ClassTable.from_names({value: f"c{value}" for value in range(1, case.classes + 1)})
    maps = MapStream(
        case.images,
        case.labels,
        case.spacing,
        parameters=MapParameters(),
        classes=classes,
        modalities=[f"m{number}" for number in range(len(case.images))],
        case="case",
    ).whole()
    return [(MAPS, maps.stored), (IMAGE, to_int16(case.images)[0]), (LABEL, case.labels)]


def all_ways(kind: ArrayKind, *, only_chosen: bool) -> list[Packing]:
    """Return every way to pack an array; elements of one byte have no bytes to shuffle."""
    if only_chosen:
        return [kind.packing]
    shuffles = ("noshuffle", "shuffle", "bitshuffle") if kind.itemsize > 1 else ("noshuffle", "bitshuffle")
    return [
        Packing(compressor=compressor, level=level, shuffle=shuffle, part=part)  # type: ignore[arg-type]
        for (compressor, level), shuffle, part in itertools.product(COMPRESSORS, shuffles, PARTS)
    ]


def measure(array: NDArray[Any], kind: ArrayKind, repeats: int) -> tuple[int, float, float, float]:
    """Return (bytes, ms to write, ms to read the whole array, ms to read a window)."""
    content = encode_shard(array, kind)

    def read(window: Window) -> NDArray[Any]:
        return decode_window(lambda at, n: content[at : at + n], len(content), kind, array.shape, window, kind.name)

    z, y, x = (slice(0, n) for n in array.shape[-3:])
    np.testing.assert_array_equal(read((z, y, x)), array)
    windows = random_windows(array.shape[-3:])
    whole = least_ms(lambda: read((z, y, x)), repeats)
    part = least_ms(lambda: [read(window) for window in windows].clear(), repeats) / len(windows)
    return len(content), least_ms(lambda: encode_shard(array, kind), repeats), whole, part


def random_windows(shape: tuple[int, ...]) -> list[Window]:
    rng = np.random.default_rng(0)
    windows: list[Window] = []
    for _ in range(WINDOWS):
        starts = [int(rng.integers(0, max(1, n - WINDOW + 1))) for n in shape]
        z, y, x = (slice(start, min(n, start + WINDOW)) for start, n in zip(starts, shape, strict=True))
        windows.append((z, y, x))
    return windows


def least_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
