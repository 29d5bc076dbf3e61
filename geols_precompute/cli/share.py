"""The commands of geols-store that hand stores on: pack, unpack, pull, merge, croissant, export."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from geols_precompute.atomic import readers_of, refuse_foreign, replace_file, writing_to
from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED, Command
from geols_precompute.cli.options import reports_errors, say
from geols_precompute.errors import InputError, StoreError
from geols_precompute.formatting import plural
from geols_precompute.progress import show_progress
from geols_precompute.share import croissant as describing
from geols_precompute.share import export as exporting
from geols_precompute.share import merge as merging
from geols_precompute.share import pack as packing
from geols_precompute.share.copy import CopySummary, copy_cases, filling, open_source, require_nothing_else
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.writer import refuse_store, write_manifest

_STORE = click.argument("store", type=click.Path(path_type=Path))


@click.command(cls=Command, example="geols-store pack data/geols/labels.zarr -o organs.zarr.zip")
@_STORE
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The archive: NAME.zarr.zip.")
@click.option("--rename", is_flag=True, help="Give cases names that tell nothing; names.csv beside STORE has them.")
@reports_errors(extra="precompute")
def pack(store: Path, out: Path, rename: bool, debug: bool) -> int:
    """Write a label store to one file; the same store gives the same bytes.

    Every byte is checked on the way. With --rename a case is named by a hash of its id and of a secret that is kept
    beside STORE, so that the next release has the same names.
    """
    if not out.name.lower().endswith(".zip"):
        raise InputError(f"-o {out}: the name of an archive ends in .zarr.zip, by which it is recognised")
    opened = LabelStore.open(store)
    refuse_store(out.absolute().parent)
    names: dict[str, str] = {}
    if rename:
        with writing_to(store.parent, "STORE, for the secret and the table of names are kept beside it"):
            names = packing.private_names(store.absolute().parent, opened.cases)
    with writing_to(out.parent, "-o"), show_progress(len(opened.cases), "pack") as on_case:
        digest = packing.pack(opened, out, names, on_case)
    say(
        f"{plural(len(opened.cases), 'case')}, {out.stat().st_size / 1e6:.1f} MB", f"file    {out}", f"digest  {digest}"
    )
    return EXIT_DONE


@click.command(cls=Command, example="geols-store unpack organs.zarr.zip -o organs.zarr")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The store's folder: NAME.zarr.")
@reports_errors(extra="precompute")
def unpack(archive: Path, out: Path, debug: bool) -> int:
    """Write the store in ARCHIVE to a folder; every byte is checked on the way."""
    opened = LabelStore.open(archive)
    return _copy(opened, opened.cases, out, "unpack")


@click.command(cls=Command, example="geols-store pull https://lab.example/organs.zarr.zip -o organs.zarr")
@click.argument("source")
@click.option("--cases", multiple=True, metavar="IDS", help="Only these: ids or patterns such as 'ct_*', by commas.")
@click.option("--digest", help="Refuse any other store than the one published under this digest.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The store's folder: NAME.zarr.")
@reports_errors(extra="remote")
def pull(source: str, cases: Sequence[str], digest: str | None, out: Path, debug: bool) -> int:
    """Fetch a store, or some of its cases, from SOURCE; run again to go on after an interruption.

    SOURCE is a folder or an archive (.zarr.zip), here or at an address: https://, http://, s3://, or whatever fsspec
    has a package for. Only files that the manifest names are asked for, and every one is checked as it arrives. Cases
    that are there already are left alone: geols-store verify checks those. With --digest they are read again, and
    fetched anew where a byte differs.

    Exit status: 0 all there, 1 some cases failed (each is named; run again), 2 wrong usage or unreadable source.
    """
    if digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InputError(f"--digest {digest!r}: a digest is 64 hexadecimal digits")
    with open_source(source, out.parent) as opened:
        if digest and opened.digest != digest.lower():
            raise StoreError(
                f"{opened.files.location}: its digest is {opened.digest}, not {digest}; this is another store, or "
                "another version of it"
            )
        wanted, is_pinned = chosen_cases(opened, cases), digest is not None
        return _copy(opened, wanted, out, "pull", exactly=is_pinned and not cases, read_again=is_pinned)


@click.command(cls=Command, example="geols-store merge a.zarr b.zarr -o both.zarr")
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The store's folder: NAME.zarr.")
@reports_errors(extra="precompute")
def merge(stores: Sequence[Path], out: Path, debug: bool) -> int:
    """Unite label stores of one recipe and class table, folders or archives, in a new one.

    A case that several stores have is taken once if it is equal in all, and refused by name if it is not.
    """
    opened = [LabelStore.open(store) for store in stores]
    total = len({case for store in opened for case in store.cases})
    with writing_to(out, "-o"), show_progress(total, "merge") as on_case:
        summary = merging.merge(opened, out, on_case)
    return _finish(summary, out)


@click.command(cls=Command, example="geols-store croissant public/organs.zarr.zip -o public/croissant.json")
@_STORE
@click.option("--url", default="", help="The folder on the web where the store and croissant.json will lie.")
@click.option("--creator", default="", metavar="NAME", help="Who made the store: a lab, a person.")
@click.option("--published", default="", metavar="DATE", help="When: 2026-01-31.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="croissant.json, beside STORE.")
@reports_errors(extra="precompute")
def croissant(store: Path, url: str, creator: str, published: str, out: Path, debug: bool) -> int:
    """Describe a label store for catalogues of data sets, as Croissant 1.0.

    The file holds digests, licence, citation and the class table. Of a packed store every byte is read.
    """
    if url and not url.startswith(("https://", "http://")):
        raise InputError(f"--url {url}: give an address that begins with https://")
    if published:
        try:
            datetime.date.fromisoformat(published)
        except ValueError:
            raise InputError(f"--published {published}: give a date such as 2026-01-31") from None
    opened = LabelStore.open(store)
    refuse_store(out.absolute().parent)
    refuse_foreign(out, describing.is_croissant)
    content = describing.croissant(opened, out.parent, url=url, creator=creator, published=published)
    with writing_to(out.parent, "-o"):
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, content)
    say(
        f"{opened.path.name}: {plural(len(opened), 'case')}, {len(opened.classes)} classes",
        f"file    {out}",
        f"digest  {opened.digest}",
    )
    if missing := describing.lacking(content):
        say(f"note: Croissant 1.0 asks for more: {', '.join(missing)}")
    return EXIT_DONE


@click.command(cls=Command, example="geols-store export organs.zarr --case ct_001 -o maps.nii.gz")
@_STORE
@click.option("--case", help="Its id; with --bids all cases by default.")
@click.option("--soft", is_flag=True, help="The soft label in place of the maps; needs the volumes.")
@click.option("--bids", is_flag=True, help="Soft labels and label maps, as BIDS derivatives; needs the volumes.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Of soft labels.  [default: 0.1]")
@click.option("--normalize", type=click.Choice(["sum", "none"]), help="Of soft labels.  [default: sum]")
@click.option("--class", "class_name", metavar="NAME", help="One class, by name or value, as a 3-D volume.")
@click.option("--volumes", type=click.Path(path_type=Path), help="With labels.  [default: volumes.zarr beside STORE]")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="FILE.nii.gz; a folder with --bids.")
@reports_errors(extra="precompute")
def export(
    store: Path,
    case: str | None,
    soft: bool,
    bids: bool,
    alpha: float | None,
    normalize: Any,
    class_name: str | None,
    volumes: Path | None,
    out: Path,
    debug: bool,
) -> int:
    """Write the maps of a case, a channel per class, for Slicer, ITK-SNAP and other viewers.

    With --bids a folder of BIDS derivatives is written: of each case the soft label (_probseg) and the label map
    (_dseg), with the class table.

    Exit status: 0 written, 1 some cases failed (each is named), 2 wrong usage or unreadable store.
    """
    from geols_precompute.data.formats.nifti import is_written_here, write_image

    for flag, value in (("--alpha", alpha), ("--normalize", normalize), ("--volumes", volumes)):
        if value is not None and not (soft or bids):
            raise InputError(f"{flag} belongs to --soft or --bids; without them the maps are written, which have no α")
    for flag, given in (("--soft", soft), ("--class", class_name is not None)):
        if bids and given:
            raise InputError(f"{flag} has no effect with --bids, which writes the soft labels of all classes")
    if case is None and not bids:
        raise InputError("name a case with --case, or export all with --bids")
    labels = LabelStore.open(store)
    refuse_store(out.absolute().parent)
    if bids:
        return _export_bids(labels, volumes, case, out, alpha=alpha, normalize=normalize)
    assert case is not None
    refuse_foreign(out, is_written_here)
    sources = [exporting.file_of(labels, case)]
    names = labels.classes.names
    index = labels.classes.find(class_name) if class_name is not None else None
    exporting.require_memory(labels, case, soft=soft, channels=len(names) if index is None else 1)
    if soft:
        opened = VolumeStore.open(volumes) if volumes else exporting.volumes_beside(labels)
        sources.append(exporting.file_of(opened, case))
        alpha, normalize = 0.1 if alpha is None else alpha, normalize or "sum"
        array_CZYX = exporting.soft_label_of(labels, opened, case, alpha=alpha, normalize=normalize)
    else:
        array_CZYX = labels.class_maps(case)
    if index is not None:
        array_CZYX, names = array_CZYX[index], names[index : index + 1]
    geometry, note = exporting.geometry_of(labels, volumes, case)
    write_image(array_CZYX, geometry, out, readers=readers_of(sources, out.parent))
    say(f"{'soft label' if soft else 'maps'} of {case}: {', '.join(names)}", f"file    {out}")
    if note:
        say(f"note: {case}: {note}")
    return EXIT_DONE


def _export_bids(
    labels: LabelStore, volumes: Path | None, case: str | None, out: Path, *, alpha: float | None, normalize: Any
) -> int:
    from geols_precompute.share.bids import export_bids

    opened = VolumeStore.open(volumes) if volumes else exporting.volumes_beside(labels)
    if case is not None:
        labels.metadata(case)  # refuses a case that is not there
    cases = labels.cases if case is None else (case,)
    with writing_to(out, "-o"), show_progress(len(cases), "export") as on_case:
        failures = export_bids(
            labels,
            opened,
            cases,
            out,
            alpha=0.1 if alpha is None else alpha,
            normalize=normalize or "sum",
            on_case=on_case,
        )
    for name, reason in failures.items():
        say(f"failed: {name}: {reason}", err=True)
    say(f"{plural(len(cases) - len(failures), 'case')} written, {len(failures)} failed", f"folder  {out}")
    return EXIT_SOME_FAILED if failures else EXIT_DONE


def chosen_cases(store: LabelStore, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the cases that ids or patterns, separated by commas, name; all if there are none.

    Raises:
        InputError: one names no case of the store.
    """
    if not wanted:
        return store.cases
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for entry in wanted for part in entry.split(","))):
        plain = pattern in store.manifest.cases
        matching = [pattern] if plain else [case for case in store.cases if fnmatchcase(case, pattern)]
        if not matching:
            raise InputError(f"--cases {pattern}: {store.files.location} has no such case; it has {len(store.cases)}")
        chosen.update(matching)
    if not chosen:
        raise InputError("--cases names nothing")
    return tuple(sorted(chosen))


def _copy(
    source: LabelStore, cases: Sequence[str], out: Path, what: str, *, exactly: bool = False, read_again: bool = False
) -> int:
    """Copy cases to the store at `out`, write its manifest, and return the exit status.

    With `exactly` the store there must have nothing else than the source. `read_again` is that of `copy_cases`.
    """
    with writing_to(out, "-o"), filling(out, source.root_content) as check:
        if exactly:
            require_nothing_else(out, source)
        with show_progress(len(cases), what) as on_case:
            summary = copy_cases(source, out, cases, on_case, check=check, read_again=read_again)
        return _finish(summary, out, source, exactly=exactly)


def _finish(summary: CopySummary, out: Path, source: LabelStore | None = None, *, exactly: bool = False) -> int:
    """Write the manifest unless cases are missing, and say what became of all."""
    for case, reason in sorted(summary.failures.items()):
        say(f"failed: {case}: {reason}", err=True)
    say(f"{plural(summary.copied, 'case')} copied, {summary.found} there already, {len(summary.failures)} failed")
    if summary.failures:
        say(
            f"{out} is not finished: run the same command again, or geols-store finalize {out} to go on without the "
            "failed cases",
            err=True,
        )
        return EXIT_SOME_FAILED
    with writing_to(out, "-o"):
        digest = write_manifest(out)
    say(f"store   {out}", f"digest  {digest}")
    if source and digest != source.digest:
        if exactly:
            raise StoreError(f"{out}: another run has put other cases there meanwhile; name a new folder")
        say(f"note: not the cases of {source.files.location} and nothing else; its digest is {source.digest}")
    return EXIT_DONE
