"""Log: every number of a run as JSON lines, and to TensorBoard if asked; and where the time of its batches goes."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch

from geols_precompute.atomic import refuse_link, replace_file
from geols_precompute.errors import InputError, MissingExtraError
from geols_precompute.formatting import duration
from geols_train.folder import LOG, writing_run


class RunLog:
    """Writes to a run folder; a context manager.

    Args:
        folder: of the run.
        tensorboard: also write TensorBoard files below it.
        after: keep only the lines up to this batch: a resumed run repeats what came after its checkpoint.
        enabled: disabled, it writes nothing.

    Raises:
        InputError: the log that is there is damaged.
        MissingExtraError: TensorBoard is asked for and not installed.
        OutputError: nothing can be written.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, after: int = 0, enabled: bool = True) -> None:
        self._file: BinaryIO | None = None
        self._board: Any = None
        if not enabled:
            return
        self._folder, path = folder, folder / LOG
        kept = [
            line for line, entry in zip(_whole_lines(path), read_log(folder), strict=True) if entry["step"] <= after
        ]
        if tensorboard:
            refuse_link(folder / "tensorboard")
            self._board = _summary_writer(folder / "tensorboard", after)
        with writing_run(folder):
            replace_file(path, "".join(kept).encode())
            self._file = path.open("ab", buffering=0)  # what a full disk does not take must not wait for the end

    def write(self, metrics: Mapping[str, float], batch: int) -> None:
        """Write numbers under their names, as they are after `batch` batches; the file calls that number "step"."""
        if self._file is not None:
            line = json.dumps({"step": batch, **metrics}, allow_nan=False).encode() + b"\n"
            with writing_run(self._folder):
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / LOG))
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log.

    Raises:
        InputError: a line is not one of a log, or the file cannot be read.
    """
    return [_entry(line, number, folder / LOG) for number, line in enumerate(_whole_lines(folder / LOG), start=1)]


def _entry(line: str, number: int, path: Path) -> dict[str, float]:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and all(map(_is_number, entry.values())):
            return entry
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{path}: line {number} is damaged; restore the file, or move it away and go on without")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a log; one that a crash cut short is left out."""
    if not os.path.lexists(path):
        return []
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise InputError(f"{path}: not a file; move it away")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); restore it, or move it away and go on without") from error
    return [line for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def _summary_writer(folder: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard") from error
    return SummaryWriter(str(folder), purge_step=after + 1)


class RunClock:
    """How long a whole run will go on: every batch that is left takes as long as one took so far, validation included.

    Args:
        done: batches that were done before the clock began, in an earlier part of a resumed run.
        total: batches of the run, those of its later trainings too.
    """

    def __init__(self, *, done: int, total: int) -> None:
        self._before, self._total, self._started = done, total, time.monotonic()

    def left(self, done: int) -> str:
        """Return the time left after `done` batches, in words; empty at the end, and where nothing is known yet."""
        now = done - self._before
        if now < 1 or done >= self._total:
            return ""
        return f"{duration((time.monotonic() - self._started) / now * (self._total - done))} left"


class StepTimer:
    """Adds up the time between laps under names. Disabled, it does nothing, and does not wait for the device either.

    Attributes:
        enabled: whether it measures.
        steps: how many steps the laps belong to; a step is one batch through the network and back.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.enabled = enabled
        self.steps = 0
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin a lap."""
        if self.enabled:
            self._last = self._now()

    def lap(self, name: str) -> None:
        """Add the time since the last lap, or since `start`, under `name`."""
        if self.enabled:
            now = self._now()
            self._seconds[name] += now - self._last
            self._last = now

    def share(self, name: str) -> float:
        """Return the share of the steps' time that was spent under a name."""
        return self._seconds[name] / max(sum(self._seconds.values()), 1e-9)

    def table(self) -> str:
        """Return milliseconds per step and shares, in the order of the laps."""
        total, steps = sum(self._seconds.values()), max(1, self.steps)
        rows = [*self._seconds.items(), ("step", total)]
        return "\n".join(f"{name:<10}{1e3 * s / steps:9.2f} ms {s / max(total, 1e-9):7.1%}" for name, s in rows)

    def _now(self) -> float:
        # What a GPU was asked for is not yet done. The copy of the next batch, on another stream, is not waited for.
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return time.perf_counter()
