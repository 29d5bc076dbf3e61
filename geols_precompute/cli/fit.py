"""geols-store fit: the recipe whose soft labels predict other raters best."""

from __future__ import annotations

from pathlib import Path

import click

from geols_precompute.cli.command import EXIT_DONE, Command
from geols_precompute.cli.options import reports_errors, say


@click.command(cls=Command, example="geols-store fit data/geols/volumes.zarr -o fitted.toml")
@click.argument("volumes", type=click.Path(path_type=Path))
@click.option("--group", type=click.Path(path_type=Path), help="CSV or JSON list: case, patient.  [default: none]")
@click.option("--band", type=float, default=3.0, show_default=True, help="How far from the border voxels count, mm.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the split by patient.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes; 0 is this one.  [default: one per core]")
@click.option("--scheduler", metavar="ADDR", help="Dask cluster to run on.  [default: one on this machine]")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The recipe, a TOML file.")
@reports_errors(extra="precompute")
def fit(
    volumes: Path,
    group: Path | None,
    band: float,
    seed: int,
    workers: int | None,
    scheduler: str | None,
    out: Path,
    debug: bool,
) -> int:
    """Choose map parameters by the raters in VOLUMES, a volumes.zarr made with --rater and --keep-raters.

    Seeds, γ or λ, background and iterations are chosen one after the other, by the Brier score against the mean of the
    other raters after calibration; then decay and α, without calibration; all on half of the patients. `geols-store
    agreement` with the same --seed tests on the other half. A search that was stopped goes on: its scores are in
    OUT.jsonl.
    """
    from geols_precompute.agreement.cases import chosen_rater
    from geols_precompute.agreement.fit import fit_recipe, is_log, recipe_text
    from geols_precompute.atomic import refuse_foreign, replace_file, writing_to
    from geols_precompute.data.patients import read_patients
    from geols_precompute.run.state import planned_cases
    from geols_precompute.store.reader import VolumeStore

    opened = VolumeStore.open(volumes)
    chosen_rater(opened.preprocessing, volumes)
    planned = set(planned_cases(volumes.parent))
    if lacking := planned - set(opened.cases):
        say(
            f"note: {volumes} is incomplete: {len(planned) - len(lacking)} of {len(planned)} planned cases are there; "
            "geols-precompute is still running, was stopped, or some cases failed"
        )
    refuse_foreign(out, lambda path: path.read_bytes()[:40].startswith(b"# Chosen by geols-store fit"))
    log = out.with_name(f"{out.name}.jsonl")
    refuse_foreign(log, is_log)
    found = fit_recipe(
        opened,
        patients=read_patients(group, opened.cases),
        seed=seed,
        band_mm=band,
        log=log,
        workers=workers,
        scheduler=scheduler,
        say=say,
    )
    with writing_to(out.parent, "-o"):
        replace_file(out, recipe_text(found).encode())
    b = found.brier
    say(f"Brier {b.mean:.5f} [{b.low:.5f}, {b.high:.5f}] on {found.patients} patients", f"recipe {out}")
    return EXIT_DONE
