"""Time reading a label store against the formats that people keep soft labels in today.

    GEOLS_TEST_DATA=../shared/data taskset -c 0 python workflows/benchmarks/store.py

One CT of 112×160×208 voxels and 4 classes (see inputs.py) is kept four ways: as a label store; as one float32 .nii.gz
of 5 channels, as the published script writes it; and, where nnunetv2 is installed, as nnU-Net keeps preprocessed data,
written and opened by its own code: as float32, and once more as the very bytes of the store, so that nobody takes the
merit of bytes for that of a format. Whole volumes and random 96³ windows are read in turn from a warm cache; the table
gives medians and the median ratio. What is read is compared first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from case import timed_task, write_files
from inputs import DATA, load_ct
from numpy.typing import NDArray

from geols_precompute import LabelStore, MapParameters, soft_label
from geols_precompute.arrays import Window
from geols_precompute.maps.case import float_maps
from geols_precompute.maps.seeds import class_seeds
from geols_precompute.store.writer import write_manifest

WINDOW = 96
CASES = 350
Reader = Callable[[Window | None], NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading a label store; see the top of this file.")
    parser.add_argument("--repeats", type=int, default=9, help="reads of each kind (default 9)")
    repeats = parser.parse_args().repeats
    case = load_ct(DATA, quick=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(case, root)
        timed_task(root, root / "out")
        path = root / "out" / "labels.zarr"
        write_manifest(path)
        store = LabelStore.open(path)
        parameters = MapParameters()
        masks = [case.labels == value for value in range(1, case.classes + 1)]
        seeds = np.stack([class_seeds(mask, parameters.seeds, case.spacing)[0] for mask in masks])
        made = float_maps(case.images, seeds, case.spacing, parameters)
        foreground = made.sums / np.float32(made.count)
        maps = np.concatenate([1 - foreground.mean(axis=0, keepdims=True), foreground])
        readers: dict[str, Reader] = {
            "label store": lambda window: store.maps("case", window),
            "float32 .nii.gz": nifti_reader(maps, root),
        }
        sizes = {"label store": folder_bytes(path / "case"), "float32 .nii.gz": folder_bytes(root / "maps.nii.gz")}
        try:
            for name, array in (("nnU-Net, float32", maps), ("nnU-Net, the same bytes", store.maps("case"))):
                readers[name] = nnunet_reader(array, root / name)
                sizes[name] = folder_bytes(root / f"{name}.b2nd")
        except ImportError:
            print("nnU-Net: SKIPPED, nnunetv2 is not installed (pip install 'geols[nnunet]')")
        for name, read in readers.items():
            np.testing.assert_array_equal(read(None), maps if "float32" in name else store.maps("case"))
        print_table(readers, sizes, case.labels.shape, repeats)
        files = sum(1 for p in (path / "case").rglob("*") if p.is_file())
        print(f"| files per case | {files} | | | |")
        print(f"\nopening a store of {CASES} cases: {1e3 * opening_seconds(path, root, repeats):.1f} ms")
        print(f"largest error of the soft label at α = 0.1, normalised, 5 classes: {soft_error(store, maps, case):.1e}")


def nifti_reader(maps: NDArray[np.float32], root: Path) -> Reader:
    """Write [class,z,y,x] as a 4-D float32 .nii.gz and return a reader; a window needs the whole file."""
    path = str(root / "maps.nii.gz")
    SimpleITK.WriteImage(SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(m) for m in maps]), path, True)

    def read(window: Window | None) -> NDArray[Any]:
        array: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        return array if window is None else array[(slice(None), *window)]

    return read


def nnunet_reader(array: NDArray[Any], path: Path) -> Reader:
    """Write [class,z,y,x] by nnU-Net's own code, as it writes an image, and return a reader by its own code."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    blocks, chunks = comp_blosc2_params(array.shape, (WINDOW,) * 3, bytes_per_pixel=array.itemsize)
    unused = np.zeros((1, *array.shape[1:]), np.int8)
    nnUNetDatasetBlosc2.save_case(array, unused, {}, str(path), chunks=chunks, blocks=blocks)
    data_set = nnUNetDatasetBlosc2(str(path.parent), [path.name])

    def read(window: Window | None) -> NDArray[Any]:
        opened, *_ = data_set.load_case(path.name)
        found: NDArray[Any] = opened[:] if window is None else opened[(slice(None), *window)]
        return found

    return read


def print_table(readers: dict[str, Reader], sizes: dict[str, int], shape: tuple[int, ...], repeats: int) -> None:
    """Read in turn and print size, full read and window of each format, and their ratio to the store's."""
    rng = np.random.default_rng(0)
    full: dict[str, list[float]] = {name: [] for name in readers}
    part: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats):
        starts = [int(rng.integers(0, n - WINDOW + 1)) for n in shape]
        z, y, x = (slice(start, start + WINDOW) for start in starts)
        for name, read in readers.items():
            full[name].append(seconds(read, None))
            part[name].append(seconds(read, (z, y, x)))
    print(f"Medians of {repeats} reads in turn.\n\n| | MB | whole volume, ms | 96³ window, ms | against the store |")
    print("|---|---|---|---|---|")
    for name in readers:
        ratios = [
            sizes[name] / sizes["label store"],
            *(statistics.median(np.divide(t[name], t["label store"])) for t in (full, part)),
        ]
        against = "size {:.1f}×, whole {:.1f}×, window {:.1f}×".format(*ratios) if name != "label store" else ""
        whole, window = (1e3 * statistics.median(t[name]) for t in (full, part))
        print(f"| {name} | {sizes[name] / 1e6:.1f} | {whole:.1f} | {window:.1f} | {against} |")


def seconds(read: Reader, window: Window | None) -> float:
    begin = time.perf_counter()
    read(window)
    return time.perf_counter() - begin


def folder_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def opening_seconds(path: Path, root: Path, repeats: int) -> float:
    """Return the median time to open a store of many cases and read the first case's metadata."""
    large = root / "large.zarr"
    large.mkdir()
    shutil.copy(path / "zarr.json", large / "zarr.json")
    for number in range(CASES):
        shutil.copytree(path / "case", large / f"case_{number:04d}", copy_function=os.link)
    write_manifest(large)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        LabelStore.open(large).metadata("case_0000")
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def soft_error(store: LabelStore, maps: NDArray[np.float32], case: Any) -> float:
    """Return the largest difference that quantisation makes to a normalised soft label."""
    exact = soft_label(case.labels, maps, alpha=0.1)
    return float(np.abs(store.soft_label("case", case.labels, alpha=0.1) - exact).max())


if __name__ == "__main__":
    main()
