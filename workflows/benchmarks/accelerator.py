"""The rows of training.py that ask for a GPU: the paper's network on 128×192×192 voxels of four modalities.

    python workflows/benchmarks/accelerator.py            # on a GPU
    python workflows/benchmarks/accelerator.py --cpu      # crops of 40×56×72 and four levels, on a CPU

1. Epochs of GeoLS and of cross-entropy (torch's, reading no maps) in turn, with --cache device and none.
2. The share of a step that waits for data, by --profile, with --cache device and none.
3. Steps per second against a plain MONAI loop: cached files, flips on the CPU, the same network, bf16, compiled.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import write_files
from inputs import DATA, load_mr
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    ConcatItemsd,
    DeleteItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
)
from torch.nn import functional
from trainers import compute_stores, epochs_in_turn, losses_in_turn, make_trainer, timed_epoch

from geols_train.config import Cache, TrainConfig
from geols_train.device import autocast
from geols_train.log import StepTimer
from geols_train.unet import UNet3D

MODALITIES = ("m0", "m1", "m2", "m3")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is trained: cases in the data set, of which a quarter validates, and the trainer's settings."""

    cases: int
    settings: dict[str, Any]

    @property
    def split(self) -> str:
        """Counts as --split takes them."""
        return f"{self.cases - self.cases // 4},{self.cases // 4},0"


FULL = Scale(cases=32, settings={"crop": (128, 192, 192), "device": "cuda", "precision": "bf16", "compile": True})
CPU = Scale(cases=16, settings={"crop": (40, 56, 72), "device": "cpu", "features": (16, 32, 64, 128)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training on a GPU; see the top of this file.")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each kind (default 5)")
    parser.add_argument("--cpu", action="store_true", help="small crops and a small network on a CPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gpu_rows(Path(folder), arguments.repeats, CPU if arguments.cpu else FULL)


def gpu_rows(folder: Path, repeats: int, scale: Scale) -> None:
    """Measure and print every row."""
    device = torch.device(scale.settings["device"])
    print(f"## {torch.cuda.get_device_name() if device.type == 'cuda' else device}, {scale.settings}\n")
    data = exam(folder, scale)
    config = TrainConfig(
        data=folder / "stores", split=scale.split, augment="flips", epochs=1000, batch_size=4, **scale.settings
    )
    caches: tuple[Cache, ...] = ("device", "none")
    for cache in caches:
        print(f"epoch, cache {cache}: {losses_in_turn(replace(config, cache=cache), folder, repeats)}")
    for cache in caches:
        waiting(folder, replace(config, cache=cache), repeats)
    against_monai(folder, data, replace(config, cache="device"), repeats)


def exam(folder: Path, scale: Scale) -> Path:
    """Write one real exam as files, and stores of `cases` cases that all are this exam; return the files' folder."""
    data = folder / "data"
    data.mkdir()
    write_files(load_mr(DATA, quick=scale is CPU), data)
    header, row = (data / "cases.csv").read_text().splitlines()
    rows = [row.replace("case,", f"case_{number:02d},", 1) for number in range(scale.cases)]
    (data / "cases.csv").write_text("\n".join([header, *rows]) + "\n")
    compute_stores(data, folder / "stores")
    return data


def waiting(folder: Path, config: TrainConfig, repeats: int) -> None:
    """Print the share of a step that waits for data."""
    trainer = make_trainer(config, folder / f"waiting-{config.cache}")
    timed_epoch(trainer)
    trainer.timer = StepTimer(trainer.device, enabled=True)
    for _ in range(repeats):
        timed_epoch(trainer)
    print(f"waiting for data, cache {config.cache}: {trainer.timer.share('data'):.2%}\n{trainer.timer.table()}")


def against_monai(folder: Path, data: Path, config: TrainConfig, repeats: int) -> None:
    """Print the steps per second of both, epochs in turn."""
    trainer, monai = make_trainer(config, folder / "ours"), MonaiLoop(data, config)
    seconds = epochs_in_turn({"ours": partial(timed_epoch, trainer), "MONAI": monai.timed_epoch}, repeats)
    steps = len(trainer.batches)
    ratio = statistics.median(np.divide(seconds["MONAI"], seconds["ours"]))
    listed = ", ".join(f"{name} {steps / statistics.median(times):.2f}" for name, times in seconds.items())
    print(f"steps per second: {listed}: {ratio:.3f}×")


class MonaiLoop:
    """A plain training loop on MONAI's data classes, with our network and cross-entropy on class indices."""

    def __init__(self, data: Path, config: TrainConfig) -> None:
        self.device, self.config = torch.device(config.device), config
        files = {name: str(data / f"{name}.nii.gz") for name in (*MODALITIES, "label")}
        count = int(config.split.split(",")[0])
        crop = config.crop
        assert crop is not None
        transform = Compose(
            [
                LoadImaged(keys=[*MODALITIES, "label"]),
                EnsureChannelFirstd(keys=[*MODALITIES, "label"]),
                ConcatItemsd(keys=MODALITIES, name="image"),
                DeleteItemsd(keys=MODALITIES),
                NormalizeIntensityd(keys="image", channel_wise=True),
                CenterSpatialCropd(keys=["image", "label"], roi_size=crop[::-1]),
                *(RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=axis) for axis in range(3)),
            ]
        )
        dataset = CacheDataset([files] * count, transform, cache_rate=1.0, progress=False)
        workers = 4 if self.device.type == "cuda" else 0
        self.loader = DataLoader(
            dataset,
            batch_size=config.batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        torch.manual_seed(0)
        network = UNet3D(len(MODALITIES), 4, config.features).to(self.device)
        self.network: Any = torch.compile(network, dynamic=False) if config.compile else network
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    def timed_epoch(self) -> float:
        """Return the seconds of an epoch of training."""
        begin = time.perf_counter()
        for batch in self.loader:
            image = batch["image"].as_tensor().to(self.device, non_blocking=True)
            label = batch["label"].as_tensor().to(self.device, non_blocking=True)[:, 0].long()
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.config.precision):
                logits = self.network(image)
            loss = functional.cross_entropy(logits.float(), label)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
