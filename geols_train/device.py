"""The device of a training, its arithmetic and memory, and the processes that train together on several.

Processes that torchrun started train one network: each has a shard of every batch, whose loss is the mean over the
voxels of all of them, so that the steps are those of one process up to rounding. The main process alone speaks and
writes; all of them validate and test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from geols_precompute.cli.command import EXIT_INTERRUPTED, EXIT_WRONG
from geols_precompute.errors import GeolsError, InputError
from geols_precompute.signals import Stopped, leave_at_exit
from geols_train.config import Precision

T = TypeVar("T")
#: A process may wait long for the others: one tests its last large case, the main one draws. torchrun ends the dead.
TIMEOUT = timedelta(hours=12)


class OutOfMemoryError(GeolsError, MemoryError):
    """A step does not fit the memory; the message names the options to lower."""


class LostWorkerError(GeolsError, RuntimeError):
    """A process that loads batches is gone; the message says why, as far as that is known, and names --workers."""


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
        probe = torch.zeros(1, device=name)
        probe.item()  # `meta` is a device without memory
        device = probe.device  # with its number
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise InputError(f"--device {name} is not available here; take auto or cpu") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # threads that pin memory, and NCCL, take the current one
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return the context in which a network runs: in bf16 autocast where `uses_bf16` says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def uses_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether a network of this precision runs in bfloat16 on this device: if asked, or on a GPU that has it.

    A CPU computes in float32 unless it is asked. Many emulate bfloat16, tens of times slower; see `avoid_amx` for those
    that do not.
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def avoid_amx(device: torch.device, precision: Precision) -> None:
    """Keep oneDNN from the AMX instructions of a CPU that is to train in bfloat16, unless the environment names others.

    With AMX, the weight gradients of torch 2.13's oneDNN (its kernel brgconv) are NaN, never come, or crash the process
    for thin volumes, such as windows of 10 × 144 × 144 voxels. With AVX-512 they are right, for every shape. oneDNN
    reads the environment at its first use in a process: call this before.
    """
    if device.type == "cpu" and uses_bf16(device, precision):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


def arithmetic(device: torch.device, precision: Precision) -> str:
    """Return what a network is computed in: bf16, tf32 (float32 whose factors are rounded to 10 bits) or float32."""
    if uses_bf16(device, precision):
        return "bf16"
    return "tf32" if precision == "tf32" and device.type == "cuda" else "float32"


def set_arithmetic(device: torch.device, precision: Precision) -> None:
    """Have a GPU compute float32 as float32 unless tf32 is asked for, and try out its convolutions for each shape.

    torch rounds the factors of float32 convolutions on a GPU unless told otherwise. A run has few shapes, so what
    cuDNN finds fastest for each serves for all of it.
    """
    if device.type == "cuda":
        rounded = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = rounded
        torch.set_float32_matmul_precision("high" if rounded else "highest")
        torch.backends.cudnn.benchmark = True


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
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        ended = (
            isinstance(error, MemoryError | torch.OutOfMemoryError)
            or any(words in text for words in ("out of memory", "alloc_failed", "bad_alloc", "too much memory"))
            or ("alloc" in text and "memory" in text)
        )
        if not ended:
            raise
        raise OutOfMemoryError(f"out of memory: lower {options}") from error


@contextmanager
def explain_lost_workers(workers: int) -> Iterator[None]:
    """Turn what happens to the processes that load batches into an error of one line.

    Raises:
        LostWorkerError: one ended without an answer, or could not hand over a batch.
        GeolsError: one had this error, of the same kind.
    """
    try:
        yield
    except GeolsError as error:
        # with the traceback of the worker in its text, and its own text at the end
        if str(error).startswith("Caught ") and "in DataLoader worker" in str(error):
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error
        raise
    except (RuntimeError, OSError) as error:
        # torch raises two errors: one of the signal, and from that one of the process
        if (reason := _loss_of_worker(f"{error} {error.__cause__ or ''}")) is None:
            raise
        raise LostWorkerError(
            f"{reason}; lower --workers (now {workers}), or give --workers 0, so that this process loads the batches"
        ) from error


def _loss_of_worker(text: str) -> str | None:
    """Return why a process that loads batches is lost, if an error's text is of that."""
    text = text.lower()
    if "too many open files" in text or "ancdata" in text:
        return "the processes that load batches have too many files open (ulimit -n)"
    if ("shm" in text or "shared memory" in text) and ("no space left" in text or "bus error" in text):
        return (
            "a process that loads batches has no room in /dev/shm, where it hands them over: make that larger "
            "(for Docker --shm-size=2g)"
        )
    if "dataloader worker" not in text:
        return None
    if "signal: killed" in text:
        return "a process that loads batches was killed, as happens where memory ends"
    if "exited unexpectedly" in text or "killed by signal" in text:
        return "a process that loads batches ended without an answer; memory or /dev/shm may be full"
    return None


# --- several processes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a training, as one of them sees it.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[T]:
        """Return the items that are this process's to do: every `size`-th, from `rank` on."""
        return list(items[self.rank :: self.size])

    def gather(self, shard: list[T]) -> list[T]:
        """Return what came of all processes' shards, in the order of the items before `shard`, to every process."""
        if self.size == 1:
            return shard
        shards: list[list[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(shards, shard)
        return [shards[i % self.size][i // self.size] for i in range(sum(map(len, shards)))]

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum over processes; its gradient is right once it is averaged over them, as DDP does."""
        if self.size == 1:
            return part
        whole = part.detach().clone()
        distributed.all_reduce(whole)
        mine = part * self.size
        return mine + (whole - mine).detach()

    def mean(self, value: float) -> float:
        """Return the mean over processes."""
        return value if self.size == 1 else self.sum(torch.tensor(value, device=self.device)).item() / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else self.mean(float(flag)) > 0

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass averages the gradients over processes."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def gradients_stay(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which a backward pass leaves the gradients in this process, to be averaged later."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            distributed.barrier()


ONE_PROCESS = World(device=torch.device("cpu"))


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started, if it did; only the main one then writes to the terminal.

    The group is ended in one of two ways. Where all processes come to the end of this context, or are stopped together,
    they end it together. Where one has an error, it must not wait for the others, which may wait for it: it shows the
    error and leaves the process at once, and torchrun ends the others.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield World(device=device)
        return
    on_gpu = device.type == "cuda"
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=TIMEOUT, device_id=device if on_gpu else None)
    world = World(rank=distributed.get_rank(), size=size, device=device)
    try:
        with _silent(not world.is_main):
            yield world
    except Stopped:
        distributed.destroy_process_group()
        raise
    except BaseException as error:
        leave_at_exit(EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_WRONG)
        raise
    distributed.destroy_process_group()


@contextmanager
def _silent(enabled: bool) -> Iterator[None]:
    """Send standard output and error nowhere."""
    with ExitStack() as stack:
        if enabled:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield
