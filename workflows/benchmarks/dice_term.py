"""A Dice term on soft labels: where its minimum is, what a constant is worth to it, what short trainings give.

Usage: python workflows/benchmarks/dice_term.py HIPPOCAMPUS [--steps 250] [--seeds 2]

HIPPOCAMPUS is the folder of the Medical Segmentation Decathlon's Task04 in nnU-Net's layout. Fifty cases are copied, in
which the 60 voxels at one end of the posterior part become a class of its own, about 0.1 % of the volume.

1. Mean of |p - y| where the loss of free logits is smallest, α = 0.1, three classes.
2. Soft mass outside each class, and the Dice that DML1 gives to the best constant p and to the one-hot label.
3. Dice of trainings with soft cross-entropy alone, with DML1 beside it, and with Dice on the one-hot label beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from geols_precompute import LabelStore, VolumeStore, precompute
from geols_train.data import CaseReader, centre_box
from geols_train.loss import dice_semimetric_loss, soft_cross_entropy
from geols_train.stores import Stores
from geols_train.targets import Mix, one_hot
from geols_train.unet import UNet3D

ALPHA, CASES, TRAINING_CASES, SIZE = 0.1, 50, 36, (32, 48, 32)
#: (logits, soft label, class indices) -> loss
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def with_soft_dice(logits: torch.Tensor, soft: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return soft_cross_entropy(logits, soft, label) + dice_semimetric_loss(logits, soft, label)


def with_hard_dice(logits: torch.Tensor, soft: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    hard = one_hot(label, logits.shape[1])
    return soft_cross_entropy(logits, soft, label) + dice_semimetric_loss(logits, hard, label)


LOSSES: dict[str, Loss] = {
    "cross-entropy": soft_cross_entropy,
    "cross-entropy + DML1": with_soft_dice,
    "cross-entropy + Dice on the one-hot label": with_hard_dice,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hippocampus", type=Path)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_minima()
    with tempfile.TemporaryDirectory() as folder:
        data = with_small_class(options.hippocampus, Path(folder))
        summary = precompute(data, workers=0)
        stores = Stores(volumes=VolumeStore.open(summary.volumes), labels=LabelStore.open(summary.labels))
        print_constants(stores)
        print_trainings(stores, options.steps, options.seeds)


def with_small_class(source: Path, data: Path) -> Path:
    """Copy cases, with the end of the posterior part as class 3."""
    for name in ("imagesTr", "labelsTr"):
        (data / name).mkdir()
    for path in sorted((source / "labelsTr").glob("*.nii.gz"))[:CASES]:
        shutil.copy(source / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"), data / "imagesTr")
        file = sitk.ReadImage(str(path))
        label_ZYX = sitk.GetArrayFromImage(file).astype(np.uint8)
        posterior = np.argwhere(label_ZYX == 2)
        end = posterior[np.argsort(posterior[:, 1], kind="stable")[:60]]
        label_ZYX[tuple(end.T)] = 3
        changed = sitk.GetImageFromArray(label_ZYX)
        changed.CopyInformation(file)
        sitk.WriteImage(changed, str(data / "labelsTr" / path.name))
    description = json.loads((source / "dataset.json").read_text())
    description["labels"]["end"] = 3
    (data / "dataset.json").write_text(json.dumps(description | {"numTraining": CASES}))
    return data


# --- minima -----------------------------------------------------------------------------------------------------------


def print_minima() -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 3, (1, 6, 6, 6))
    maps = torch.rand(1, 3, 6, 6, 6)
    hard = one_hot(label, 3)
    soft = (1 - ALPHA) * hard + ALPHA * maps / maps.sum(dim=1, keepdim=True)
    print("| loss | mean of abs(p - y) at its minimum |\n|---|---|")
    for name, loss in LOSSES.items():
        logits = torch.zeros_like(soft).requires_grad_()
        optimizer = torch.optim.Adam([logits], 0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 1500)
        for _ in range(1500):
            optimizer.zero_grad()
            loss(logits, soft, label).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"| {name} | {(logits.detach().softmax(dim=1) - soft).abs().mean().item():.4f} |", flush=True)
    print(f"| the one-hot label itself | {(hard - soft).abs().mean().item():.4f} |\n")


# --- constants --------------------------------------------------------------------------------------------------------


def print_constants(stores: Stores) -> None:
    assert stores.labels is not None
    rows: dict[str, list[tuple[float, ...]]] = {}
    for case in stores.labels.cases[:20]:
        label_ZYX = stores.volumes.label(case)
        soft_CZYX = stores.labels.soft_label(case, label_ZYX, alpha=ALPHA)
        for index, name in enumerate(stores.classes.foreground, 1):
            inside, soft = label_ZYX == index, soft_CZYX[index]
            outside = soft[~inside].sum() / soft.sum()
            figures = inside.mean(), outside, best_constant(soft), best_constant(inside), dice(inside, soft)
            rows.setdefault(name, []).append(tuple(map(float, figures)))
    print("| class | of the volume | soft mass outside | best constant | the same, hard label | one-hot label |")
    print("|---|---|---|---|---|---|")
    for name, values in rows.items():
        share, *others = np.mean(values, axis=0)
        print(f"| {name} | {share:.2%} | {' | '.join(f'{value:.3f}' for value in others)} |", flush=True)
    print()


def best_constant(target: np.ndarray) -> float:
    return max(dice(np.full(target.shape, p), target) for p in np.linspace(0.001, 0.3, 30))


def dice(p: np.ndarray, target: np.ndarray) -> float:
    """1 - DML1."""
    p, target = p.astype(np.float64), target.astype(np.float64)
    return float(1 - np.abs(p - target).sum() / (p.sum() + target.sum()))


# --- trainings --------------------------------------------------------------------------------------------------------


def print_trainings(stores: Stores, steps: int, seeds: int) -> None:
    cases = [load(stores, case) for case in stores.cases]
    print(f"| loss | seed | Dice of {', '.join(stores.classes.foreground)} | confidence | L1 to the soft label |")
    print("|---|---|---|---|---|")
    for seed in range(seeds):
        for name, loss in LOSSES.items():
            network = trained(cases[:TRAINING_CASES], loss, seed, steps)
            print(f"| {name} | {seed} | {tested(network, cases[TRAINING_CASES:])} |", flush=True)


def load(stores: Stores, case: str) -> tuple[torch.Tensor, ...]:
    """Return z-scores [1,m,z,y,x], class indices [1,z,y,x] and the soft label [1,c,z,y,x] of the centre of a case."""
    assert stores.labels is not None
    reader = CaseReader(stores=stores, maps_needed=True)
    zscores = {case: reader.examined(case)}
    box = centre_box(reader.shape(case), SIZE)
    window = CaseReader(stores=stores, maps_needed=True, zscores=zscores).window(case, box)
    mix = Mix(method="geols", channels=stores.labels.channels, alpha=ALPHA)
    label, maps, present = (torch.from_numpy(a)[None] for a in (window.label, window.maps, window.present))
    image = torch.from_numpy(window.zscore.apply(window.image))[None]
    return image, label, mix.soft_label(label, maps, present, len(stores.classes))


def trained(cases: list[tuple[torch.Tensor, ...]], loss: Loss, seed: int, steps: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = UNet3D(1, cases[0][2].shape[1], (8, 16, 32))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = [cases[i] for i in rng.choice(len(cases), 2, replace=False)]
        image, label, soft = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        optimizer.zero_grad()
        loss(network(image), soft, label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


def tested(network: torch.nn.Module, cases: list[tuple[torch.Tensor, ...]]) -> str:
    scores, confidences, distances = [], [], []
    with torch.no_grad():
        for image, label, soft in cases:
            p = network(image).softmax(dim=1)
            counted, found = label != 255, p.argmax(dim=1)
            scores.append(
                [
                    (
                        2 * ((found == c) & (label == c)).sum() / (((found == c) & counted).sum() + (label == c).sum())
                    ).item()
                    for c in range(1, p.shape[1])
                ]
            )
            confidences.append(p.amax(dim=1)[counted].mean().item())
            distances.append((p - soft).abs().sum(dim=1)[counted].mean().item())
    dices = ", ".join(f"{value:.3f}" for value in np.mean(scores, axis=0))
    return f"{dices} | {np.mean(confidences):.3f} | {np.mean(distances):.3f}"


if __name__ == "__main__":
    main()
