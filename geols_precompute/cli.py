"""The command geols-precompute: a folder of labelled volumes to a label store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from geols_precompute.options import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    ClassNames,
    CountOrWord,
    printable,
    reports_errors,
)
from geols_precompute.recipe import PRESETS, Recipe

MAP_FLAGS = ("seeds", "metric", "lam", "gamma", "iterations", "decay", "background", "modalities", "engine")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--seeds", help="skeleton, erosion, random-K (K voxels), centroid or boundary.  [default: skeleton]")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="Map parameters as a set; docs/method.md has the table."
)
@click.option("--recipe", "recipe_name", help="flare2021, brats2019, brats2023, or a TOML file.")
@click.option("--classes", type=ClassNames(), help="Names of the label values: 1=liver,2=kidney.")
@click.option("--metric", type=click.Choice(["gradient", "riemannian"]), help="Cost of a step.  [default: gradient]")
@click.option("--lam", type=float, help="λ of the gradient metric, 0 to 1.  [default: 1]")
@click.option("--gamma", type=float, help="γ of the Riemannian metric.  [default: 1]")
@click.option("--iterations", type=CountOrWord(int, "exact"), help="Raster sweeps, or exact.  [default: 4]")
@click.option("--decay", type=CountOrWord(float, "mean"), help="mean, or k per mm in exp(-k·D).  [default: mean]")
@click.option("--background", type=click.Choice(["complement", "seeds"]), help="[default: complement]")
@click.option("--modalities", help="average, joint, or one modality's name.  [default: average]")
@click.option("--clip", type=(float, float), metavar="LOW HIGH", help="Clip intensities to two percentiles.")
@click.option("--engine", type=click.Choice(["numba", "geodistk"]), help="[default: numba]")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: DATA/geols]")
@click.option("--name", default="labels", show_default=True, help="Name of the label store in the output folder.")
@click.option("--reuse", metavar="STORE", help="Label store to take maps from, another lab's perhaps.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes; 0 is this one.  [default: one per core]")
@reports_errors(extra="precompute")
def precompute(
    data: Path,
    recipe_name: str | None,
    preset: str | None,
    classes: Mapping[int, str] | None,
    clip: tuple[float, float] | None,
    out: Path | None,
    name: str,
    reuse: str | None,
    workers: int | None,
    debug: bool,
    **flags: Any,
) -> int:
    """Compute the geodesic maps of the labelled volumes in DATA into a Zarr store.

    DATA is a folder in the layout of nnU-Net, the Medical Segmentation Decathlon, BraTS or FLARE, one case's own
    folder, or a CSV manifest. Runs again where it stopped; a case that fails does not stop the others.

    Exit status: 0 all done, 1 some cases failed, 2 wrong usage or unreadable input.
    """
    # Imported here so that --help and wrong usage answer at once.
    from geols_precompute.cluster import open_executor
    from geols_precompute.layouts import discover
    from geols_precompute.pipeline import create_stores, make_plan, run_plan
    from geols_precompute.progress import show_progress
    from geols_precompute.recipes import assemble_recipe, load_recipe_file
    from geols_precompute.reuse import Reuse

    recipe_file = load_recipe_file(recipe_name) if recipe_name else None
    dataset = discover(data, modalities=recipe_file.modalities if recipe_file else None)
    recipe = assemble_recipe(
        recipe_file,
        data_classes=dataset.classes,
        data_modalities=dataset.modalities,
        data_ignore=dataset.ignore,
        flag_classes=classes,
        clip=clip,
        preset=preset,
        map_flags={key: flags[key] for key in MAP_FLAGS if flags[key] is not None},
    )
    require_effect(flags, recipe)
    source = Reuse.of(reuse, recipe) if reuse else None
    plan = make_plan(dataset, recipe, out or dataset.root / "geols", checked_name(name), source)
    create_stores(plan)
    click.echo(describe(dataset.layout, len(dataset.cases), recipe))
    if plan.finished:
        click.echo(f"{len(plan.finished)} cases are finished already")
    if plan.strays:
        click.echo(
            f"note: {len(plan.strays)} cases of the store are not in {data} and stay: {', '.join(plan.strays[:5])}"
        )
    with (
        open_executor(workers if plan.tasks else 0, recipe.maps) as executor,
        show_progress(len(plan.tasks), "maps") as progress,
    ):

        def on_outcome(outcome: Any) -> None:
            progress(failed=outcome.status == "failed")
            if debug and outcome.trace:
                click.echo(outcome.trace, err=True)

        summary = run_plan(plan, executor, on_outcome)
    for note in summary.notes:
        click.echo(printable(f"note: {note.case_id}: {note.reason}"))
    for failure in summary.failures:
        click.echo(printable(f"failed: {failure.case_id}: {failure.reason}"), err=True)
    reused = f"{summary.reused} taken from {reuse}, " if reuse else ""
    click.echo(
        f"{summary.computed} cases computed, {reused}{summary.finished} unchanged, {len(summary.failures)} failed\n"
        f"store   {summary.labels}\ndigest  {summary.digest}"
    )
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE


def require_effect(flags: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a flag that would change nothing.

    Raises:
        RecipeError: --gamma without the Riemannian metric, or --lam with it.
    """
    from geols_precompute.errors import RecipeError

    for flag, metric in (("gamma", "riemannian"), ("lam", "gradient")):
        if flags[flag] is not None and recipe.maps.metric != metric:
            raise RecipeError(f"--{flag} belongs to --metric {metric}; the metric here is {recipe.maps.metric}")


def checked_name(name: str) -> str:
    """Return the label store's name without a .zarr ending.

    Raises:
        RecipeError: it is not a plain file name, or the name of the volumes.
    """
    from geols_precompute.cases import is_case_id
    from geols_precompute.errors import RecipeError

    name = name.removesuffix(".zarr")
    if not is_case_id(name) or name == "volumes":
        raise RecipeError(f"--name {name!r}: use letters, digits, '.', '_' and '-', and not 'volumes'")
    return name


def describe(layout: str, cases: int, recipe: Recipe) -> str:
    """Return what a run is about to do, in two lines."""
    maps = recipe.maps
    metric = f"λ = {maps.lam:g}" if maps.metric == "gradient" else f"γ = {maps.gamma:g}"
    names = ", ".join(f"{label.value} {label.name}" for label in recipe.classes[1:])
    return (
        f"{layout}: {cases} cases, classes {names}\n"
        f"seeds {maps.seeds}, {maps.metric} metric ({metric}), {maps.iterations} iterations, decay {maps.decay}, "
        f"background {maps.background}, modalities {maps.modalities}, engine {maps.engine}"
    )
