"""Measure what soft labels cost in training: epochs, samples, the loss; against cross-entropy and .nii.gz files.

    GEOLS_TEST_DATA=../shared/data python workflows/benchmarks/training.py
    python workflows/benchmarks/training.py --cases 12 --repeats 2       # small: does it run?

1. Epochs of GeoLS and of cross-entropy (torch's, on class indices, reading no maps) in turn, over cases of the
   hippocampus data set, with a network of four levels.
2. Preparing a 96³ sample of a CT of 4 classes (see inputs.py) on one core: windows of image, label and uint8 maps out
   of the stores, mixed in the loss; against float32 .nii.gz files, cropped, made one-hot and mixed with NumPy.
3. Peak memory of the loss, forward and backward, for 5 classes, against one-hot labels and float maps.

Rows of a GPU are those of gpu.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from case import timed_task, write_files
from inputs import DATA, load_ct
from numpy.typing import NDArray
from trainers import compute_stores, losses_in_turn

from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.writer import write_manifest
from geols_train.config import TrainConfig
from geols_train.data import Box, CaseReader, random_box
from geols_train.stores import Stores

WINDOW = (96, 96, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training; see the top of this file.")
    parser.add_argument("--cases", type=int, default=40, help="of hippocampus (default 40)")
    parser.add_argument("--repeats", type=int, default=7, help="epochs and samples of each kind (default 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        epochs(Path(folder), arguments.cases, arguments.repeats)
        samples(Path(folder), arguments.repeats)
    loss_memory()


# --- epochs --------------------------------------------------------------------------------------------------------


def epochs(folder: Path, cases: int, repeats: int) -> None:
    """Time epochs of both losses in turn."""
    compute_stores(DATA / "hippocampus", folder / "hippocampus", cases)
    config = TrainConfig(
        data=folder / "hippocampus",
        features=(16, 32, 64, 128),
        epochs=1000,
        batch_size=2,
        split="0.8,0.1,0.1",
        cache="ram",
        device="cpu",
    )
    print(f"## Epochs over {cases} hippocampi, medians of {repeats} in turn, {torch.get_num_threads()} threads\n")
    print(losses_in_turn(config, folder, repeats))


# --- samples -------------------------------------------------------------------------------------------------------


def samples(folder: Path, repeats: int) -> None:
    """Time the preparation of a sample in both ways, in turn."""
    case = load_ct(DATA, quick=False)
    data = folder / "ct"
    data.mkdir()
    write_files(case, data)
    timed_task(data, folder / "stores")
    for name in ("volumes", "labels"):
        write_manifest(folder / f"stores/{name}.zarr")
    stores = Stores(
        volumes=VolumeStore.open(folder / "stores/volumes.zarr"), labels=LabelStore.open(folder / "stores/labels.zarr")
    )
    reader = CaseReader(stores=stores, maps_needed=True)
    reader = CaseReader(stores=stores, maps_needed=True, zscores={"case": reader.examined("case")})
    assert stores.labels is not None
    maps = stores.labels.class_maps("case")
    path = str(folder / "maps.nii.gz")
    SimpleITK.WriteImage(SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(m) for m in maps]), path, True)
    ways: dict[str, Callable[[Box], object]] = {
        "stores": lambda box: reader.window("case", box),
        ".nii.gz and NumPy": lambda box: published_sample(data, path, box),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for number in range(repeats + 1):
        box = random_box(case.labels.shape, WINDOW, np.random.default_rng(number))
        for name, way in ways.items():
            begin = time.perf_counter()
            way(box)
            if number:
                seconds[name].append(time.perf_counter() - begin)
    ratio = statistics.median(np.divide(seconds[".nii.gz and NumPy"], seconds["stores"]))
    print(f"\n## A 96³ sample, medians of {repeats} in turn\n")
    print(", ".join(f"{name} {1e3 * statistics.median(t):.1f} ms" for name, t in seconds.items()) + f": {ratio:.1f}×")


def published_sample(data: Path, maps: str, box: Box) -> tuple[NDArray[Any], NDArray[Any]]:
    """Prepare a sample as it is done with files: read, crop, normalise, make one-hot, mix."""
    image, label, soft = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        for path in (str(data / "m0.nii.gz"), str(data / "label.nii.gz"), maps)
    )
    window = box.inside(label.shape)
    image = ((image - image.mean()) / image.std())[window].astype(np.float32)
    one_hot = np.eye(5, dtype=np.float32)[label[window]].transpose(3, 0, 1, 2)
    smooth = soft[(slice(None), *window)]
    return image, 0.9 * one_hot + 0.1 * smooth / smooth.sum(axis=0)


# --- memory of the loss --------------------------------------------------------------------------------------------

LOSS = """
import sys, torch
from geols_precompute.run import memory
from geols_train import SoftCrossEntropy, soft_label
from geols_train.loss import soft_cross_entropy
from geols_train.targets import class_maps
torch.set_num_threads(1)
B, C, S = 2, 5, 128
logits = torch.randn(B, C, S, S, S).requires_grad_()
label = torch.randint(0, C, (B, S, S, S), dtype=torch.uint8)
stored = torch.randint(0, 256, (B, C - 1, S, S, S), dtype=torch.uint8)
present = torch.ones(B, C, dtype=torch.bool)
channels = tuple(range(1, C))
memory.forget_peak()
before = memory.peak_bytes()
if sys.argv[1] == "fused":
    SoftCrossEntropy(channels=channels)(logits, label, stored, present).backward()
else:
    target = soft_label(label, class_maps(stored, channels=channels, present=present, n_classes=C))
    soft_cross_entropy(logits, target, label).backward()
print((memory.peak_bytes() - before) / 1e6)
"""


def loss_memory() -> None:
    """Compare the memory that the loss takes beyond its inputs, forward and backward."""
    peaks = {
        way: float(subprocess.run([sys.executable, "-c", LOSS, way], check=True, capture_output=True, text=True).stdout)
        for way in ("plain", "fused")
    }
    print("\n## Peak memory of the loss, forward and backward, 2 × 5 classes × 128³\n")
    print(f"one-hot labels and float maps {peaks['plain']:.0f} MB, fused {peaks['fused']:.0f} MB: ", end="")
    print(f"{peaks['fused'] / peaks['plain']:.2f}\n")


if __name__ == "__main__":
    main()
