"""The commands geols-train and geols-predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from geols_precompute.atomic import remove_abandoned, writing_to
from geols_precompute.cli.command import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Command,
    CommandWithHeadings,
    numbers_hint,
)
from geols_precompute.cli.options import reports_errors, say
from geols_precompute.errors import GeolsError, InputError
from geols_precompute.formatting import plural, some
from geols_precompute.signals import Stopped
from geols_precompute.store.writer import refuse_store
from geols_train.config import OUTPUT, Option, Precision, TrainConfig, options, read_toml
from geols_train.table import results_table


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Counts in one word: `16,32,64,128`."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the counts."""
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form 16,32,64,128", param, ctx)


def settings_as_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting of `TrainConfig` that has a heading."""
    for name, option in reversed(options().items()):
        if option.heading:
            command = _flag(name, option)(command)
    return command


def _flag(name: str, option: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag, reads = name.replace("_", "-"), option.kind.flag
    if reads is bool:
        return click.option(f"--{flag}/--no-{flag}", default=None, help=f"{option.help}  [default: no-{flag}]")
    settings: dict[str, Any] = {"help": f"{option.help}  [default: {option.shown}]"}
    if isinstance(reads, tuple):
        settings |= {"type": click.Choice(reads)}
    elif reads == "counts":
        settings |= {"type": Counts()}
    elif reads == "size":
        settings |= {"type": int, "nargs": 3, "metavar": "Z Y X"}
    else:
        settings |= {"type": reads}
    return click.option(f"--{flag}", **settings)


def _headings() -> dict[str, str]:
    """Return the names of the flags under each heading."""
    names: dict[str, list[str]] = {}
    for name, option in options().items():
        if option.heading:
            names.setdefault(option.heading, []).append(name)
    names[OUTPUT] = ["out", "resume", *names[OUTPUT]]
    return {heading: " ".join(listed) for heading, listed in names.items()}


@click.command(
    cls=CommandWithHeadings, headings=_headings(), example="geols-train --alpha 0.1 --features 16,32,64,128 data/"
)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@settings_as_flags
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/DATA-LABELS-METHOD-α]")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Settings as TOML; flags override them.  [default: none]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the run folder.")
@reports_errors(extra="train")
def train(
    data: Path | None, out: Path | None, config_file: Path | None, resume: bool, debug: bool, **flags: Any
) -> int:
    """Train a 3D U-Net on the stores of DATA, keep its best epoch and test it.

    DATA is the folder given to geols-precompute (its stores are in DATA/geols), or the folder of the stores itself;
    the default is "data".

    Exit status: 0 done, 2 wrong usage, unreadable input or a training that cannot go on, 130 stopped, and it can go on.
    """
    if data is not None and not data.exists() and (hint := numbers_hint([str(data)], train)):
        raise InputError(f"{data} is no folder{hint}")
    from geols_train.folder import holds_run, require_free
    from geols_train.idle import refuse_idle
    from geols_train.run import resumed_config, run_name, train_and_test

    given = {name: value for name, value in {"data": data, **flags}.items() if value is not None}
    settings = read_toml(config_file) if config_file else {}
    if "crop" in given or "window" in given:
        # one takes the place of the other, whichever the file has
        settings = {name: value for name, value in settings.items() if name not in ("crop", "window")}
    settings |= given
    config = TrainConfig.from_mapping(settings)
    folder = out or Path("runs") / run_name(config)
    refuse_store(folder)
    if resume:
        config = resumed_config(folder, settings)
    else:
        require_free(folder)
    refuse_idle(given, config)
    try:
        summary = train_and_test(config, folder, resume=resume)
    except KeyboardInterrupt as request:
        if not holds_run(folder):
            said = "stopped, before anything was learnt"
        elif isinstance(request, Stopped):
            said = f"stopped, saved; go on with: geols-train --resume --out {folder}"
        else:
            said = f"stopped at once; go on from what was saved with: geols-train --resume --out {folder}"
        say(said, err=True)
        return EXIT_INTERRUPTED
    table = results_table(summary["structures"], summary["mean_foreground_dice"], summary["surface_tolerance_mm"])
    say(*table, f"run     {folder}")
    if config.eval == "crop":
        of_run = resumed_config(folder, {})  # with the size, which may come from the recipe or the volumes
        size = " ".join(map(str, of_run.window or of_run.crop or ()))
        say(f"note: --eval crop: measured on the centre of each volume only, {size} voxels; --eval whole takes all")
    if summary["tested_on"] == "validation":
        say("note: the split has no test cases: this is measured on those that chose the best epoch, and too good")
    return EXIT_DONE


@click.command(cls=Command, example="geols-predict runs/labels-geols-0.1 data/imagesTs -o predictions")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--probabilities", is_flag=True, help="Also write CASE_probabilities.nii.gz, a channel per class.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="auto",
    show_default=True,
    help="auto is bf16 on a GPU that has it.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for CASE.nii.gz.")
@reports_errors(extra="train")
def predict(run: Path, images: Path, probabilities: bool, device: str, precision: Any, out: Path, debug: bool) -> int:
    """Segment IMAGES with the best network of RUN; labels come back on each image's own grid.

    IMAGES is one image, a folder of images (CASE.nii.gz, or CASE_0000.nii.gz, CASE_0001.nii.gz, ... by modality), a
    data folder of a layout that geols-precompute knows, with or without labels, or a CSV manifest.

    Exit status: 0 all done, 1 some cases failed, 2 wrong usage or unreadable input.
    """
    from geols_precompute.progress import show_progress
    from geols_train.predict import Predictor, require_new_files

    refuse_store(out)
    predictor = Predictor.of_run(run, device=device, precision=precision)
    cases, problems = predictor.find(images, out, on_note=lambda note: say(f"note: {note}"))
    require_new_files(cases, out, probabilities=probabilities)
    with writing_to(out, "-o"):
        out.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out)
    failures = [(problem.case_id, problem.reason) for problem in problems]
    notes: dict[str, list[str]] = {}
    with show_progress(len(cases), "predictions") as ended:
        for case in cases:
            reason = ""
            of_case: list[str] = []
            try:
                predictor.predict(case, out, probabilities=probabilities, on_note=of_case.append)
            except Exception as error:  # whatever one image brings about, the others are predicted
                failures.append((case.id, reason := _reason(error)))
            for note in of_case:
                notes.setdefault(note, []).append(case.id)
            ended(case.id, reason)
    for note, noted in notes.items():
        say(f"note: {some(noted)}: {note}")
    for case_id, reason in failures:
        say(f"failed: {case_id}: {reason}", err=True)
    say(
        f"{plural(len(cases) + len(problems) - len(failures), 'case')} predicted, {len(failures)} failed",
        f"folder  {out}",
    )
    return EXIT_SOME_FAILED if failures else EXIT_DONE


def _reason(error: Exception) -> str:
    if isinstance(error, GeolsError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory: the image, or its grid after resampling, is too large for this machine"
    return f"unexpected {type(error).__name__}: {error}"
