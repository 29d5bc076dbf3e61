"""What a person should know before a training begins: a window that is mostly padding, days on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from geols_precompute.formatting import duration
from geols_train.checkpoint import NetworkSpec
from geols_train.config import TrainConfig, smallest_size

#: A training that takes longer is announced.
LONG_SECONDS = 24 * 3600.0
#: Operations per second of the slowest CPU there may be: work that even it does in time needs no measurement.
SLOWEST_CPU = 2e9
#: A share of padding that levels bring about and that is worth a note.
LEVELS_SHARE = 1 / 3
#: A network's backward pass takes twice the operations of its forward pass.
PASSES = 3


def padding_note(config: TrainConfig, shapes_ZYX: Sequence[Sequence[int]]) -> str:
    """Return what to say of a crop or window that reaches beyond every volume; empty if none does.

    A crop or window is told to lie in steps of 8 voxels, so up to 7 voxels of padding are nothing to speak of.

    Args:
        config: of the run, with its size.
        shapes_ZYX: of the volumes, in voxels.
    """
    size, flag = config.window or config.crop, config.size_flag
    if size is None:
        return ""
    largest = [max(lengths) for lengths in zip(*shapes_ZYX, strict=True)]
    least = smallest_size(config.features)
    enough = [max(least, 8 * math.ceil(n / 8)) for n in largest]
    if all(n <= most for n, most in zip(size, enough, strict=True)):
        return ""
    better = [min(n, most) for n, most in zip(size, enough, strict=True)]
    share = 1 - math.prod(better) / math.prod(size)
    return (
        f"{flag} {_in_words(size)} is larger than every volume (the largest sizes are {_in_words(largest)}); "
        f"{flag} {_in_words(better)} loses nothing and saves {share:.0%} of the time"
    )


def levels_note(config: TrainConfig, shapes_ZYX: Sequence[Sequence[int]]) -> str:
    """Return what to say where a network has so many levels that most of its crop or window must be padding.

    A level more doubles the least size. What that adds to less than a third of the voxels is nothing to speak of.

    Args:
        config: of the run, with its size.
        shapes_ZYX: of the volumes, in voxels.
    """
    size, flag = config.window or config.crop, config.size_flag
    least, levels = smallest_size(config.features), len(config.features)
    if size is None:
        return ""
    largest = [max(lengths) for lengths in zip(*shapes_ZYX, strict=True)]
    enough = [min(n, 8 * math.ceil(most / 8)) for n, most in zip(size, largest, strict=True)]
    forced = [max(least, n) for n in enough]
    share = math.prod(enough) / math.prod(forced)
    if share > 1 - LEVELS_SHARE:
        return ""
    fewer = config.features[: min(enough).bit_length()]
    return (
        f"{flag} {_in_words(size)} is larger than every volume (the largest sizes are {_in_words(largest)}), as "
        f"{levels} levels (--features) need {least} voxels per axis; fewer --features help: "
        f"{','.join(map(str, fewer))} allows {flag} {_in_words(enough)}, {_share(share)} of the voxels"
    )


def cpu_note(config: TrainConfig, spec: NetworkSpec, training_cases: int) -> str:
    """Return what to say of a training that a CPU will need longer for than a day; empty if it will not.

    Validation is not counted, and small networks are slower than their operations say: it is a lower bound.
    """
    windows = training_cases * config.epochs * config.repeats
    needed = PASSES * windows * operations(spec)
    if needed < LONG_SECONDS * SLOWEST_CPU:
        return ""
    seconds = needed / cpu_speed()
    if seconds < LONG_SECONDS:
        return ""
    flag = config.size_flag
    least = smallest_size(spec.features)
    z, y, x = (max(least, n // 2) for n in spec.window)
    halved = tuple(max(1, n // 2) for n in spec.features)
    smaller, narrower = operations(replace(spec, window=(z, y, x))), operations(replace(spec, features=halved))
    now = operations(spec)
    return (
        f"this network on a CPU will need {duration(seconds)} or more: {flag} {z} {y} {x} takes {smaller / now:.0%} of "
        f"that, --features {','.join(map(str, halved))} {narrower / now:.0%}; fewer --epochs, or a GPU"
    )


def operations(spec: NetworkSpec) -> float:
    """Return how many multiplications and additions the convolutions of a network do on one window."""
    found = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal found
        assert isinstance(module, nn.Conv3d)
        found += 2 * output.numel() * module.weight[0].numel()

    with torch.device("meta"), torch.no_grad():  # shapes only
        network = spec.network()
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.register_forward_hook(count)
        network(torch.empty(1, len(spec.preprocessing.modalities), *spec.window))
    return float(found)


def cpu_speed() -> float:
    """Return how many operations per second this CPU does in a convolution like those of the network, the best of 3."""
    image, weight = (torch.ones(shape, requires_grad=True) for shape in ((1, 16, 48, 48, 48), (16, 16, 3, 3, 3)))
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        functional.conv3d(image, weight, padding=1).sum().backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - started)
    return PASSES * 2 * image.numel() * weight[0].numel() / best


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"


def _in_words(size: Sequence[int]) -> str:
    return " ".join(map(str, size))
