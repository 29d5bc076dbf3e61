"""Tables: methods, seed strategies and other choices side by side, and which differences are beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from page import Cell, Emphasis, Table
from results import HD95, Measured, Metric
from significance import LEVEL, Estimate, difference, estimate, holm, mean_of, spread_of

#: A row: what is varied, as it is called in the table, and what was measured.
Row = tuple[str, Measured]


def metrics_table(name: str, caption: str, rows: Sequence[Row], metrics: Sequence[Metric], structures: bool) -> Table:
    """Return a table of means ± standard deviation over repeats, with intervals; the best two are marked.

    Args:
        name: of its CSV file.
        caption: what it shows.
        rows: what is compared.
        metrics: a column each, or a column for each structure and one for their mean.
        structures: whether there are columns for each structure.
    """
    parts = [*rows[0][1].structures, None] if structures else [None]
    columns = [(metric, part) for metric in metrics for part in ([None] if metric.of_case else parts)]
    header = ["", *(_column_name(metric, part, structures) for metric, part in columns)]
    cells = [[Cell(text=label), *(_mean_cell(found, m, part) for m, part in columns)] for label, found in rows]
    for column, (metric, part) in enumerate(columns, start=1):
        columns_values = [_values(found, metric, part) for _, found in rows]
        if any(np.isnan(values).any() for values in columns_values):
            continue  # means over different cases have no order
        for row, emphasis in _ranks([mean_of(values) for values in columns_values], metric).items():
            cells[row][column] = replace(cells[row][column], emphasis=emphasis)
    return Table(name=name, caption=caption, header=header, rows=cells)


def differences_table(name: str, caption: str, rows: Sequence[Row], reference: Row, metrics: Sequence[Metric]) -> Table:
    """Return each row's difference from a reference, in the mean over structures, and whether it is beyond chance.

    Compared are the repeats that both have. The family of Holm's correction is the table: every row and metric. A
    difference counts as one if p, corrected, is below 0.05; its own interval then leaves out 0.
    """
    others = [row for row in rows if row[0] != reference[0]]
    keys = [(label, metric) for label, _ in others for metric in metrics]
    found = [_difference(m, reference[1], metric) for _, m in others for metric in metrics]
    corrected = holm([d.p for d in found])
    header = [f"less {reference[0]}", "metric", f"difference [{LEVEL:.0%} interval]", "p", "p, Holm", "reads as"]
    cells = [
        [
            Cell(text=label), Cell(text=f"{metric.name} ({metric.unit})"), _difference_cell(d, metric),
            Cell(text=_p(d.p), numbers=(("", d.p),)), Cell(text=_p(p), numbers=(("", p),)),
            Cell(text=verdict(d, p, metric)),
        ]
        for (label, metric), d, p in zip(keys, found, corrected, strict=True)
    ]  # fmt: skip
    return Table(name=name, caption=caption, header=header, rows=cells)


def verdict(found: Estimate, corrected: float, metric: Metric) -> str:
    """Say what a difference is: better, worse, or within noise."""
    if np.isnan(found.mean):
        return "not defined"
    if corrected >= 0.05:
        return "within noise"
    return "better" if (found.mean > 0) == metric.more_is_better else "worse"


def undefined_note(rows: Sequence[Row]) -> str:
    """Say how often HD95 was not defined, as one of the two masks was empty; such a case is then left out."""
    counts = {label: int(np.isnan(found.values[HD95.column]).sum()) for label, found in rows}
    lacking = [f"{label} {count}" for label, count in counts.items() if count]
    return f"HD95 is not defined, and left out, in: {', '.join(lacking)}." if lacking else "HD95 is defined everywhere."


def _difference(one: Measured, other: Measured, metric: Metric) -> Estimate:
    shared = set(one.repeats) & set(other.repeats)
    return difference(one.only(shared).units(metric), other.only(shared).units(metric))


def _column_name(metric: Metric, structure: str | None, structures: bool) -> str:
    part = structure or ("mean" if structures and not metric.of_case else "")
    return " ".join([metric.name, *([part] if part else []), f"({metric.unit})"])


def _values(found: Measured, metric: Metric, structure: str | None) -> NDArray[np.float64]:
    return found.units(metric, found.structures[0] if metric.of_case else structure)


def _mean_cell(found: Measured, metric: Metric, structure: str | None) -> Cell:
    values_RC = _values(found, metric, structure)
    mean, spread, at = mean_of(values_RC), spread_of(values_RC), estimate(values_RC)
    n = metric.digits
    deviation = "" if spread is None else f" ± {spread:.{n}f}"
    numbers = (("mean", mean), ("std", "" if spread is None else spread), ("low", at.low), ("high", at.high))
    return Cell(text=f"{mean:.{n}f}{deviation} [{at.low:.{n}f}, {at.high:.{n}f}]", numbers=numbers)


def _difference_cell(found: Estimate, metric: Metric) -> Cell:
    n = metric.digits
    numbers = (("mean", found.mean), ("low", found.low), ("high", found.high))
    return Cell(text=f"{found.mean:+.{n}f} [{found.low:+.{n}f}, {found.high:+.{n}f}]", numbers=numbers)


def _ranks(means: Sequence[float], metric: Metric) -> dict[int, Emphasis]:
    """Return which rows are best and second, as they are printed; equal ones share a mark.

    A single row has no mark.
    """
    if len(means) < 2:
        return {}
    printed = [round(mean, metric.digits) for mean in means]
    best, *others = sorted(set(printed), reverse=metric.more_is_better)
    marks: dict[float, Emphasis] = {best: "best", **({others[0]: "second"} if others else {})}
    return {row: marks[mean] for row, mean in enumerate(printed) if mean in marks}


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
