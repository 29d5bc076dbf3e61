"""Profile: where the time of training steps goes."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class Profile:
    """Books the time between laps under names. Disabled, it does nothing, and does not wait for the device either.

    Attributes:
        enabled: whether it measures.
        steps: how many steps the laps belong to.
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
        """Book the time since the last lap, or since `start`, under `name`."""
        if self.enabled:
            now = self._now()
            self._seconds[name] += now - self._last
            self._last = now

    def share(self, name: str) -> float:
        """Return the share of the steps' time that was booked under a name."""
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
