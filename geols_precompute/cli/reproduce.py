"""geols-store reproduce: whether the maps of a store are those that its recipe gives here, to the last bit."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import click

from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED, Command
from geols_precompute.cli.options import reports_errors, say
from geols_precompute.formatting import plural
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.store.guards import CHECK
from geols_precompute.store.reader import LabelStore


@click.command(cls=Command, example="geols-store reproduce organs.zarr --data data/ --cases 5")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="This lab's copy of the data.")
@click.option("--cases", type=click.IntRange(min=1), default=3, show_default=True, help="How many to compute.")
@click.option("--random-seed", type=click.IntRange(min=0), help="That draws the cases.  [default: another each time]")
@reports_errors(extra="precompute")
def reproduce(store: Path, data: Path, cases: int, random_seed: int | None, debug: bool) -> int:
    """Compute some cases of a label store again, and compare every byte; print a certificate.

    The cases are drawn at random. Each is computed from the data with the recipe of the store.

    Exit status: 0 all are equal, 1 some are not (where is said), 2 it could not be tried.
    """
    from geols_precompute.progress import show_progress
    from geols_precompute.run import reproduce as reproducing
    from geols_precompute.run.dask import compile_once

    opened = LabelStore.open(store)
    parameters = MapParameters.from_json(opened.recipe["maps"])
    seed = secrets.randbelow(10**9) if random_seed is None else random_seed
    drawn = sorted(random.Random(seed).sample(opened.cases, min(cases, len(opened.cases))))
    compile_once(parameters, say)
    with show_progress(len(drawn), "reproduce") as on_case:
        found = reproducing.reproduce(opened, data, drawn, on_case)
    equal = [case for case in drawn if not found[case]]
    lines = {
        "store": opened.files.location,
        "digest": opened.digest,
        "recipe": opened.manifest.recipe_id,
        "data": data,
        "cases": f"{len(drawn)} of {len(opened)}, drawn with --random-seed {seed}",
        "versions": reproducing.versions(parameters.engine),
        "processor": reproducing.processor(),
        "machine": machine_check(opened),
    }
    say(*(f"{key:<10}{value}" for key, value in lines.items()))
    say(*(f"equal     {case}" if not found[case] else f"differs   {found[case]}" for case in drawn))
    if not drawn:
        say("result    the store has no case")
    elif len(equal) == len(drawn):
        say(f"result    {plural(len(drawn), 'case')} computed, equal in every byte")
    else:
        say(f"result    {len(drawn) - len(equal)} of {plural(len(drawn), 'case')} not reproduced")
    return EXIT_DONE if len(equal) == len(drawn) else EXIT_SOME_FAILED


def machine_check(opened: LabelStore) -> str:
    """Return whether this machine gives the maps of the check case that a store's root tells of, in one line."""
    from geols_precompute.errors import MissingExtraError, RecipeError

    if CHECK not in opened.geols:
        return "not known, for the store says nothing of the check case"
    try:
        from geols_precompute.geodesic.jit import is_cached
        from geols_precompute.maps.check import check_sha256

        parameters = MapParameters.from_json(opened.recipe["maps"])
        if not is_cached("exact" if parameters.iterations == "exact" else "raster"):
            say("compiling kernels, once for this installation: about a minute")
        computed = check_sha256(parameters, len(opened.preprocessing.modalities))
    except RecipeError as error:
        return f"not known: {error}"
    except (MissingExtraError, ModuleNotFoundError):
        return 'not known, for it cannot compute them: pip install "geols[precompute]"'
    if computed == opened.geols[CHECK]:
        return "this machine reproduces the maps of this recipe (the check case is equal)"
    return (
        "this machine does not reproduce the maps of this recipe: the check case has "
        f"{computed[:12]}…, the store says {opened.geols[CHECK][:12]}…"
    )
