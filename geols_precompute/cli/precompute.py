"""The command geols-precompute: a folder of labelled volumes to a label store."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geols_precompute.cli.options import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    ClassNames,
    CommandWithHeadings,
    CountOrWord,
    reports_errors,
)
from geols_precompute.errors import RecipeError
from geols_precompute.formatting import duration, plural, printable, readable
from geols_precompute.recipe.parameters import ENGINE_VERSIONS, PRESETS, Recipe

if TYPE_CHECKING:
    from geols_precompute.run.dask import InProcess, OnDask
    from geols_precompute.run.plan import Plan
    from geols_precompute.run.task import Outcome

MAP_FLAGS = ("seeds", "metric", "lam", "gamma", "iterations", "decay", "background", "modalities", "engine")
HEADINGS = {
    "Maps": "seeds preset metric lam gamma iterations decay background modalities engine reuse",
    "Classes and preparation": "recipe_name classes clip",
    "Where it runs": "workers scheduler part_text",
    "Output": "out name dry_run preview",
}


@click.command(cls=CommandWithHeadings, headings=HEADINGS, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--seeds", help="skeleton, erosion, random-K (K voxels), centroid or boundary.  [default: skeleton]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A set of map parameters.  [default: default]")
@click.option("--recipe", "recipe_name", help="flare2021, brats2019, brats2023, or a TOML file.  [default: none]")
@click.option("--classes", type=ClassNames(), help="Names of the label values.  [default: the recipe's, else DATA's]")
@click.option("--metric", type=click.Choice(["gradient", "riemannian"]), help="Cost of a step.  [default: gradient]")
@click.option("--lam", type=float, help="λ of the gradient metric, from 0 to 1.  [default: 1]")
@click.option("--gamma", type=float, help="γ of the Riemannian metric, mm per intensity.  [default: 1]")
@click.option("--iterations", type=CountOrWord(int, "exact"), help="Sweeps, there and back, or exact.  [default: 4]")
@click.option("--decay", type=CountOrWord(float, "mean"), help="mean, or k per mm in exp(-k·D).  [default: mean]")
@click.option(
    "--background", type=click.Choice(["complement", "seeds"]),
    help="Its map: 1 - mean of the others, or from seeds as theirs.  [default: complement]",
)  # fmt: skip
@click.option("--modalities", help="average, joint, or one modality's name.  [default: average]")
@click.option(
    "--clip", type=(float, float), metavar="LOW HIGH",
    help="Clip intensities to two percentiles, 0 to 100, per modality of a case.  [default: the recipe's, else none]",
)  # fmt: skip
@click.option("--engine", type=click.Choice(list(ENGINE_VERSIONS)), help="For distances.  [default: numba]")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: DATA/geols]")
@click.option("--name", default="labels", show_default=True, help="Name of the label store in the output folder.")
@click.option("--reuse", metavar="STORE", help="Label store to take maps from, another lab's perhaps.  [default: none]")
@click.option(
    "--workers", type=click.IntRange(min=0),
    help="Processes on this machine; 0 is this one.  [default: one per core, as far as memory goes]",
)  # fmt: skip
@click.option(
    "--scheduler", metavar="ADDR",
    help="Dask cluster to run on: tcp://HOST:PORT, or its scheduler file.  [default: one on this machine]",
)  # fmt: skip
@click.option("--part", "part_text", metavar="i/n", help="Every n-th case only, the i-th first.  [default: all cases]")
@click.option("--dry-run", is_flag=True, help="Compute one case, and say what all will take.")
@click.option("--preview", metavar="CASE", help="Compute one case, and write the page that shows it.  [default: none]")
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
    scheduler: str | None,
    part_text: str | None,
    dry_run: bool,
    preview: str | None,
    debug: bool,
    **flags: Any,
) -> int:
    """Compute the geodesic maps of the labelled volumes in DATA into a Zarr store.

    DATA is a folder in the layout of nnU-Net, the Medical Segmentation Decathlon, BraTS or FLARE, one case's own
    folder, or a CSV manifest. Runs again where it stopped; a case that fails does not stop the others.

    Exit status: 0 all done, 1 some cases failed, 2 wrong usage or unreadable input.
    """
    # Imported here so that --help and wrong usage answer at once.
    from geols_precompute.data.layouts import discover
    from geols_precompute.progress import show_progress
    from geols_precompute.recipe.files import assemble_recipe, load_recipe_file
    from geols_precompute.run.plan import Part, create_stores, make_plan, run_plan
    from geols_precompute.run.reuse import Reuse

    others = {"--dry-run": dry_run, "--part": part_text, "--scheduler": scheduler, "--reuse": reuse}
    if preview is not None and (ignored := [name for name, value in others.items() if value]):
        raise RecipeError(f"--preview computes one case, here and now: leave out {' and '.join(ignored)}")
    # an empty text is a shell variable that is not set, and would mean all cases
    part = Part.parse(part_text) if part_text is not None else None
    if scheduler is not None:
        if workers is not None:
            raise RecipeError("--workers belongs to a cluster on this machine; the one at --scheduler has its own")
        # its workers may run in another folder
        data, out = data.absolute(), out.absolute() if out else None
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
    plan = make_plan(dataset, recipe, out or dataset.root / "geols", checked_name(name), source, part)
    if dry_run:
        return print_estimate(plan, workers, scheduler)
    if preview is not None:
        return show_preview(plan, preview)
    create_stores(plan)
    click.echo(describe(plan))
    with (
        chosen_executor(plan, workers, scheduler) as executor,
        show_progress(len(plan.tasks), "maps") as progress,
    ):

        def on_outcome(outcome: Outcome) -> None:
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
        f"store   {summary.labels}"
    )
    if summary.digest:
        click.echo(f"digest  {summary.digest}")
    else:
        click.echo(f"this was part {part}; after the last one: geols-store finalize {plan.out}")
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE


@contextmanager
def chosen_executor(plan: Plan, workers: int | None, scheduler: str | None) -> Iterator[InProcess | OnDask]:
    """Provide what runs the tasks of a plan, and say where that is.

    Raises:
        ClusterError: there is no such cluster, or memory is too small for the largest case.
    """
    from geols_precompute.run import dask as cluster
    from geols_precompute.run.existing import existing_cluster
    from geols_precompute.run.memory import largest_need, workers_for

    maps = plan.recipe.maps
    with ExitStack() as stack:
        if not plan.tasks or workers == 0:
            executor: InProcess | OnDask = stack.enter_context(cluster.in_process(maps))
        elif scheduler is not None:
            paths = [plan.dataset.root, plan.labels, *{task.reuse.path for task in plan.tasks if task.reuse}]
            executor = stack.enter_context(existing_cluster(scheduler, maps, paths))
        else:
            need = largest_need((task.case for task in plan.tasks), plan.recipe)
            fitting = workers_for(need, workers)
            if fitting.note:
                click.echo(f"note: {fitting.note}")
            click.echo(f"the largest case needs about {readable(need)}")
            on_terminal = sys.stderr.isatty()
            executor = stack.enter_context(
                cluster.local_cluster(fitting.count, fitting.memory, maps, dashboard=on_terminal)
            )
        if executor.description:
            click.echo(executor.description)
        yield executor


def print_estimate(plan: Plan, workers: int | None, scheduler: str | None) -> int:
    """Print what a run will take; nothing of it stays."""
    from geols_precompute.progress import show_progress
    from geols_precompute.run.dask import compile_once
    from geols_precompute.run.estimate import estimate
    from geols_precompute.run.memory import workers_for
    from geols_precompute.run.plan import check_stores

    check_stores(plan)
    click.echo(describe(plan))
    compile_once(plan.recipe.maps)
    with show_progress(len(plan.tasks), "headers") as progress:
        found = estimate(plan, progress)
    for problem in found.problems:
        click.echo(printable(f"problem: {problem.case_id}: {problem.reason}"), err=True)
    click.echo(f"{found.cases} cases to compute, {len(plan.finished)} finished, {len(found.problems)} with problems")
    if sample := found.sample:
        if workers == 0 or scheduler is not None:
            wall, note = f"{duration(found.seconds)} on one core", ""
        else:
            fitting = workers_for(found.memory, workers)
            wall = f"{duration(found.seconds / fitting.count)} with {plural(fitting.count, 'worker')}"
            note = f"; {fitting.note}" if fitting.note else ""
        seconds = sum(sample.seconds.values())
        stores = f"volumes {readable(found.volume_bytes)}, maps {readable(found.label_bytes)}"
        click.echo(
            f"{sample.case}, of {found.voxels / 1e6:.3g} million voxels, took {seconds:.2f} s and "
            f"{readable(sample.peak_memory)}\n"
            f"time    {found.seconds / 3600:.3g} CPU-hours; {wall}\n"
            f"disk    {readable(found.volume_bytes + found.label_bytes)} ({stores})\n"
            f"memory  {readable(found.memory)} per worker for the largest case{note}"
        )
    return EXIT_SOME_FAILED if found.problems else EXIT_DONE


def show_preview(plan: Plan, case: str) -> int:
    """Write the report of one case into the output folder; nothing else of it stays."""
    from geols_precompute.report.preview import write_preview
    from geols_precompute.run.dask import compile_once
    from geols_precompute.run.plan import check_stores

    check_stores(plan)
    click.echo(describe(plan))
    compile_once(plan.recipe.maps)
    path = plan.out / f"preview-{plan.name}-{case}.html"
    for flag in write_preview(plan, case, path).flags:
        click.echo(printable(f"{flag.kind}: {flag.text}"))
    click.echo(f"preview {path}")
    return EXIT_DONE


def require_effect(flags: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse a flag that would change nothing.

    Raises:
        RecipeError: --gamma without the Riemannian metric, or --lam with it.
    """
    for flag, metric in (("gamma", "riemannian"), ("lam", "gradient")):
        if flags[flag] is not None and recipe.maps.metric != metric:
            raise RecipeError(f"--{flag} belongs to --metric {metric}; the metric here is {recipe.maps.metric}")


def checked_name(name: str) -> str:
    """Return the label store's name without a .zarr ending.

    Raises:
        RecipeError: it is not a plain file name, or the name of the volumes.
    """
    from geols_precompute.data.cases import is_case_id

    name = name.removesuffix(".zarr")
    if not is_case_id(name) or name == "volumes":
        raise RecipeError(f"--name {name!r}: use letters, digits, '.', '_' and '-', and not 'volumes'")
    return name


def describe(plan: Plan) -> str:
    """Return what a run is about to do, in a few lines."""
    maps = plan.recipe.maps
    metric = f"λ = {maps.lam:g}" if maps.metric == "gradient" else f"γ = {maps.gamma:g}"
    names = ", ".join(f"{label.value} {label.name}" for label in plan.recipe.classes[1:])
    lines = [
        f"{plan.dataset.layout}: {len(plan.dataset.cases)} cases, classes {names}",
        f"seeds {maps.seeds}, {maps.metric} metric ({metric}), {maps.iterations} iterations, decay {maps.decay}, "
        f"background {maps.background}, modalities {maps.modalities}, engine {maps.engine}",
    ]
    if plan.part:
        lines.append(f"part {plan.part}: {len(plan.tasks) + len(plan.finished)} cases")
    if plan.finished:
        lines.append(f"{len(plan.finished)} cases are finished already")
    if plan.strays:
        listed = ", ".join(plan.strays[:5])
        lines.append(f"note: {len(plan.strays)} cases of the store are not in {plan.dataset.root} and stay: {listed}")
    return "\n".join(lines)
