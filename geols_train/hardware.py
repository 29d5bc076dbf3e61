"""Hardware: which device a run uses, whether it has bfloat16, and what to do when its memory ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from geols_precompute.errors import GeolsError, InputError

Precision = Literal["auto", "bf16", "float32"]


class OutOfMemoryError(GeolsError, MemoryError):
    """A step does not fit the memory; the message names the options to lower."""


def choose_device(name: str) -> torch.device:
    """Return the device of that name; auto is the first accelerator, else the CPU.

    Of several processes that torchrun starts on a machine, each gets a GPU of its own under auto and cuda.

    Raises:
        InputError: there is no such device, or several processes would share it.
    """
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise InputError(f"--device {name} is one GPU for several processes; give --device cuda, which is one each")
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        name = "cuda"
    if name == "cuda" and (local_rank := os.environ.get("LOCAL_RANK")):
        name = f"cuda:{local_rank}"
    try:
        device = torch.empty(1, device=name).device  # with its number
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(f"--device {name} is not available here; take auto or cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # threads that pin memory, and NCCL, take the current one
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a network runs: bf16 autocast where asked for, or where the hardware has it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def uses_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether a network of this precision runs in bfloat16 on this device."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is emulated and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


def default_workers(device: torch.device) -> int:
    """Return how many processes load batches: none for a CPU, which has enough to do, 4 for an accelerator."""
    return 0 if device.type == "cpu" else 4


@contextmanager
def explain_out_of_memory(options: str) -> Iterator[None]:
    """Turn every kind of out of memory into an error that says which `options` to lower.

    Raises:
        OutOfMemoryError: memory ended inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        ended = (
            isinstance(error, MemoryError | torch.OutOfMemoryError)
            or "out of memory" in text
            or "alloc_failed" in text
            or ("alloc" in text and "memory" in text)
        )
        if not ended:
            raise
        raise OutOfMemoryError(f"out of memory: lower {options}") from error
