"""Do soft labels know where raters disagree? Stores, a fitted recipe, and the test, by our own commands.

    python workflows/raters/study.py run DATA --classes 1=nodule --group DATA/cases.json -o OUT

`run` is `prepare`, which computes the stores and chooses a recipe on one half of the patients, and `test`, which scores
all soft labels on the other. Both go on where they were stopped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

RATER = "1"
FITTED = "fitted.toml"
_PILOT = "--seeds erosion --background seeds --metric riemannian --iterations exact --decay 0.3"
#: Label stores by name, and the flags that make them; the fitted ones follow.
STORES = {
    "default": "",
    "paper": "--preset paper --background seeds",
    "pilot": f"{_PILOT} --gamma 0.02",
    "pilot-no-image": f"{_PILOT} --gamma 0",
}
SIGMAS = ("0.5", "0.75", "1", "2")
_DATA = click.argument("data", type=click.Path(exists=True, path_type=Path))
_GROUP = click.option("--group", required=True, type=click.Path(exists=True, path_type=Path), help="Case to patient.")
_OUT = click.option("-o", "--out", required=True, type=click.Path(path_type=Path))


@click.group()
def study() -> None:
    """Soft labels against raters."""


@study.command()
@_DATA
@click.option("--classes", required=True, help="Names of the label values: 1=nodule.")
@_GROUP
@_OUT
def prepare(data: Path, classes: str, group: Path, out: Path) -> None:
    """Compute the stores, choose a recipe on the fit half, and compute its store; the test half is not scored."""
    for name, flags in STORES.items():
        _precompute(data, classes, out, name, flags.split())
    fitted = out / FITTED
    _run("geols-store", "fit", out / "volumes.zarr", "--group", group, "-o", fitted)
    _precompute(data, classes, out, "fitted", ["--recipe", str(fitted)])
    _precompute(
        data, classes, out, "fitted-no-image", ["--recipe", str(fitted), "--metric", "riemannian", "--gamma", "0"]
    )


@study.command()
@_DATA
@_GROUP
@_OUT
def test(data: Path, group: Path, out: Path) -> None:
    """Score every soft label on the test half, at α = 0.1 and at the α that the fit found best."""
    stores = [out / f"{name}.zarr" for name in (*STORES, "fitted", "fitted-no-image")]
    sigmas = [flag for sigma in SIGMAS for flag in ("--sigma", sigma)]
    found = re.search(r"best at alpha (\S+);", (out / FITTED).read_text())
    assert found is not None, f"{out / FITTED} names no alpha: run prepare"
    for alpha, folder in (("0.1", "agreement"), (found[1], "agreement-own-alpha")):
        _run("geols-store", "agreement", *stores, "--group", group, *sigmas, "--alpha", alpha, "-o", out / folder)


@study.command()
@_DATA
@click.option("--classes", required=True, help="Names of the label values: 1=nodule.")
@_GROUP
@_OUT
@click.pass_context
def run(context: click.Context, data: Path, classes: str, group: Path, out: Path) -> None:
    """Do all of it."""
    context.invoke(prepare, data=data, classes=classes, group=group, out=out)
    context.invoke(test, data=data, group=group, out=out)


def _precompute(data: Path, classes: str, out: Path, name: str, flags: Sequence[str]) -> None:
    raters = ("--classes", classes, "--rater", RATER, "--keep-raters")
    _run("geols-precompute", data, *raters, "--out", out, "--name", name, *flags)


def _run(*command: object) -> None:
    """Run a command of ours, of this installation, and end with its status if it failed."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    status = subprocess.run(words, check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    study()
