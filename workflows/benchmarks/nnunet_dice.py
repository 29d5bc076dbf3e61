"""Which Dice term for nnU-Net on soft labels: its own on the hard label, or one with its minimum at the soft label.

    python workflows/benchmarks/nnunet_dice.py DATASET CONFIGURATION PLANS [--iterations 400] [--alphas 0.1 0.3]

First what a store's maps say: how much of a class's soft mass lies outside it, and what the soft Dice rewards a
constant prediction with. Then short trainings on fold 0 that differ in the loss only: nnU-Net's own, GeoLS as
nnUNetTrainerGeoLS trains, and GeoLS with the Dice semimetric loss (DML1, Wang et al. 2023) on the soft label. They take
Adam, as nnU-Net's SGD needs thousands of iterations. Over the
validation cases they are compared by the Dice of each class, the mean negative log-likelihood of the label, and the
expected calibration error (15 bins of the largest probability). One JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.nn import functional

from geols_precompute import LabelStore
from geols_precompute.arrays import Float32Array
from geols_precompute.softlabel import one_hot
from geols_train.nnunet import SoftLabelLoss, trainer_named
from geols_train.targets import class_maps, soft_label

ITERATIONS_PER_EPOCH = 50
LEARNING_RATE = 3e-3
BINS = 15


class WithSoftDice(SoftLabelLoss):
    """GeoLS with the Dice term 1 - (Σ p + Σ y - Σ |p - y|) / (Σ p + Σ y) on the soft label y, its minimum at p = y."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        getattr(self.stock, "loss", self.stock).weight_dice = 0

    def _term(
        self, logits: torch.Tensor, label: torch.Tensor, maps: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        g = class_maps(maps, channels=self.store.channels, present=present, n_classes=len(self.store.classes))
        y = soft_label(label[:, 0].long(), g, alpha=self.alpha)[:, 1:]
        p = torch.softmax(logits, dim=1)[:, 1:]
        axes = tuple(range(2, p.ndim))
        total = (p + y).sum(axes)
        dice = ((total - (p - y).abs().sum(axes) + 1e-5) / (total + 1e-5)).mean()
        return super()._term(logits, label, maps, present) - dice / self.weight


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("plans")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    arms: list[tuple[str, float, bool]] = [("nnU-Net", 0.0, False)]
    for alpha in given.alphas:
        arms += [("GeoLS, hard Dice", alpha, False), ("GeoLS, soft Dice", alpha, True)]
    for number, (name, alpha, soft_dice) in enumerate(arms):
        trainer = trained(given, alpha, soft_dice=soft_dice)
        if number == 0:
            for row in constants(trainer.geols_store, Path(trainer.preprocessed_dataset_folder), trainer.dataset_class):
                print(json.dumps(row), flush=True)
        print(json.dumps({"loss": name, "alpha": alpha, "seed": given.seed, **evaluated(trainer)}), flush=True)


def constants(store: LabelStore, folder: Path, dataset_class: Any) -> Iterable[dict[str, Any]]:
    """Yield, per class, its share of the volume, of its soft mass outside it, and what a constant is rewarded with."""
    cases = dataset_class(str(folder))
    shares, outside, constant, hard_constant = ([] for _ in range(4))
    for case in store.cases:
        label = np.maximum(np.asarray(cases.load_case(case)[1][:])[0], 0)
        y = store.soft_label(case, label, alpha=0.1)[1:]
        hard = one_hot(label, len(store.classes))[1:]
        shares.append(hard.mean((1, 2, 3)))
        outside.append((y * (1 - hard)).sum((1, 2, 3)) / y.sum((1, 2, 3)))
        constant.append(best_constant(y))
        hard_constant.append(best_constant(hard))
    for index, label_class in enumerate(list(store.classes)[1:]):
        yield {
            "class": label_class.name,
            "share of the volume": round(float(np.mean(shares, 0)[index]), 5),
            "soft mass outside the class": round(float(np.mean(outside, 0)[index]), 4),
            "soft Dice of the best constant": round(float(np.mean(constant, 0)[index]), 4),
            "hard Dice of the best constant": round(float(np.mean(hard_constant, 0)[index]), 4),
        }


def best_constant(y: Float32Array) -> Float32Array:
    """Return per class the largest DML1 Dice that a constant probability has against y [c,z,y,x]."""
    flat = y.reshape(len(y), -1)
    found = [
        (1 - np.abs(p - flat).sum(1) / (p * flat.shape[1] + flat.sum(1)))
        for p in np.quantile(flat[flat > 0], np.linspace(0, 1, 21))
    ]
    best: Float32Array = np.max(found, axis=0)
    return best


def trained(given: argparse.Namespace, alpha: float, *, soft_dice: bool) -> Any:
    """Train, and return the trainer."""
    seed_all(given.seed)
    name = f"nnUNetTrainerGeoLS_a{alpha:g}".replace(".", "p")
    named = get_trainer_from_args(
        given.dataset, given.configuration, 0, "nnUNetTrainer", given.plans, device=torch.device(given.device)
    )
    arguments = {**named.my_init_kwargs, "plans": {**named.plans_manager.plans, "continue_training": False}}
    trainer = trainer_named(name)(**arguments)
    trainer.num_epochs = max(1, given.iterations // ITERATIONS_PER_EPOCH)
    trainer.print_plans = trainer.plot_network_architecture = lambda: None
    trainer.on_train_start()
    trainer.optimizer = torch.optim.Adam(trainer.network.parameters(), LEARNING_RATE)
    trainer.lr_scheduler = PolyLRScheduler(trainer.optimizer, LEARNING_RATE, trainer.num_epochs)
    if soft_dice:
        loss = trainer.loss
        trainer.loss = WithSoftDice(loss.stock, loss.store, alpha=alpha, regions=None, ignore=None)
    seed_all(given.seed)
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        for _ in range(ITERATIONS_PER_EPOCH):
            trainer.train_step(next(trainer.dataloader_train))
    return trainer


def seed_all(seed: int) -> None:
    """Seed what nnU-Net draws from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # nnU-Net draws from it
    torch.manual_seed(seed)


@torch.inference_mode()
def evaluated(trainer: Any) -> dict[str, Any]:
    """Return Dice per class, negative log-likelihood and calibration error over the validation cases, whole volumes."""
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    _, validation = trainer.do_split()
    cases = trainer.dataset_class(trainer.preprocessed_dataset_folder, validation)
    dice, likelihood, error, confidence = [], [], [], []
    for case in cases.identifiers:
        data, label, *_ = cases.load_case(case)
        image, index = torch.from_numpy(data[:])[None], torch.from_numpy(np.maximum(label[:], 0)).long()
        pads = [(0, -n % 16) for n in image.shape[:1:-1]]
        padded = functional.pad(image, [n for pair in pads for n in pair])
        logits = trainer.network(padded.to(trainer.device)).cpu()[(..., *(slice(n) for n in image.shape[2:]))]
        likelihood.append(float(functional.cross_entropy(logits, index)))
        probability = torch.softmax(logits, 1)
        found = probability.argmax(1)
        dice.append(
            [
                float(2 * ((found == c) & (index == c)).sum() / ((found == c).sum() + (index == c).sum()).clamp(min=1))
                for c in range(1, logits.shape[1])
            ]
        )
        confidence.append(probability.amax(1).flatten().numpy())
        error.append((found != index).flatten().numpy())
    return {
        "Dice": np.mean(dice, 0).round(4).tolist(),
        "negative log-likelihood": round(float(np.mean(likelihood)), 5),
        "mean confidence": round(float(np.concatenate(confidence).mean()), 4),
        "calibration error": round(calibration_error(np.concatenate(confidence), ~np.concatenate(error)), 5),
    }


def calibration_error(confidence: Any, right: Any) -> float:
    """Return the expected calibration error."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count, hits, sums = (np.bincount(bins, w, BINS) for w in (None, right.astype(float), confidence))
    return float(np.abs(hits - sums).sum() / count.sum())


if __name__ == "__main__":
    main()
