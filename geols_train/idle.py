"""Flags that would change nothing are refused: whoever gives one believes that it does something."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from geols_precompute.errors import RecipeError
from geols_precompute.formatting import listed
from geols_train.config import TrainConfig
from geols_train.device import choose_device
from geols_train.splits import is_drawn
from geols_train.targets import METHODS, Method


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """What reads a setting.

    Attributes:
        reads: whether the run does.
        belongs: to which runs the setting belongs, in words.
        instead: what this run has.
        named: the flag with its value, where only that value is not read.
    """

    reads: Callable[[TrainConfig], bool]
    belongs: str
    instead: Callable[[TrainConfig], str]
    named: str = ""


def _of_method(reads: Callable[[Method], bool], more: str = "") -> _Reader:
    names = (name for name, method in METHODS.items() if reads(method))
    return _Reader(
        reads=lambda config: reads(METHODS[config.method]),
        belongs=f"--method {listed(names)}",
        instead=lambda config: f"--method {config.method}{more}",
    )


_READERS: dict[str, _Reader] = {
    "alpha": _of_method(lambda method: method.uses_alpha),
    "normalize": _of_method(lambda method: method.needs_maps),
    "labels": _of_method(
        lambda method: method.needs_maps,
        ", which reads no maps (--split RUN/split.json takes the cases of another run)",
    ),
    "focal_gamma": _of_method(lambda method: method.is_focal),
    "flip_axes": _Reader(
        reads=lambda config: config.augment == "flips",
        belongs="--augment flips",
        instead=lambda config: (
            f"--augment {config.augment}"
            + (", which flips and transposes all axes" if config.augment == "paper" else "")
        ),
    ),
    "split_seed": _Reader(
        reads=lambda config: is_drawn(config.split),
        belongs="a split that is drawn",
        instead=lambda config: f"--split {config.split}, a file",
    ),
    "workers": _Reader(
        reads=lambda config: config.cache != "device" or not config.workers,
        belongs="--cache none and ram",
        instead=lambda config: "--cache device, which this process reads",
    ),
    "precision": _Reader(
        # a device is looked for only where its kind matters
        reads=lambda config: config.precision != "tf32" or choose_device(config.device).type == "cuda",
        belongs="CUDA GPUs",
        instead=lambda config: f"the device {choose_device(config.device)}, which computes in float32",
        named="--precision tf32",
    ),
}


def refuse_idle(given: Collection[str], config: TrainConfig) -> None:
    """Refuse flags that nothing in a run reads.

    Args:
        given: the settings that stand on the command line; a file may hold all of them.
        config: of the run.

    Raises:
        InputError: there is no such device, where it decides what is read.
        RecipeError: naming the first such flag, and what it belongs to.
    """
    for name, reader in _READERS.items():
        if name in given and not reader.reads(config):
            flag = reader.named or f"--{name.replace('_', '-')}"
            raise RecipeError(f"{flag} belongs to {reader.belongs}; here is {reader.instead(config)}: leave it out")
