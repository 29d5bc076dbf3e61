"""The command geols-store: what is in a store, is it whole, does it fit this lab's data; and how it is handed on."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from geols_precompute.cli.agreement import agreement
from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED, Group
from geols_precompute.cli.fit import fit
from geols_precompute.cli.options import reports_errors, say
from geols_precompute.cli.reproduce import machine_check, reproduce
from geols_precompute.cli.share import croissant, export, merge, pack, pull, unpack
from geols_precompute.errors import InputError
from geols_precompute.formatting import plural, some
from geols_precompute.store.layout import METADATA
from geols_precompute.store.reader import LabelStore, Store
from geols_precompute.store.verify import open_store, strange_entries, verify_case

#: How many parameters of a recipe are printed; a store may come from anywhere.
MOST_PARAMETERS = 200
_STORE = click.argument("store", type=click.Path(path_type=Path))


@click.group(cls=Group, example="geols-store verify data/geols/labels.zarr --data data/")
def store() -> None:
    """Look at, verify, finalize and share stores."""


for command in (agreement, fit, pack, unpack, pull, merge, croissant, export, reproduce):
    store.add_command(command)


@store.command(example="geols-store info data/geols")
@_STORE
@reports_errors(extra="precompute")
def info(store: Path, debug: bool) -> int:
    """Print a store's digest, recipe, classes and sizes.

    STORE may also be the output folder of geols-precompute: the stores in it are named.
    """
    from geols_precompute.run.finalize import stores_in

    if _is_output_folder(store):
        for path in stores_in(store):
            one = open_store(path)
            say(f"store   {path}, {plural(len(one.cases), 'case')}", f"digest  {one.digest}")
        return EXIT_DONE
    opened = open_store(store)
    found = _Contents(opened)
    lines = {
        "format": f"{opened.format} version {opened.geols['version']}",
        "digest": opened.digest,
        "recipe": opened.manifest.recipe_id,
        "cases": f"{len(opened.cases)}, {found.bytes / 1e6:.1f} MB",
        "classes": str(opened.classes),
        "licence": opened.geols.get("licence", "not stated"),
    }
    say(*(f"{key:<10}{value}" for key, value in lines.items()))
    parameters = sorted(_flattened(opened.recipe).items())
    say(*(f"  {key} = {value}" for key, value in parameters[:MOST_PARAMETERS]))
    if len(parameters) > MOST_PARAMETERS:
        say(f"  and {len(parameters) - MOST_PARAMETERS} more, which no recipe of this version has")
    if isinstance(opened, LabelStore):
        for label in list(opened.classes)[1:]:
            cases, seeds, fallbacks = found.classes[str(label.value)]
            counts = f"{plural(cases, 'case')}, {plural(seeds, 'seed')}, {fallbacks} by fallback"
            say(f"class {label.value} {label.name}: in {counts}")
    return EXIT_DONE


@store.command(example="geols-store verify data/geols/labels.zarr --data data/")
@_STORE
@click.option("--data", type=click.Path(path_type=Path), help="Compare every case with this lab's copy of the data.")
@reports_errors(extra="precompute")
def verify(store: Path, data: Path | None, debug: bool) -> int:
    """Recompute every digest of a store; with --data, compare its sources with a data folder.

    Of a label store it is also said whether this machine computes its recipe to the same bytes, by a small case whose
    digest is in the store; the exit status does not depend on that. STORE may also be the output folder of
    geols-precompute, which stands for all stores in it.

    Exit status: 0 all as it should be, 1 some cases are not, 2 a store cannot be opened.
    """
    from geols_precompute.run.finalize import stores_in

    if not _is_output_folder(store):
        return EXIT_SOME_FAILED if _verify(open_store(store), data) else EXIT_DONE
    wrong = False
    for path in stores_in(store):
        say(f"store   {path}")
        wrong = _verify(open_store(path), data) or wrong
    return EXIT_SOME_FAILED if wrong else EXIT_DONE


def _is_output_folder(path: Path) -> bool:
    # false, too, of a name that no file can have
    return os.path.isdir(path) and not (path / METADATA).exists()


def _verify(opened: Store, data: Path | None) -> bool:
    """Print what is wrong with a store, and how it compares with a data folder; return whether anything is."""
    from geols_precompute.progress import show_progress

    findings = strange_entries(opened)
    with show_progress(len(opened), "verify") as on_case:
        for case in opened.cases:
            finding = verify_case(opened, case)
            findings += [finding] if finding else []
            on_case(case, finding.problem if finding else "")
    for finding in findings:
        say(f"damaged: {finding.case or 'store'}: {finding.problem}", err=True)
    say(f"{plural(len(opened.cases), 'case')}, {plural(len(findings), 'finding')}", f"digest  {opened.digest}")
    if isinstance(opened, LabelStore):
        say(f"machine {machine_check(opened)}")
    differs = print_comparison(opened, data) if data else False
    return bool(findings) or differs


@store.command(example="geols-store finalize data/geols")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--partial", is_flag=True, help="Leave out planned cases that are missing.")
@reports_errors(extra="precompute")
def finalize(stores: Sequence[Path], partial: bool, debug: bool) -> int:
    """Write the manifests of stores whose run was cut short, or was done in parts.

    A STORE may also be the output folder of geols-precompute, which stands for all stores in it.
    """
    from geols_precompute.atomic import writing_to
    from geols_precompute.run import finalize as finalizing

    for root in (root for path in stores for root in finalizing.stores_in(path)):
        with writing_to(root, "STORE"):
            done = finalizing.finalize(root, partial=partial)
        for case, reason in done.left_out.items():
            say(f"left out: {case}: {reason}", err=True)
        say(f"store   {root}, {plural(done.cases, 'case')}", f"digest  {done.digest}")
    return EXIT_DONE


@store.command(example="geols-store report data/geols/labels.zarr -o report.html")
@_STORE
@click.option("--data", type=click.Path(path_type=Path), help="Images and labels from here, not from volumes.zarr.")
@click.option("--cases", metavar="ID,ID,...", help="Show these.  [default: the 30 oddest]")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Where the slider begins.")
@click.option("--strict", is_flag=True, help="Exit status 1 if anything is worth a look.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The HTML file.")
@reports_errors(extra="precompute")
def report(
    store: Path, data: Path | None, cases: str | None, alpha: float, strict: bool, out: Path, debug: bool
) -> int:
    """Write what to look at before training on a label store: one HTML file that needs no network.

    Images and labels come from the volumes.zarr beside the store, or from your copy of the data. The file shows them:
    share it only where the images may go.

    Exit status: 0 written, 1 written and, with --strict, something is worth a look, 2 the store cannot be read.
    """
    from geols_precompute.progress import show_progress
    from geols_precompute.report.cases import files_of, volumes_of
    from geols_precompute.report.page import write_report

    labels = LabelStore.open(store)
    volumes = volumes_of(labels, data)
    shown = list(dict.fromkeys(case.strip() for case in (cases or "").split(",") if case.strip()))
    if not math.isfinite(alpha):
        raise InputError(f"--alpha must be in [0, 1], got {alpha}")
    with show_progress(len(labels), "report") as on_case:
        found = write_report(
            out, labels, volumes, shown=shown, alpha=alpha, sources=files_of(labels, data), on_case=on_case
        )
    for flag in found.flags:
        say(f"{flag.kind}: {len(flag.cases)} of {plural(found.cases, 'case')}: {flag.text} ({some(flag.cases)})")
    say(f"{plural(found.cases, 'case')}, {found.shown} shown, {plural(len(found.flags), 'flag')}", f"report  {out}")
    return EXIT_SOME_FAILED if strict and found.flags else EXIT_DONE


def print_comparison(opened: Store, data: Path) -> bool:
    """Print how the sources of a store's cases compare with a data folder; return whether anything differs."""
    from geols_precompute.progress import show_progress
    from geols_precompute.share.compare import compare_with_data

    with show_progress(len(opened), "compare") as on_case:
        found = compare_with_data(opened, data, on_case)
    for name, status in found.statuses.items():
        if status != "same":
            reason = f": {found.reasons[name]}" if name in found.reasons else ""
            say(f"{status}: {name}{reason}", err=True)
    other_names = f" ({plural(found.renamed, 'case')} under other names in the store)" if found.renamed else ""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(found.counts.items()))
    say(f"{data}: {counts}{other_names}")
    return set(found.counts) != {"same"}


def _flattened(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


class _Contents:
    """What the metadata of all cases say, read one after the other.

    Attributes:
        bytes: of their files.
        classes: value of a class, as text, to the number of cases that have it, their seeds, and those by fallback.
    """

    def __init__(self, store: Store) -> None:
        self.bytes = 0
        self.classes: defaultdict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
        for case in store.cases:
            _, metadata = store.read_metadata(case)
            self.bytes += sum(size for size, _ in metadata.files.values())
            seeds_of = metadata.geols["seeds"] if isinstance(store, LabelStore) else {}
            for value, entry in seeds_of.items():
                cases, seeds, fallbacks = self.classes[value]
                self.classes[value] = cases + 1, seeds + entry["count"], fallbacks + entry["fallbacks"]
