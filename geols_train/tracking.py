"""Tracking: every number of a run as JSON lines, and to TensorBoard if asked, behind one `log(metrics, step)`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from geols_precompute.errors import MissingExtraError
from geols_train.files import write_text

LOG = "log.jsonl"


class Tracker:
    """Writes to a run folder; a context manager.

    Args:
        folder: of the run.
        tensorboard: also write TensorBoard files below it.
        after: keep only the lines up to this step: a resumed run repeats what came after its checkpoint.
        enabled: disabled, it writes nothing.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, after: int = 0, enabled: bool = True) -> None:
        self._file: TextIO | None = None
        self._board: Any = None
        if not enabled:
            return
        path = folder / LOG
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= after]
        write_text(path, "".join(kept))
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard", after)
        self._file = path.open("a")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write numbers under their names, as they are after `step` training steps."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **metrics}, allow_nan=False) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

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
    """Return the lines of a run's log."""
    return [json.loads(line) for line in _whole_lines(folder / LOG)]


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a log; one that a crash cut short is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("}\n")]


def _summary_writer(folder: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard") from error
    return SummaryWriter(str(folder), purge_step=after + 1)
