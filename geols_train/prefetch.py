"""Prefetch: the next batch is copied to an accelerator while it works on this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import torch

from geols_train.batches import StoredBatch


def on_device(batches: Iterable[StoredBatch], device: torch.device) -> Iterator[StoredBatch]:
    """Yield the batches on a device. For CUDA each is copied, on a stream of its own, before the last one is given.

    Batches in pinned memory (a DataLoader with `pin_memory`) are copied without a wait.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = _copy_stream(device)
    ahead: StoredBatch | None = None
    for batch in batches:
        # what lies on the device already was cut there by work that is queued, not done
        copies.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        if ahead is not None:
            yield ahead
        # only now: the work on the batch before is queued, and need not wait for this copy
        ahead = _given_to_stream(moved, copies, torch.cuda.current_stream(device))
    if ahead is not None:
        yield ahead


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device that copies; memory that was freed on a stream serves that stream only."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _given_to_stream(batch: StoredBatch, copies: torch.cuda.Stream, stream: torch.cuda.Stream) -> StoredBatch:
    """Have a stream wait for the copy, and keep the memory until the stream is done with it."""
    stream.wait_stream(copies)
    for tensor in batch.tensors():
        tensor.record_stream(stream)
    return batch
