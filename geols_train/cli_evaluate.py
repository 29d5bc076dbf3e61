"""The command geols-evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from geols_precompute.atomic import readers_of, refuse_foreign, writing_to
from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED, Command
from geols_precompute.cli.options import ClassNames, reports_errors, say
from geols_precompute.errors import InputError
from geols_precompute.formatting import plural
from geols_train.table import results_table


@click.command(
    cls=Command, example="geols-evaluate predictions data/labelsTs --classes 1=liver,2=kidney -o results.csv"
)
@click.argument("predictions", metavar="PRED", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@click.option(
    "--classes", type=ClassNames(), help="Names of the label values.  [default: the recipe's, else REFERENCE's]"
)
@click.option("--recipe", "recipe_name", help="flare2021, brats2019, brats2023, or a TOML file.  [default: none]")
@click.option(
    "--surface-tolerance",
    type=float,
    help="Of surface Dice, in mm.  [default: 1 mm, or a voxel's longest side]",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV with a row per case and structure.")
@reports_errors(extra="train")
def evaluate(
    predictions: Path,
    reference: Path,
    classes: Mapping[int, str] | None,
    recipe_name: str | None,
    surface_tolerance: float | None,
    out: Path | None,
    debug: bool,
) -> int:
    """Compare label maps with others, by the metrics that geols-train reports of its test cases.

    PRED is a folder with a label map per case (CASE.nii.gz), of any origin. REFERENCE is such a folder, or a data
    folder of a layout that geols-precompute knows. Files belong together by their names.

    Exit status: 0 all compared, 1 some cases could not be, 2 wrong usage or unreadable input.
    """
    from geols_precompute.progress import show_progress
    from geols_precompute.recipe.files import load_recipe
    from geols_train.config import TrainConfig
    from geols_train.evaluate_files import compare, find_pairs, mean_dice, means, tolerance_of, write_table
    from geols_train.metrics import Agreement

    TrainConfig(surface_tolerance=surface_tolerance)  # refuses what geols-train refuses, in the same words
    if out is not None:
        refuse_foreign(out, lambda path: path.read_bytes()[:15] == b"case,structure,")
    recipe = load_recipe(recipe_name) if recipe_name else None
    pairs = find_pairs(predictions, reference, classes=classes, recipe=recipe)
    tolerance = surface_tolerance or tolerance_of(pairs)
    failures = dict.fromkeys(pairs.without_prediction, "no prediction")
    found: dict[str, dict[str, Agreement]] = {}
    with show_progress(len(pairs.files), "evaluate") as on_case:
        for case in pairs.files:
            try:
                found[case] = compare(pairs, case, tolerance)
            except InputError as error:
                failures[case] = str(error)
            on_case(case, failures.get(case, ""))
    for case, reason in sorted(failures.items()):
        say(f"failed: {case}: {reason}", err=True)
    if pairs.without_reference:
        listed = ", ".join(pairs.without_reference[:5])
        say(f"note: {plural(len(pairs.without_reference), 'prediction')} without a reference left out: {listed}")
    if not found:
        raise InputError("no case could be compared")
    structures = {name: means(found, name) for name in pairs.structures}
    say(*results_table(structures, mean_dice(found, pairs.classes), tolerance))
    say(f"{plural(len(found), 'case')} compared, {len(failures)} failed")
    if out is not None:
        with writing_to(out.parent, "-o"):
            out.parent.mkdir(parents=True, exist_ok=True)
            readers = readers_of([path for pair in pairs.files.values() for path in pair], out.parent)
            write_table(out, found, tolerance, readers)
        say(f"table   {out}")
    return EXIT_SOME_FAILED if failures else EXIT_DONE
