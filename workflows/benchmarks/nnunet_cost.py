"""What GeoLS changes in nnU-Net's training: its losses at α = 0, and the time of an iteration at α = 0.1.

    nnUNet_n_proc_DA=0 python workflows/benchmarks/nnunet_cost.py DATASET CONFIGURATION PLANS [--iterations 20]

First nnU-Net's trainer and nnUNetTrainerGeoLS_a0 train from one seed; how far their losses differ is printed.
Then the CPU time of what GeoLS adds to, the least of several: loading a batch, and its loss with the gradient;
and that of whole iterations of either in turn. Augmentation runs in this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from nnunet_dice import seed_all
from nnunetv2.run.run_training import get_trainer_from_args

from geols_train.nnunet import trainer_named

REPEATS = 7


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "configuration", "plans"):
        parser.add_argument(name)
    parser.add_argument("--iterations", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    stock, at_zero = (losses(given, alpha) for alpha in (None, "0"))
    largest = max(abs(a - b) for a, b in zip(stock, at_zero, strict=True))
    print(f"alpha 0 against nnU-Net, {given.iterations} iterations: largest difference of the losses {largest}")
    nnunet, geols = (started(given, alpha) for alpha in (None, "0p1"))
    seed_all(3)
    batch = next(geols.dataloader_train)
    geols.loss.cases = [str(case) for case in batch["keys"]]
    *labels, maps = batch["target"]
    logits = [
        torch.randn((len(maps), geols.label_manager.num_segmentation_heads, *label.shape[2:]), requires_grad=True)
        for label in labels
    ]
    loading = [least(partial(next, trainer.dataloader_train), REPEATS) for trainer in (nnunet, geols)]
    loss = [
        least(lambda: geols.loss.stock(logits, labels).backward(), REPEATS),
        least(lambda: geols.loss(logits, batch["target"]).backward(), REPEATS),
    ]
    print(f"loading a batch: nnU-Net {loading[0]:.3f} s, GeoLS {loading[1]:.3f} s")
    print(f"loss and gradient: nnU-Net {loss[0]:.3f} s, GeoLS {loss[1]:.3f} s")
    # one iteration of each in turn, so that a busy machine slows both
    pairs = [[seconds(iteration, trainer) for trainer in (nnunet, geols)] for _ in range(given.iterations)]
    ratio = statistics.median(ours / stock for stock, ours in pairs)
    medians = [statistics.median(of_one) for of_one in zip(*pairs, strict=True)]
    print(f"{given.iterations} iterations of each in turn: nnU-Net {medians[0]:.2f} s, GeoLS {medians[1]:.2f} s")
    print(f"median of the ratios {ratio:.3f}")


def started(given: argparse.Namespace, alpha: str | None) -> Any:
    """Return a trainer whose loaders and loss are ready: nnU-Net's (None), or ours with this α in its name."""
    seed_all(0)
    trainer = get_trainer_from_args(
        given.dataset, given.configuration, 0, "nnUNetTrainer", given.plans, device=torch.device("cpu")
    )
    if alpha is not None:
        plans = {**trainer.plans_manager.plans, "continue_training": False}
        seed_all(0)
        trainer = trainer_named(f"nnUNetTrainerGeoLS_a{alpha}")(**{**trainer.my_init_kwargs, "plans": plans})
    trainer.print_plans = trainer.plot_network_architecture = lambda: None
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def losses(given: argparse.Namespace, alpha: str | None) -> list[float]:
    """Return the losses of the first iterations."""
    trainer = started(given, alpha)
    seed_all(1)
    return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(given.iterations)]


def iteration(trainer: Any) -> None:
    """Load a batch and train on it."""
    trainer.train_step(next(trainer.dataloader_train))


def least(action: Callable[[], Any], repeats: int) -> float:
    """Return the smallest CPU time of several runs, in seconds, each with the same random numbers."""
    return min(seconds(action) for _ in range(repeats))


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """Return the CPU time of a run."""
    seed_all(2)
    start = time.process_time()
    action(*arguments)
    return time.process_time() - start


if __name__ == "__main__":
    main()
