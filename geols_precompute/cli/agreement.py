"""geols-store agreement: how well soft labels predict the raters that they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from geols_precompute.cli.command import EXIT_DONE, Command
from geols_precompute.cli.options import reports_errors, say


@click.command(cls=Command, example="geols-store agreement data/geols/labels.zarr -o agreement/")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Raters from here, not from volumes.zarr.")
@click.option("--group", type=click.Path(path_type=Path), help="CSV or JSON list: case, patient.  [default: none]")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of the stores' labels.")
@click.option("--sigma", "sigmas", type=float, multiple=True, default=(1.0,), show_default=True, help="Gaussians, mm.")
@click.option("--band", type=float, default=3.0, show_default=True, help="How far from the border voxels count, mm.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split by patient.")
@click.option("--against", default="SVLS", show_default=True, help="What the others are compared with.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for page and CSV files.")
@reports_errors(extra="precompute")
def agreement(
    stores: Sequence[Path],
    data: Path | None,
    group: Path | None,
    alpha: float,
    sigmas: Sequence[float],
    band: float,
    seed: int,
    against: str,
    out: Path,
    debug: bool,
) -> int:
    """Measure how well the soft labels of stores, and rivals that need none, predict the other raters.

    Every case's label is that of one rater (geols-precompute --rater 1); the target is the mean of the others. Half of
    the patients calibrate the soft labels, the other half tests them. Stores in one folder are compared with each
    other; those in other folders are other anatomies. The page shows images: share it only where they may go.
    """
    from geols_precompute.agreement.anatomies import compare_stores
    from geols_precompute.agreement.patients import halves
    from geols_precompute.progress import show_progress
    from geols_precompute.report.agreement import write_agreement
    from geols_precompute.report.cases import files_of

    compared = compare_stores(stores, data=data, group=group, alpha=alpha, sigmas=sigmas, against=against)
    # the cases of the test half are read twice
    tested = [half for anatomy in compared for half in halves(anatomy.patients, seed).values() if half == "test"]
    with show_progress(sum(len(anatomy.cases) for anatomy in compared) + len(tested), "agreement") as on_case:
        sources = [file for anatomy in compared for store in anatomy.stores.values() for file in files_of(store, data)]
        found = write_agreement(out, compared, seed=seed, against=against, band=band, sources=sources, on_case=on_case)
    for line in found.lines:
        say(line)
    say(f"report  {out / 'agreement.html'}")
    return EXIT_DONE
