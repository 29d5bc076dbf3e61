"""The report of an agreement: a page with numbers and pictures, and two CSV files."""

from __future__ import annotations

import base64
import csv
import html
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from geols_precompute.agreement.anatomies import Anatomy
from geols_precompute.agreement.cases import RatedCase
from geols_precompute.agreement.patients import halves
from geols_precompute.agreement.scores import Interval, levels_of
from geols_precompute.agreement.study import SCORES, Agreement, Row, measure
from geols_precompute.arrays import BoolArray, Float64Array, UInt8Array
from geols_precompute.atomic import readers_of, refuse_foreign, replace_file, writing_to
from geols_precompute.progress import OnCase
from geols_precompute.store.writer import refuse_store

PAGE, TABLE, CASES = "agreement.html", "agreement.csv", "agreement-cases.csv"
TITLE = "GeoLS: soft labels and other raters"
#: Cases with pictures, those with the most disagreement first; and soft labels shown of each.
MOST_PICTURES, MOST_METHODS = 12, 8
#: Voxels shown around the class.
MARGIN = 8
#: Pixels that the longer side of a picture has at least.
PICTURE = 260
_COLOURS = ((255, 80, 80), (80, 200, 255), (255, 210, 60), (120, 255, 120), (230, 130, 255), (255, 255, 255))
_DIGITS = {"auc_band": 3, "auc_inner": 3, "auc_outer": 3}


@dataclass(frozen=True, kw_only=True)
class AgreementReport:
    """What was measured of each anatomy, and lines for a terminal."""

    found: Mapping[str, Agreement]
    lines: tuple[str, ...]


def write_agreement(
    out: Path,
    anatomies: Sequence[Anatomy],
    *,
    seed: int,
    against: str,
    band: float,
    sources: Iterable[Path] = (),
    on_case: OnCase = lambda case, error: None,
) -> AgreementReport:
    """Measure, and write the page and the tables into a folder.

    Args:
        out: the folder.
        anatomies: what is compared.
        seed: of the split by patient.
        against: the method that the others are compared with.
        band: how far from the border voxels count, in mm.
        sources: nobody reads the files who cannot read all of these; see `report.cases.files_of`.
        on_case: called after every reading of a case.

    Raises:
        InputError, StoreError: a case cannot be read.
        OutputError: the files cannot be written, or would replace what is no such report.
    """
    refuse_store(out.absolute())
    for name in (PAGE, TABLE, CASES):
        refuse_foreign(out / name, _is_ours)
    found = {
        anatomy.name: measure(
            anatomy.cases,
            anatomy.read,
            anatomy.methods,
            anatomy.class_names,
            patients=anatomy.patients,
            half_of=halves(anatomy.patients, seed),
            reference=against,
            band_mm=band,
            on_case=on_case,
        )
        for anatomy in anatomies
    }
    with writing_to(out, "-o"):
        out.mkdir(parents=True, exist_ok=True)
        readers = readers_of(sources, out)
        replace_file(out / TABLE, _csv(_TABLE_HEADER, _table_rows(found, against)), readers)
        replace_file(out / CASES, _csv(_CASES_HEADER, _case_rows(found, anatomies)), readers)
        page = _page(found, anatomies, seed=seed, against=against, band=band)
        replace_file(out / PAGE, page.encode(), readers)
    return AgreementReport(found=found, lines=tuple(_lines(found, against)))


_TABLE_HEADER = (
    *("anatomy", "class", "method", "score", "better", "patients", "mean", "low", "high"),
    *("against", "difference", "difference_low", "difference_high"),
)
_CASES_HEADER = ("anatomy", "class", "method", "case", "patient", *SCORES)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(2000).decode("utf-8", "replace")
    return TITLE in head or head.startswith((",".join(_TABLE_HEADER), ",".join(_CASES_HEADER)))


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _table_rows(found: Mapping[str, Agreement], against: str) -> Iterator[Sequence[object]]:
    for anatomy, agreement in found.items():
        for row in agreement.rows:
            better = "higher" if SCORES[row.score] else "lower"
            difference = ("", "", "", "") if row.difference is None else (against, *_numbers(row.difference))
            numbers = (*_numbers(row.value), *difference)
            yield anatomy, row.class_name, row.method, row.score, better, row.patients, *numbers


def _numbers(interval: Interval) -> tuple[str, str, str]:
    return f"{interval.mean:.6g}", f"{interval.low:.6g}", f"{interval.high:.6g}"


def _case_rows(found: Mapping[str, Agreement], anatomies: Sequence[Anatomy]) -> Iterator[Sequence[object]]:
    for anatomy in anatomies:
        for (method, name), scores in found[anatomy.name].per_case.items():
            for case in sorted({case for by_case in scores.values() for case in by_case}):
                values = [scores.get(score, {}).get(case, float("nan")) for score in SCORES]
                shown = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
                yield anatomy.name, name, method, case, anatomy.patients[case], *shown


def _lines(found: Mapping[str, Agreement], against: str) -> Iterator[str]:
    for anatomy, agreement in found.items():
        for name, counts in agreement.cases.items():
            yield f"{anatomy}, {name}: {counts['fit']} cases calibrate, {counts['test']} test"
            by_method: dict[str, dict[str, Row]] = {}
            for row in agreement.rows:
                if row.class_name == name:
                    by_method.setdefault(row.method, {})[row.score] = row
            for method, rows in by_method.items():
                aucs = " ".join(
                    f"{rows[s].value.mean:.3f}" for s in ("auc_band", "auc_inner", "auc_outer") if s in rows
                )
                line = f"  {method:<18} AUC {aucs}"
                if brier := rows.get("brier"):
                    line += f"  Brier {brier.value.mean:.4f}"
                    if brier.difference is not None:
                        d = brier.difference
                        line += f", {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}] against {against}"
                yield line
        if agreement.skipped:
            listed = "; ".join(f"{case}: {reason}" for case, reason in [*agreement.skipped.items()][:5])
            yield f"{anatomy}: {len(agreement.skipped)} cases have no score ({listed})"


def _page(found: Mapping[str, Agreement], anatomies: Sequence[Anatomy], *, seed: int, against: str, band: float) -> str:
    style = (files("geols_precompute.report") / "page.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{TITLE}</h1>",
        f"<p>Every label is that of one rater, made soft; the target is the mean of the other raters, within {band:g} "
        f"mm of the label's border. Half of the patients (seed {seed}) calibrate, the tables are of the other half. "
        f"Intervals are bootstraps over patients, of 95 %; differences are to {html.escape(against)}, by patient. "
        "AUC: does the softening rank first where another rater disagrees, in the band and in the shell of voxels "
        "inside and outside the border. GED: squared generalised energy distance between level sets of the soft label "
        "and raters. Brier, log loss, ECE and GED are of calibrated probabilities; <i>uncalibrated</i> takes the soft "
        "label at its word.</p>",
    ]
    for anatomy in anatomies:
        agreement = found[anatomy.name]
        body.append(f"<h2>{html.escape(anatomy.name)}</h2>")
        for name in agreement.cases:
            body += [*_tables(agreement, name, against), *_pictures(anatomy, agreement, name)]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{style}'
        ".strip{display:flex;flex-wrap:wrap;gap:.5rem} .strip img{image-rendering:pixelated}</style></head>"
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _tables(agreement: Agreement, name: str, against: str) -> Iterator[str]:
    counts = agreement.cases[name]
    rows = {(row.method, row.score): row for row in agreement.rows if row.class_name == name}
    methods = list(dict.fromkeys(method for method, _ in rows))
    yield f"<h3>{html.escape(name)}</h3><p>{counts['fit']} cases calibrate, {counts['test']} test.</p>"
    head = "".join(f"<th>{score.replace('_', ' ')}</th>" for score in SCORES)
    yield f'<div class="scroll"><table><tr><th>soft label</th>{head}</tr>'
    for method in methods:
        cells = "".join(_cell(rows.get((method, score))) for score in SCORES)
        yield f"<tr><td>{html.escape(method)}</td>{cells}</tr>"
    yield "</table></div>"


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>-</td>"
    digits = _DIGITS.get(row.score, 4)
    text = f"{row.value.mean:.{digits}f}"
    if (d := row.difference) is not None:
        better = d.decides and (d.mean > 0) == SCORES[row.score]
        mark = " ▲" if better else " ▼" if d.decides else ""
        text += f"<br><small>{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]{mark}</small>"
    return f"<td>{text}</td>"


# --- pictures ----------------------------------------------------------------------------------------------------


def _pictures(anatomy: Anatomy, agreement: Agreement, name: str) -> Iterator[str]:
    """Yield image, contours, disagreement and soft labels of the test cases of which the label predicts the least."""
    index = anatomy.class_names.index(name)
    of_hard = agreement.per_case.get(("hard", name), {}).get("brier", {})
    shown = sorted(of_hard, key=lambda case: (-of_hard[case], case))[:MOST_PICTURES]
    methods = [*dict.fromkeys(["SVLS", *anatomy.stores])][:MOST_METHODS]
    for case_id in shown:
        case = anatomy.read(case_id)
        yield f"<h4>{html.escape(case_id)}</h4><div class=strip>"
        soft = {
            f"{m}, calibrated": agreement.probabilities[m, name][levels_of(anatomy.methods[m](case)[index])]
            for m in methods
            if (m, name) in agreement.probabilities
        }
        for caption, picture in _strip(case, index, soft):
            yield (
                f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        yield "</div>"


def _strip(case: RatedCase, index: int, soft: Mapping[str, Float64Array]) -> Iterator[tuple[str, str]]:
    """Yield (caption, PNG in base64) of one axial cut through the label, the one with the most disagreement."""
    label_ZYX, others_RZYX = case.label == index, case.others == index
    target_ZYX = others_RZYX.mean(axis=0)
    disagreement_Z = np.abs(target_ZYX - label_ZYX).sum(axis=(1, 2))
    z = int(np.where(label_ZYX.any(axis=(1, 2)), disagreement_Z, -1).argmax())
    seen = (label_ZYX | others_RZYX.any(axis=0)).any(axis=0)
    y, x = (_bounds(seen.any(axis=axis), n) for axis, n in ((1, seen.shape[0]), (0, seen.shape[1])))
    cut = (z, y, x)
    scale = max(1, PICTURE // max(y.stop - y.start, x.stop - x.start))
    image = case.image[0]
    low, high = np.percentile(image, (0.5, 99.5))
    grey = _enlarged(_bytes((image[cut] - low) / max(high - low, 1e-9)), scale)
    yield "image", _png(grey)
    contours = grey.copy()
    for colour, mask in zip(_COLOURS[1:], others_RZYX, strict=False):
        contours[_outline(mask[cut], scale)] = colour
    contours[_outline(label_ZYX[cut], scale)] = _COLOURS[0]
    yield "raters; red: the one softened", _png(contours)
    for caption, values in [("mean of the other raters", target_ZYX), *soft.items()]:
        yield caption, _png(_enlarged(_bytes(values[cut]), scale))


def _bounds(seen: BoolArray, size: int) -> slice:
    places = np.flatnonzero(seen)
    return slice(max(0, int(places[0]) - MARGIN), min(size, int(places[-1]) + 1 + MARGIN))


def _bytes(values: NDArray[np.floating]) -> UInt8Array:
    return np.rint(np.asarray(values).clip(0, 1) * 255).astype(np.uint8)


def _enlarged(grey: UInt8Array, scale: int) -> UInt8Array:
    """Return an RGB picture with `scale` × `scale` pixels per voxel."""
    return np.repeat(np.repeat(np.stack([grey] * 3, axis=-1), scale, axis=0), scale, axis=1)


def _outline(mask: BoolArray, scale: int) -> BoolArray:
    """Return the outermost pixels of an enlarged mask."""
    large = np.repeat(np.repeat(mask, scale, axis=0), scale, axis=1)
    return large & ~ndimage.binary_erosion(large, border_value=1)


def _png(rgb: UInt8Array) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(rgb), isVector=True), str(path))
        return base64.b64encode(path.read_bytes()).decode()
