"""Distributed: several processes that torchrun started train one network together; a process alone is a world of one.

Every batch is dealt to the processes. Its loss is the mean over the voxels of all of them, so that the steps are those
of one process up to rounding. The first process alone speaks and writes; all of them validate and test.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from geols_precompute.cli.options import EXIT_INTERRUPTED, EXIT_WRONG
from geols_train.interrupt import Stopped

T = TypeVar("T")
#: A process may wait long for the others: one tests its last large case, the first draws. torchrun ends the dead.
PATIENCE = timedelta(hours=12)


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
    def leads(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    def deal(self, items: Sequence[T]) -> list[T]:
        """Return the items that are this process's to do."""
        return list(items[self.rank :: self.size])

    def collect(self, dealt: list[T]) -> list[T]:
        """Return what came of all dealt items, in their order before they were dealt, to every process."""
        if self.alone:
            return dealt
        hands: list[list[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(hands, dealt)
        return [hands[i % self.size][i // self.size] for i in range(sum(map(len, hands)))]

    def total(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum over processes; its gradient is right once it is averaged over them, as DDP does."""
        if self.alone:
            return part
        whole = part.detach().clone()
        distributed.all_reduce(whole)
        mine = part * self.size
        return mine + (whole - mine).detach()

    def mean(self, value: float) -> float:
        """Return the mean over processes."""
        return value if self.alone else self.total(torch.tensor(value, device=self.device)).item() / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return flag if self.alone else self.mean(float(flag)) > 0

    def shared(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass averages the gradients over processes."""
        return network if self.alone else DistributedDataParallel(network)

    def wait(self) -> None:
        """Wait until every process is here."""
        if not self.alone:
            distributed.barrier()


ALONE = World(device=torch.device("cpu"))


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun started, if it did; only the first then writes to the terminal.

    An error that leaves this context is shown by every process that has it, which then ends without the others.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield World(device=device)
        return
    on_gpu = device.type == "cuda"
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=device if on_gpu else None
    )  # fmt: skip
    try:
        world = World(rank=distributed.get_rank(), size=size, device=device)
        with ExitStack() as stack:
            if not world.leads:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield world
    except Stopped:  # all of them
        distributed.destroy_process_group()
        raise
    except BaseException as error:
        # NCCL ends a group once all are there, and the others may wait for this one: after the message, leave at once
        atexit.register(os._exit, EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_WRONG)
        raise
    distributed.destroy_process_group()
