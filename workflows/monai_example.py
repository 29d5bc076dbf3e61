"""A MONAI training on soft labels: its transforms, network, inference and Dice, and three names of geols_train.monai.

Usage: python workflows/demo.py demo && python workflows/monai_example.py demo/data

DATA is an nnU-Net raw folder with one modality and label values 0, 1, 2, ..., and its store is in DATA/geols. A fifth
of the cases validate.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    SpatialPadd,
)
from monai.utils import set_determinism

from geols_precompute import LabelStore
from geols_train.monai import LoadGeoLSd, MixSoftLabeld, soft_dice_ce_loss

ALL, MODES = ("image", "label", "maps"), ("bilinear", "nearest", "bilinear")


def main() -> None:
    options = read_options()
    set_determinism(options.random_seed)
    store = LabelStore.open(options.data / "geols/labels.zarr")
    files = [case_files(options.data, case) for case in store]
    held_out = max(1, len(files) // 5)
    steps = training_steps(store, options.size, options.alpha)
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(store.classes),
        channels=options.features,
        strides=(2,) * (len(options.features) - 1),
        num_res_units=1,
    )
    train(network, CacheDataset(files[held_out:], steps, progress=False), options.epochs)
    dice = validate(network, CacheDataset(files[:held_out], loading(), progress=False), options.size)
    for name, value in zip(store.classes.foreground, dice, strict=True):
        print(f"validation Dice of {name}: {value:.3f}")
    torch.save(network.state_dict(), options.out)
    print(f"network  {options.out}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("monai.pt"), help="the trained network (default monai.pt)")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, nargs=3, default=(48, 48, 48), metavar=("X", "Y", "Z"))
    parser.add_argument("--features", type=int, nargs="+", default=(16, 32, 64))
    parser.add_argument("--random-seed", type=int, default=0)
    return parser.parse_args()


def case_files(data: Path, case: str) -> dict[str, str]:
    return {"image": f"{data}/imagesTr/{case}_0000.nii.gz", "label": f"{data}/labelsTr/{case}.nii.gz"}


def loading() -> Compose:
    return Compose([LoadImaged(("image", "label"), ensure_channel_first=True), NormalizeIntensityd("image")])


def training_steps(store: LabelStore, size: tuple[int, int, int], alpha: float) -> Compose:
    """Load, add the maps, move all three alike, change intensities of the image, and mix."""
    return Compose(
        [
            loading(),
            LoadGeoLSd("image", store),
            SpatialPadd(ALL, size),
            RandCropByPosNegLabeld(ALL, "label", size, pos=1, neg=1, num_samples=2),
            RandAffined(
                ALL, prob=0.5, rotate_range=(0.2,) * 3, scale_range=(0.1,) * 3, mode=MODES, padding_mode="zeros"
            ),
            RandFlipd(ALL, prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=0.2),
            MixSoftLabeld("label", store, alpha=alpha),
        ]
    )


def train(network: torch.nn.Module, cases: Any, epochs: int) -> None:
    loss_function = soft_dice_ce_loss(include_background=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in DataLoader(cases, batch_size=2, shuffle=True):
            loss = loss_function(network(batch["image"]), batch["soft"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch} of {epochs}: loss {sum(losses) / len(losses):.4f}", flush=True)


def validate(network: torch.nn.Module, cases: Any, size: tuple[int, int, int]) -> list[float]:
    """Return the mean Dice of each foreground class over whole volumes, as MONAI measures it."""
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    network.eval()
    with torch.no_grad():
        for case in DataLoader(cases, batch_size=1):
            logits = sliding_window_inference(case["image"], size, 2, network)
            n_classes = logits.shape[1]
            predicted = one_hot(logits.argmax(dim=1, keepdim=True), n_classes)
            metric(predicted, one_hot(case["label"], n_classes))
    dice: list[float] = metric.aggregate().tolist()
    return dice


if __name__ == "__main__":
    main()
