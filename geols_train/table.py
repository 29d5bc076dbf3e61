"""The table of test results that the commands print, a structure per line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METRICS = ("dice", "surface_dice", "hd95_mm")


def results_table(structures: Mapping[str, Mapping[str, Any]], mean_dice: Any, tolerance_mm: float) -> list[str]:
    """Return the lines of a table for a terminal.

    Args:
        structures: name to the means of its metrics: a number, {mean, std} over repeats, or None if not defined.
        mean_dice: of the foreground classes together, the same way.
        tolerance_mm: of surface Dice.
    """
    rows: list[tuple[str, ...]] = [("", "Dice", f"surface Dice {tolerance_mm:g} mm", "HD95 mm")]
    for name, found in structures.items():
        rows.append((name, *(_number(found[key]) for key in _METRICS)))
    rows.append(("mean foreground", _number(mean_dice), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['mean']:.4f} ± {value['std']:.4f}"
    return "-" if value is None else f"{value:.4f}"
