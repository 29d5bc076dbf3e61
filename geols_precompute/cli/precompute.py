"""The command geols-precompute: a folder of labelled volumes to a label store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED, CommandWithHeadings
from geols_precompute.cli.nnunet import Preprocessed
from geols_precompute.cli.options import ClassNames, CountOrWord, reports_errors, say
from geols_precompute.errors import RecipeError
from geols_precompute.formatting import duration, plural, readable, without_secrets
from geols_precompute.progress import TerminalProgress
from geols_precompute.recipe.parameters import PRESETS, MapParameters, Recipe

if TYPE_CHECKING:
    from geols_precompute.run.execute import Summary
    from geols_precompute.run.plan import Plan

HEADINGS = {
    "Maps": "seeds preset metric lam gamma contrast iterations decay background modalities control engine reuse",
    "Classes and preparation": "recipe_name classes channels rater keep_raters clip orientation",
    "Where it runs": "workers scheduler part",
    "Output": "out name prune dry_run preview",
    "nnU-Net": "nnunet configurations plans",
}


def map_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for every map parameter that has one."""
    for parameter in reversed(fields(MapParameters)):
        if parameter.metadata["values"] is not None:
            command = _map_option(parameter)(command)
    return command


def _map_option(parameter: Field[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    values, word = parameter.metadata["values"], parameter.metadata["word"]
    reader = click.Choice(values) if isinstance(values, tuple) else CountOrWord(values, word) if word else values
    shown = f"{parameter.default:g}" if isinstance(parameter.default, int | float) else parameter.default
    return click.option(f"--{parameter.name}", type=reader, help=f"{parameter.metadata['help']}  [default: {shown}]")


@click.command(
    cls=CommandWithHeadings,
    headings=HEADINGS,
    example="geols-precompute --classes 1=liver,2=kidney --seeds skeleton data/",
)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@map_options
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A set of map parameters.  [default: default]")
@click.option("--recipe", "recipe_name", help="flare2021, brats2019, brats2023, or a TOML file.  [default: none]")
@click.option("--classes", type=ClassNames(), help="Names of the label values.  [default: the recipe's, else DATA's]")
@click.option(
    "--channels", metavar="NAME,...", help="Modalities to take, in order.  [default: the recipe's, else all of DATA]"
)
@click.option(
    "--rater",
    metavar="NAME",
    help="Whose label map is softened, of several raters: a name (1, 2, ...), majority, staple or union.  "
    "[default: the recipe's, else none]",
)
@click.option("--keep-raters", is_flag=True, help="Keep the label maps of all raters in volumes.zarr.")
@click.option(
    "--clip",
    type=(float, float),
    metavar="LOW HIGH",
    help="Clip intensities to two percentiles, 0 to 100, per modality of a case.  [default: the recipe's, else none]",
)
@click.option(
    "--orientation",
    metavar="RAS",
    help="Turn volumes so that axes x,y,z run to the Right, front (Anterior) and top (Superior), or any other three "
    "letters of R/L, A/P, S/I; predictions come back on each image's own axes.  [default: the recipe's, else none]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: DATA/geols]")
@click.option("--name", default="labels", show_default=True, help="Name of the label store in the output folder.")
@click.option("--prune", is_flag=True, help="Drop from the stores the cases that are not in DATA any more.")
@click.option("--reuse", metavar="STORE", help="Label store to take maps from, another lab's perhaps.  [default: none]")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes on this machine; 0 is this one.  [default: one per core, as far as memory goes]",
)
@click.option(
    "--scheduler",
    metavar="ADDR",
    help="Dask cluster to run on: tcp://HOST:PORT, or its scheduler file.  [default: one on this machine]",
)
@click.option("--part", metavar="i/n", help="Every n-th case only, the i-th first.  [default: all cases]")
@click.option(
    "--nnunet",
    metavar="DATASET",
    help="What nnU-Net has preprocessed of a data set, in place of DATA.  [default: none]",
)
@click.option(
    "-c", "configurations", multiple=True, metavar="CONFIG", help="A configuration of it.  [default: 3d_fullres]"
)
@click.option("-p", "plans", metavar="PLANS", help="The plans of it.  [default: nnUNetPlans]")
@click.option("--dry-run", is_flag=True, help="Compute one case, and say what all will take.")
@click.option("--preview", metavar="CASE", help="Compute one case, and write the page that shows it.  [default: none]")
@reports_errors(extra="precompute")
def precompute(
    data: Path | None,
    recipe_name: str | None,
    preset: str | None,
    classes: Mapping[int, str] | None,
    channels: str | None,
    rater: str | None,
    keep_raters: bool,
    clip: tuple[float, float] | None,
    orientation: str | None,
    out: Path | None,
    name: str,
    prune: bool,
    reuse: str | None,
    workers: int | None,
    scheduler: str | None,
    part: str | None,
    nnunet: str | None,
    configurations: tuple[str, ...],
    plans: str | None,
    dry_run: bool,
    preview: str | None,
    debug: bool,
    **map_flags: Any,
) -> int:
    """Compute the geodesic maps of the labelled volumes in DATA into a Zarr store.

    DATA is a folder in the layout of nnU-Net, the Medical Segmentation Decathlon, BraTS or FLARE, with several raters
    (CURVAS, QUBIQ, BIDS), one case's own folder, or a CSV manifest; data, if none is named. --nnunet takes the cases on
    which nnU-Net trains, and puts the store beside them. Runs again where it stopped; a case that fails does not stop
    the others.

    Exit status: 0 all done, 1 some cases failed, 2 wrong usage or unreadable input.
    """
    # Imported here so that --help and wrong usage answer at once.
    from geols_precompute.run.executor import require_one_place
    from geols_precompute.run.plan import plan_run
    from geols_precompute.run.precompute import precompute as run

    require_one_place(workers, scheduler)
    others = {
        "--dry-run": dry_run,
        "--prune": prune,
        "--part": part,
        "--scheduler": scheduler,
        "--reuse": reuse,
        "--workers": workers,
    }
    if preview is not None and (ignored := [name for name, value in others.items() if value]):
        raise RecipeError(f"--preview computes one case, here and now: leave out {' and '.join(ignored)}")
    if prune and dry_run:
        raise RecipeError("--dry-run changes nothing, and --prune drops cases: leave one of them out")
    given = {name: value for name, value in map_flags.items() if value is not None}
    recipe = asked_recipe(recipe_name, preset, classes, clip, given, orientation, rater, keep_raters=keep_raters)
    if channels is not None:
        names = tuple(name.strip() for name in channels.split(","))
        if not all(names) or len(set(names)) < len(names):
            raise RecipeError(f"--channels {channels}: names nothing, or a modality twice; give NAME,NAME,...")
        recipe = replace(recipe, modalities=names, by_name=True)
    preprocessed = Preprocessed.asked(nnunet, configurations, plans, data, out)
    places = preprocessed.places() if preprocessed else [(data or Path("data"), out)]
    if dry_run or preview is not None:
        found = [plan_run(d, recipe=recipe, out=o, name=name, reuse=reuse, part=part) for d, o in places]
        return max(print_estimate(p, workers, scheduler) if dry_run else show_preview(p, str(preview)) for p in found)
    statuses = []
    for source, target in places:
        summary = run(
            source,
            recipe=recipe,
            out=target,
            name=name,
            reuse=reuse,
            workers=workers,
            scheduler=scheduler,
            part=part,
            prune=prune,
            progress=TerminalProgress(),
        )
        print_summary(summary, reuse, part, debug=debug)
        statuses.append(EXIT_SOME_FAILED if summary.failures else EXIT_DONE)
    if preprocessed:
        say(*preprocessed.how_to_train())
    return max(statuses)


def asked_recipe(
    name: str | None,
    preset: str | None,
    classes: Mapping[int, str] | None,
    clip: tuple[float, float] | None,
    map_flags: Mapping[str, Any],
    orientation: str | None = None,
    rater: str | None = None,
    *,
    keep_raters: bool = False,
) -> Recipe:
    """Return what the flags ask for: the recipe of that name, then the preset, then single flags.

    Raises:
        RecipeError: there is no such recipe, a value is out of range, or a flag would change nothing.
    """
    from geols_precompute.recipe.files import load_recipe

    recipe = load_recipe(name) if name else Recipe()
    maps = recipe.maps.changed(preset=preset, **map_flags)
    for flag, metric in (("gamma", "riemannian"), ("lam", "gradient")):
        if flag in map_flags and maps.metric != metric:
            raise RecipeError(f"--{flag} belongs to --metric {metric}; the metric here is {maps.metric}")
    return replace(
        recipe,
        maps=maps,
        classes=classes or recipe.classes,
        clip=clip or recipe.clip,
        orientation=orientation.upper() if orientation else recipe.orientation,
        rater=rater or recipe.rater,
        keep_raters=keep_raters or recipe.keep_raters,
    )


def print_summary(summary: Summary, reuse: str | None, part: str | None, *, debug: bool) -> None:
    """Print how a run ended: notes and failures case by case, counts, and the store's digest."""
    from geols_precompute.data.orientation import mixed

    if debug:
        for trace in summary.traces.values():
            say(*without_secrets(trace).splitlines(), err=True)
    for case, notes in summary.notes.items():
        for note in notes:
            say(f"note: {case}: {note}")
    if text := mixed(summary.orientations):
        say(f"note: {text}; --orientation RAS, with another --out, turns all to one")
    for case, reason in summary.failures.items():
        say(f"failed: {case}: {reason}", err=True)
    reused = f"{summary.reused} taken from {reuse}, " if reuse else ""
    others = f"{reused}{summary.unchanged} unchanged, {len(summary.failures)} failed"
    say(
        f"{plural(summary.computed, 'case')} computed, {others}",
        f"store   {summary.labels}",
    )
    if summary.digest:
        say(f"digest  {summary.digest}")
    elif part is None:
        say("no case is in the store")
    else:
        say(f"this was part {part}; after the last one: geols-store finalize {summary.labels.parent}")


def print_estimate(plan: Plan, workers: int | None, scheduler: str | None) -> int:
    """Print what a run will take; nothing of it stays."""
    from geols_precompute.progress import show_progress
    from geols_precompute.run.dask import compile_once
    from geols_precompute.run.estimate import estimate
    from geols_precompute.run.execute import check_stores
    from geols_precompute.run.memory import workers_for
    from geols_precompute.run.plan import describe

    check_stores(plan)
    say(*describe(plan).splitlines())
    compile_once(plan.recipe.maps, say)
    with show_progress(len(plan.tasks), "headers") as on_case:
        found = estimate(plan, on_case)
    for problem in found.problems:
        say(f"problem: {problem.case_id}: {problem.reason}", err=True)
    say(f"{plural(found.cases, 'case')} to compute, {len(plan.finished)} finished, {len(found.problems)} with problems")
    if sample := found.sample:
        if workers == 0 or scheduler is not None:
            wall, note = f"{duration(found.seconds)} on one core", ""
        else:
            fitting = workers_for(found.memory, workers)
            wall = f"{duration(found.seconds / fitting.count)} with {plural(fitting.count, 'worker')}"
            note = f"; {fitting.note}" if fitting.note else ""
        seconds = sum(sample.seconds.values())
        stores = f"volumes {readable(found.volume_bytes)}, maps {readable(found.label_bytes)}"
        say(
            f"{sample.case}, of {found.voxels / 1e6:.3g} million voxels, took {seconds:.2f} s and "
            f"{readable(sample.peak_memory)}",
            f"time    {found.seconds / 3600:.3g} CPU-hours; {wall}",
            f"disk    {readable(found.volume_bytes + found.label_bytes)} ({stores})",
            f"memory  {readable(found.memory)} per worker for the largest case{note}",
        )
    return EXIT_SOME_FAILED if found.problems else EXIT_DONE


def show_preview(plan: Plan, case: str) -> int:
    """Write the report of one case into the output folder; nothing else of it stays."""
    from geols_precompute.report.preview import write_preview
    from geols_precompute.run.dask import compile_once
    from geols_precompute.run.execute import check_stores
    from geols_precompute.run.plan import describe

    check_stores(plan)
    say(*describe(plan).splitlines())
    compile_once(plan.recipe.maps, say)
    path = plan.out / f"preview-{plan.name}-{case}.html"
    for flag in write_preview(plan, case, path).flags:
        say(f"{flag.kind}: {flag.text}")
    say(f"preview {path}")
    return EXIT_DONE
