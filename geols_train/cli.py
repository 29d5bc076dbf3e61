"""The commands geols-train and geols-predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from geols_precompute.cli.options import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    CommandWithHeadings,
    reports_errors,
)
from geols_precompute.errors import InputError
from geols_precompute.softlabel import Method
from geols_train.interrupt import Stopped


class Features(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Channels per level: `16,32,64,128`."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the counts."""
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form 16,32,64,128", param, ctx)


HEADINGS = {
    "Method": "method alpha normalize focal_gamma dice_weight",
    "Data and split": "labels split split_seed",
    "Optimisation": "epochs batch_size accumulate lr weight_decay schedule repeats random_seed",
    "Network and size": "features crop window",
    "Augmentation": "augment flip_axes intensity",
    "Evaluation": "eval overlap",
    "Where it runs": "device precision workers cache compile channels_last",
    "Output": "out resume tensorboard profile",
}


@click.command(cls=CommandWithHeadings, headings=HEADINGS, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--method", type=click.Choice(get_args(Method)), help="Target and loss.  [default: geols]")
@click.option("--alpha", type=float, help="Share of the smooth term, 0 to 1 (geols, ls).  [default: 0.1]")
@click.option("--normalize", type=click.Choice(["sum", "none"]), help="Of the maps over the classes.  [default: sum]")
@click.option("--focal-gamma", type=float, help="γ of fl, no unit.  [default: 3]")
@click.option("--dice-weight", type=float, help="Weight of a Dice term for soft targets.  [default: 0]")
@click.option("--labels", help="Label store beside the volumes, by name, or by path.  [default: labels]")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/ and what sets it apart]")
@click.option("--epochs", type=int, help="Passes over the training cases.  [default: 200]")
@click.option("--batch-size", type=int, help="Windows per batch, of all processes together.  [default: 4]")
@click.option("--accumulate", type=int, help="Batches per step of the optimiser.  [default: 1]")
@click.option("--lr", type=float, help="Learning rate of Adam at the start.  [default: 1e-4]")
@click.option("--weight-decay", type=float, help="Of Adam.  [default: 1e-4]")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "poly"]),
    help="Of the learning rate; poly ends at 0.  [default: constant]",
)
@click.option(
    "--crop", type=int, nargs=3, metavar="Z Y X", help="Centre crop in voxels.  [default: the recipe's, or median size]"
)
@click.option(
    "--window", type=int, nargs=3, metavar="Z Y X",
    help="Random windows in voxels, in place of the centre crop.  [default: none]",
)  # fmt: skip
@click.option("--features", type=Features(), help="Channels per level.  [default: 16,32,64,128,256,512]")
@click.option(
    "--augment", type=click.Choice(["paper", "flips", "none"]),
    help="paper transposes and flips half of the batches.  [default: paper]",
)  # fmt: skip
@click.option("--flip-axes", help="Of --augment flips: some of z, y and x.  [default: zyx]")
@click.option(
    "--intensity/--no-intensity", default=None,
    help="Also vary noise, brightness, contrast and gamma.  [default: no-intensity]",
)  # fmt: skip
@click.option("--split", help="TRAIN,VALIDATION,TEST in cases or fractions, or a file.  [default: 0.7,0.1,0.2]")
@click.option("--split-seed", type=int, help="Of a drawn split.  [default: 0]")
@click.option("--repeats", type=int, help="Trainings with different seeds, for mean ± std.  [default: 1]")
@click.option("--random-seed", type=int, help="Of weights, order, windows and augmentation.  [default: 0]")
@click.option("--eval", type=click.Choice(["whole", "crop"]), help="What is evaluated of a volume.  [default: whole]")
@click.option(
    "--overlap", type=float, help="Share of a window that its neighbour has too, 0 to below 1.  [default: 0.5]"
)
@click.option(
    "--cache", type=click.Choice(["none", "ram", "device"]), help="Where to keep training cases.  [default: none]"
)
@click.option("--workers", type=int, help="Processes that load batches.  [default: 4, or 0 on a CPU]")
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "float32"]),
    help="auto is bf16 where the hardware has it.  [default: auto]",
)  # fmt: skip
@click.option(
    "--compile/--no-compile", default=None, help="Run the network through torch.compile.  [default: no-compile]"
)
@click.option(
    "--channels-last/--no-channels-last", default=None,
    help="The memory format of the network, to try on a GPU together with --compile.  [default: no-channels-last]",
)  # fmt: skip
@click.option(
    "--tensorboard/--no-tensorboard", default=None, help="Also write TensorBoard files.  [default: no-tensorboard]"
)
@click.option(
    "--profile/--no-profile", default=None, help="Print where the time of the steps went.  [default: no-profile]"
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path),
    help="Settings as TOML; flags override them.  [default: none]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the run in the run folder.")
@reports_errors(extra="train")
def train(out: Path | None, config_file: Path | None, resume: bool, debug: bool, **flags: Any) -> int:
    """Train a 3D U-Net on the stores of DATA, keep its best epoch and test it.

    DATA is the folder given to geols-precompute (its stores are in DATA/geols), or the folder of the stores itself;
    the default is "data".

    Exit status: 0 done, 2 wrong usage, unreadable input or a training that cannot go on, 130 stopped, and it can go on.
    """
    from geols_train.config import TrainConfig, read_toml
    from geols_train.run import holds_run, resumed_config, train_and_test

    given = {name: value for name, value in flags.items() if value is not None}
    settings = read_toml(config_file) if config_file else {}
    if "crop" in given or "window" in given:
        # one takes the place of the other, whichever the file has
        settings = {name: value for name, value in settings.items() if name not in ("crop", "window")}
    settings |= given
    config = TrainConfig.from_mapping(settings)
    folder = out or Path("runs") / config.run_name
    if resume:
        config = resumed_config(folder, settings)
    elif holds_run(folder):
        raise InputError(f"{folder} holds a run already; go on with --resume, or name another folder with --out")
    try:
        summary = train_and_test(config, folder, resume=resume)
    except KeyboardInterrupt as request:
        if not holds_run(folder):
            said = "stopped, before anything was learnt"
        elif isinstance(request, Stopped):
            said = f"stopped, saved; go on with: geols-train --resume --out {folder}"
        else:
            said = f"stopped at once; go on from what was saved with: geols-train --resume --out {folder}"
        click.echo(said, err=True)
        return EXIT_INTERRUPTED
    click.echo(f"{summary_table(summary)}\nrun     {folder}")
    return EXIT_DONE


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--probabilities", is_flag=True, help="Also write CASE_probabilities.nii.gz, a channel per class.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True,
    help="auto is bf16 where the hardware has it.",
)  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for CASE.nii.gz.")
@reports_errors(extra="train")
def predict(run: Path, images: Path, probabilities: bool, device: str, precision: Any, out: Path, debug: bool) -> int:
    """Segment IMAGES with the best network of RUN; labels come back on each image's own grid.

    IMAGES is one image, a folder of images (CASE.nii.gz, or CASE_0000.nii.gz, CASE_0001.nii.gz, ... by modality), a
    data folder of a layout that geols-precompute knows, with or without labels, or a CSV manifest.

    Exit status: 0 all done, 1 some cases failed, 2 wrong usage or unreadable input.
    """
    from geols_precompute.progress import show_progress
    from geols_train.predict import Predictor

    predictor = Predictor.of_run(run, device=device, precision=precision)
    cases, problems = predictor.find(images, out)
    failures = [(problem.case_id, problem.reason) for problem in problems]
    with show_progress(len(cases), "predictions") as advance:
        for case in cases:
            try:
                predictor.predict(case, out, probabilities=probabilities)
                advance()
            except InputError as error:
                failures.append((case.id, str(error)))
                advance(failed=True)
    for case_id, reason in failures:
        click.echo(f"failed: {case_id}: {reason}", err=True)
    click.echo(f"{len(cases) + len(problems) - len(failures)} cases predicted, {len(failures)} failed\nfolder  {out}")
    return EXIT_SOME_FAILED if failures else EXIT_DONE


def summary_table(summary: Mapping[str, Any]) -> str:
    """Return a summary as a table for a terminal, a structure per line."""
    rows = [("", "Dice", "surface Dice 2 mm", "HD95 mm")]
    for name, found in summary["structures"].items():
        rows.append((name, *(_number(found[key]) for key in ("dice", "surface_dice", "hd95_mm"))))
    rows.append(("mean foreground", _number(summary["mean_foreground_dice"]), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['mean']:.4f} ± {value['std']:.4f}"
    return "-" if value is None else f"{value:.4f}"
