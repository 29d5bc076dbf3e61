"""The report as one HTML file that asks nothing of a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from geols_precompute.arrays import Int64Array
from geols_precompute.atomic import readers_of, refuse_foreign, replace_file, writing_to
from geols_precompute.errors import InputError
from geols_precompute.progress import OnCase
from geols_precompute.report.cases import ReadVolumes, ReportCase, read_case
from geols_precompute.report.flags import Flag, Oddness, find_flags, rank
from geols_precompute.report.quality import LEVELS, CaseQuality, measure
from geols_precompute.report.slices import case_slices
from geols_precompute.report.words import name_of, recipe_in_words
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import refuse_store

#: Of the file, and what slices that can be left out may fill of it.
MOST_BYTES, SLICE_BYTES = 30_000_000, 24_000_000
MOST_CASES = 30
#: Rows of the table of cases, the oddest, and cases named with a flag; a store may have tens of thousands.
MOST_RANKED = 1000
MOST_NAMED = 8
SCRIPTS = ("mix.js", "pictures.js", "tables.js", "page.js")
_BINS = 32
#: What the head of every report has.
TITLE, _HEAD_BYTES = b"<title>Soft labels of ", 4096


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What was written.

    Attributes:
        cases: how many were looked at.
        shown: how many are shown.
        flags: what is worth a look.
    """

    cases: int
    shown: int
    flags: tuple[Flag, ...]


def write_report(
    path: Path,
    labels: LabelStore,
    read_volumes: ReadVolumes,
    *,
    shown: Sequence[str] = (),
    alpha: float = 0.1,
    name: str | None = None,
    sources: Iterable[Path] = (),
    on_case: OnCase = lambda case, error: None,
) -> ReportResult:
    """Measure every case of a label store and write the page.

    Args:
        path: of the HTML file, which is written whole or not at all.
        labels: the store.
        read_volumes: gives image and label of a case; see `cases.volumes_of`.
        shown: the cases to be looked at; none is the oddest 30.
        alpha: where the slider begins.
        name: of the data set; None takes that of the store's folder.
        sources: nobody reads the file who cannot read all of these; see `cases.files_of`.
        on_case: called after every case.

    Raises:
        InputError: the store has no case, or not one of `shown`.
        StoreError: a case is damaged, or its maps were made from other data.
        OutputError: the file cannot be written, would lie in a store, or would replace one that is no report.
    """
    refuse_store(path.absolute().parent)
    refuse_foreign(path, is_report)
    if not labels.cases:
        raise InputError(f"{labels.path}: has no case to report on")
    for case in shown:
        labels.metadata(case)
    with writing_to(path.parent, "-o"):
        path.parent.mkdir(parents=True, exist_ok=True)
    found: list[CaseQuality] = []
    histograms = np.zeros((len(labels.channels), LEVELS), np.int64)
    for case in labels.cases:
        quality = measure(read_case(labels, read_volumes, case), len(labels.classes))
        # by far the largest part of it, and only the sum is shown
        histograms += quality.histograms
        found.append(replace(quality, histograms=histograms[:0]))
        on_case(case, "")
    flags = find_flags(found, labels.classes, labels.recipe)
    oddness = rank(found, labels.classes, flags)
    chosen = list(shown) or list(oddness)[:MOST_CASES]
    asked = set(shown)
    listed = {case: odd for n, (case, odd) in enumerate(oddness.items()) if n < MOST_RANKED or case in asked}
    document = _numbers_document(labels, alpha, found, flags, listed, histograms)
    free = MOST_BYTES - len(_script_json(document)) - 200_000
    document["cases"] = _fitting((read_case(labels, read_volumes, case) for case in chosen), free, len(chosen))
    there = {case["id"] for case in document["cases"]}
    document["left_out"] = _named([case for case in chosen if case not in there])
    with writing_to(path.parent, "-o"):
        replace_file(path, _html(document, name or name_of(labels.path)).encode(), readers_of(sources, path.parent))
    return ReportResult(cases=len(found), shown=len(document["cases"]), flags=tuple(flags))


def is_report(path: Path) -> bool:
    """Whether a file is a report."""
    try:
        with path.open("rb") as file:
            return TITLE in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _numbers_document(
    labels: LabelStore,
    alpha: float,
    found: Sequence[CaseQuality],
    flags: Sequence[Flag],
    oddness: Mapping[str, Oddness],
    histograms: Int64Array,
) -> dict[str, Any]:
    """Return the JSON document of the page without the slices of its cases."""
    by_id = {quality.id: quality for quality in found}
    return {
        "store": {"digest": labels.digest, "recipe": labels.manifest.recipe_id},
        "words": recipe_in_words(labels.recipe),
        "alpha": alpha,
        "classes": list(labels.classes.names),
        "values": list(labels.classes.values),
        "channels": list(labels.channels),
        "modalities": list(labels.preprocessing.modalities),
        "cases_in_all": len(found),
        "flags": [
            {"kind": flag.kind, "text": flag.text, "count": len(flag.cases), "cases": _named(flag.cases)}
            for flag in flags
        ],
        "dataset": _dataset(found, histograms),
        "ranking": [
            {
                "id": case,
                "reason": odd.reason,
                "other_largest": _number(by_id[case].foreground(by_id[case].other_largest)),
                "leaving": _number(by_id[case].foreground(by_id[case].leaving)),
                "leaving_unnormalised": _number(by_id[case].foreground(by_id[case].leaving_unnormalised)),
            }
            for case, odd in oddness.items()
        ],
    }


def _fitting(cases: Iterable[ReportCase], free: int, count: int) -> list[dict[str, Any]]:
    """Return the slices of `count` cases, as far as they fit into `free` bytes, the first of them first."""
    found = []
    for case in cases:
        for most in (SLICE_BYTES // count, 0):
            document = case_slices(case, most)
            size = len(_script_json(document))
            if size <= free:
                free -= size
                found.append(document)
                break
    return found


def _named(cases: Sequence[str]) -> list[str]:
    """Return some cases, and how many more there are."""
    more = [f"and {len(cases) - MOST_NAMED} more"] if len(cases) > MOST_NAMED else []
    return [*cases[:MOST_NAMED], *more]


def _dataset(found: Sequence[CaseQuality], histograms: Int64Array) -> list[dict[str, Any]]:
    """Return the numbers of every class over all cases: medians of the cases that have it, and histograms.

    Args:
        found: of every case.
        histograms: of the stored values of each channel over all cases [k,256].
    """
    result: list[dict[str, Any]] = []
    for index in range(len(found[0].voxels)):
        having = [c for c in found if c.voxels[index]]
        result.append(
            {
                "cases": len(having),
                "voxels": _spread([float(c.voxels[index]) for c in having]),
                "seeds": _spread([float(c.seeds[index]) for c in having]),
                "fallbacks": int(sum(c.fallbacks[index] for c in having)),
                "other_largest": _spread([float(c.other_largest[index]) for c in having]),
                "leaving": _spread([float(c.leaving[index]) for c in having]),
                "leaving_unnormalised": _spread([float(c.leaving_unnormalised[index]) for c in having]),
            }
        )
    for channel, counts in enumerate(histograms.reshape(len(histograms), _BINS, -1).sum(axis=2)):
        # channels without the background begin at class 1
        result[channel + len(result) - len(histograms)]["histogram"] = (counts / counts.sum()).round(6).tolist()
    return result


def _spread(values: Sequence[float]) -> list[float] | None:
    """Return the least, the median and the largest."""
    return [_number(float(function(values))) or 0.0 for function in (np.min, np.median, np.max)] if values else None


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _script_json(document: dict[str, Any]) -> str:
    """Return a document as it stands in a script, which nothing in it, such as the name of a class, can end."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _html(document: dict[str, Any], name: str) -> str:
    here = files("geols_precompute.report")
    template = (here / "page.html").read_text(encoding="utf-8")
    parts = {
        "DATA": _script_json(document),
        "STYLE": (here / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "NAME": html.escape(name),
        "WORDS": html.escape(document["words"]),
    }
    return re.sub("@(DATA|STYLE|SCRIPT|NAME|WORDS)@", lambda match: parts[match[1]], template)
