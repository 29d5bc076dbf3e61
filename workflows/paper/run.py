"""Compute the label stores and train the networks of a study, by our own commands.

    python workflows/paper/run.py workflows/paper/hippocampus.toml --data DATA --out OUT
    python workflows/paper/run.py STUDY.toml --data DATA --out OUT --list                # what there is to do
    python workflows/paper/run.py STUDY.toml --data DATA --out OUT --part 3/16           # job 3 of 16
    python workflows/paper/run.py STUDY.toml --data DATA --out OUT -- --device cuda:1    # flags for geols-train

OUT/stores receives the stores, OUT/runs a folder per training, with what its command printed in output.txt. Run it
again after an interruption, or to repeat what failed: a finished training is skipped, one that was stopped goes on.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import click
from matrix import LabelStore, Study, Training, as_arguments, read_study, usual_training

from geols_precompute.cli.command import EXIT_DONE, EXIT_SOME_FAILED
from geols_precompute.cli.options import reports_errors
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.formatting import duration, plural
from geols_precompute.run.plan import Part
from geols_train.config import TrainConfig, read_toml
from geols_train.folder import CONFIG, SUMMARY, holds_run


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs the commands of a study.

    Attributes:
        study: what is run.
        data: folder of the data set.
        out: receives the folders stores and runs.
        extra: flags for every geols-train.
        threads: of every training.
    """

    study: Study
    data: Path
    out: Path
    extra: Sequence[str]
    threads: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def precompute_command(self, store: LabelStore) -> list[str]:
        """Return the command that computes a label store, or finds that nothing is missing in it."""
        flags = as_arguments({**self.study.precompute, **dict(store.flags), "name": store.name})
        return ["geols-precompute", *flags, "--out", str(self.out / "stores"), str(self.data)]

    def train_command(self, training: Training) -> list[str]:
        """Return the command that trains, or that goes on with what was begun."""
        flags = as_arguments({**self.study.train, **training.flags()})
        folder = self.folder(training)
        resume = ["--resume"] if holds_run(folder) else []
        return ["geols-train", *flags, *self.extra, *resume, "--out", str(folder), str(self.out / "stores")]

    def folder(self, training: Training) -> Path:
        """Return the run folder of a training."""
        return self.out / "runs" / training.folder

    def finished(self, training: Training) -> bool:
        """Whether a training is done.

        Raises:
            RecipeError: it was done with other settings than the study has now.
        """
        folder = self.folder(training)
        if not (folder / SUMMARY).is_file():
            return False
        wanted = {name.replace("-", "_"): value for name, value in {**self.study.train, **training.flags()}.items()}
        # what is given beside the study has the last word
        given = {word.removeprefix("--").partition("=")[0].replace("-", "_") for word in self.extra}
        done = TrainConfig.from_mapping(read_toml(folder / CONFIG))
        for name, value in wanted.items():
            if name not in given and as_text(getattr(done, name)) != as_text(value):
                raise RecipeError(
                    f"{folder} was trained with {name} {as_text(getattr(done, name))}, and the study now says "
                    f"{as_text(value)}; take another --out, or remove the folder"
                )
        return True

    def train(self, training: Training) -> int:
        """Run the command of a training; return its exit status."""
        folder = self.folder(training)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.txt").open("ab") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
            command = self.train_command(training)
            # a session of its own: Ctrl-C of a terminal would reach it twice, and twice means at once
            child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self.children.append(child)
            return child.wait()

    def stop(self) -> None:
        """Have the trainings under way save what they have, and wait for them."""
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            child.wait()


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path), metavar="STUDY.toml")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Receives stores and runs.")
@click.option("--part", "part_text", metavar="i/n", default="1/1", help="Every n-th training only, the i-th first.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings side by side.")
@click.option("--list", "list_only", is_flag=True, help="Print the commands and what is finished; run nothing.")
@click.argument("train_flags", nargs=-1, metavar="[-- FLAGS OF GEOLS-TRAIN]")
@reports_errors(extra="all")
def main(
    study_file: Path,
    data: Path,
    out: Path,
    part_text: str,
    jobs: int,
    list_only: bool,
    train_flags: tuple[str, ...],
    debug: bool,
) -> int:
    """Run a study; see the top of this file.

    Exit status: 0 all done, 1 some trainings failed, 2 wrong usage or a store that cannot be computed.
    """
    # a job that is ended by its queue stops its trainings as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    study, part = read_study(study_file), Part.parse(part_text)
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    runner = Runner(study=study, data=data, out=out, extra=train_flags, threads=threads)
    trainings = part.of(study.trainings())
    waiting = [training for training in trainings if not runner.finished(training)]
    # a store also brings the volumes, which methods without maps need as well
    usual = usual_training().labels
    stores = [store for store in dict.fromkeys(t.labels or usual for t in waiting) if store]
    if list_only:
        for store in stores:
            click.echo(shlex.join(runner.precompute_command(store)))
        for training in trainings:
            state = "waiting " if training in waiting else "finished"
            click.echo(f"{state} {shlex.join(runner.train_command(training))}")
        return EXIT_DONE
    if not data.is_dir():
        raise InputError(f"{data} is no folder. {study.title} is to be had as follows: {study.obtain.strip()}")
    click.echo(f"{plural(len(waiting), 'training')} to do, {len(trainings) - len(waiting)} finished before")
    if waiting:
        compute_stores(runner, stores)
    return EXIT_SOME_FAILED if train_all(runner, waiting, jobs) else EXIT_DONE


def compute_stores(runner: Runner, stores: Sequence[LabelStore]) -> None:
    """Compute what is missing in the label stores, one job of several at a time.

    Raises:
        InputError: a command fails.
    """
    runner.out.mkdir(parents=True, exist_ok=True)
    with (runner.out / "stores.lock").open("w") as lock:
        # a store that another job is about to complete must not be opened for training
        fcntl.flock(lock, fcntl.LOCK_EX)
        for store in stores:
            command = runner.precompute_command(store)
            click.echo(shlex.join(command))
            if subprocess.run(command, check=False).returncode:
                raise InputError(f"the store {store.name} could not be computed; see above. Nothing was trained")


def train_all(runner: Runner, trainings: Sequence[Training], jobs: int) -> list[Training]:
    """Train, `jobs` at a time; return what failed."""
    failed: list[Training] = []
    begin = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(runner.train, training): training for training in trainings}
        try:
            for number, done in enumerate(as_completed(running), start=1):
                training = running[done]
                if done.result():
                    failed.append(training)
                state = f"failed, see {runner.folder(training) / 'output.txt'}" if done.result() else "done"
                left = (time.monotonic() - begin) / number * (len(trainings) - number)
                click.echo(f"{training.folder}: {state}; {number} of {len(trainings)}, {duration(left)} left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
    return failed


def as_text(value: object) -> str:
    """Return a setting in one way of writing, whether it came from flags, from TOML, or from a configuration."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    main()
