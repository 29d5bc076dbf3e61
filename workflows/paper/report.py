"""Write the report of a study from what run.py left: the paper's tables and figures, with statistics.

    python workflows/paper/report.py workflows/paper/hippocampus.toml OUT -o docs/results/hippocampus
    python workflows/paper/report.py STUDY.toml REPORT --tables -o REPORT      # again, from the numbers it kept

Into the folder of -o go report.md with a CSV file per table and its pictures, report.html (one file that needs nothing
else), and, in runs/, what every training was and measured: configuration, printed output, summary, and a table of its
test cases. A study that is not finished is reported as far as it is, and what is missing is named.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from figures import draw_alpha, draw_closeup, draw_predictions, draw_reliability, find_ambiguous
from matrix import USUAL, Experiment, Study, Training, read_study, usual_training
from page import Block, Figure, Heading, write_html, write_markdown
from predictions import TrainedRun, open_run, reliability
from results import DSC, ECE, HD95, METRICS, Measured, Metric, read_measured
from tables import Row, differences_table, metrics_table, undefined_note

from geols_precompute.cli.command import EXIT_DONE
from geols_precompute.cli.options import reports_errors
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.formatting import plural
from geols_train.data import Sample
from geols_train.folder import CASES, CONFIG, SPLIT, SUMMARY, read_json
from geols_train.splits import read_split
from geols_train.stores import open_stores

#: What each method predicts of a case.
Predictions = dict[str, tuple[Sample, torch.Tensor]]

NAMES = {"ce": "CE", "ls": "LS", "fl": "FL", "svls": "SVLS", "geols": "GeoLS"}
METHODS, ALPHA = "methods", "alpha"
KEPT = (CONFIG, "output.txt", SUMMARY, CASES)
AMBIGUOUS_AMONG = 10
#: The pictures that need networks, and what they show.
CAPTIONS = {
    "closeup.png": "Soft labels around the border voxel (A) whose two nearest classes are most equally near, among "
    f"the first {AMBIGUOUS_AMONG} test cases; B is the voxel of its class deepest inside, in the same slice.",
    "predictions.png": "The test cases with the worst, the median and the best DSC over the repeats of the first "
    "method, as the networks of the first repeat see them.",
    "reliability.png": "Reliability of the winning class, all voxels of the test cases.",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Makes the blocks of a report.

    Attributes:
        study: what was run.
        out: the folder that run.py wrote.
        target: receives pictures.
        tables_only: read no network and no store; the pictures of before stay.
        patients: of each test case, where patients have several.
    """

    study: Study
    out: Path
    target: Path
    tables_only: bool
    patients: Mapping[str, str]

    @property
    def metrics(self) -> list[Metric]:
        """What the study reports.

        Raises:
            RecipeError: a metric is unknown.
        """
        if odd := [column for column in self.study.metrics if column not in METRICS]:
            raise RecipeError(f"the study reports {odd[0]!r}; a training measures {', '.join(METRICS)}")
        return [METRICS[column] for column in self.study.metrics]

    def blocks(self) -> Iterator[Block]:
        """Yield the report from top to bottom."""
        missing = [t for t in self.study.trainings() if not self.finished(t)]
        yield self.study.attribution
        yield (
            f"{plural(len(self.study.trainings()) - len(missing), 'training')} of {len(self.study.trainings())} are "
            f"finished{', missing: ' if missing else ''}{', '.join(str(t.folder) for t in missing)}. A cell gives the "
            "mean over test cases ± the standard deviation over repeats (where there are several) [95 % interval for "
            "other seeds and other cases]. The best mean is bold and the second underlined, whether or not the "
            "difference is beyond noise: for that, see the tables of differences, which are paired by seed and case. "
            "Intervals and p are of the two-way model of seeds and cases in workflows/paper/significance.py, p "
            "corrected by Holm over the table; a row reads as better or worse if the corrected p is below 0.05. SD is "
            f"surface Dice at {self.tolerance()}."
        )
        for experiment in self.study.experiments:
            yield from self.experiment(experiment)

    def experiment(self, experiment: Experiment) -> Iterator[Block]:
        """Yield the tables and figures of one experiment."""
        yield Heading(text=experiment.name.capitalize())
        rows = self.rows(experiment)
        if not rows:
            yield "Nothing is finished yet."
            return
        is_methods = experiment.name == METHODS
        yield metrics_table(
            experiment.name,
            f"{experiment.name.capitalize()}, {plural(len(rows[0][1].cases), 'test case')}, SD at {self.tolerance()}",
            rows,
            self.metrics,
            structures=is_methods,
        )
        if HD95 in self.metrics:
            yield undefined_note(rows)
        reference = next((row for row in rows if row[1].kind == usual_training().kind), rows[0])
        if len(rows) > 1:
            yield differences_table(
                f"{experiment.name}-differences",
                f"Differences from {reference[0]}, mean over structures, SD at {self.tolerance()}",
                rows,
                reference,
                # over all voxels it says little but α: a network that learns a soft label is as unsure as the label
                [metric for metric in self.metrics if metric != ECE],
            )
        if is_methods:
            yield from self.method_figures(experiment, rows[0][1])
        if experiment.name == ALPHA and all(set(varied) == {ALPHA} for varied, _ in experiment.varied):
            points = [(float(label), found) for label, found in rows]
            draw_alpha(self.target / "alpha.png", points, self.study.attribution)
            yield Figure(path=self.target / "alpha.png", caption="DSC and HD95 over α; α = 0 is cross-entropy.")

    def method_figures(self, experiment: Experiment, first_method: Measured) -> Iterator[Block]:
        """Yield the close-up of soft labels, predictions beside the reference, and the reliability diagram."""
        if self.tables_only:
            yield from (Figure(path=self.target / name, caption=caption) for name, caption in CAPTIONS.items())
            return
        stores = open_stores(self.out / "stores", str(USUAL["seeds"]), maps_needed=True)
        credit = self.study.attribution
        runs = {
            NAMES[varied["method"]]: open_run(self.out / "runs" / done[0].folder, self.out / "stores")
            for varied, trainings in experiment.varied
            if (done := list(filter(self.finished, trainings)))
        }
        first = next(iter(runs.values()))
        place = find_ambiguous(stores, first.cases[:AMBIGUOUS_AMONG])
        draw_closeup(self.target / "closeup.png", stores, place, USUAL["alpha"], credit)
        yield Figure(path=self.target / "closeup.png", caption=CAPTIONS["closeup.png"])
        names = [label.name for label in stores.classes]
        draw_predictions(self.target / "predictions.png", list(self.shown_cases(first_method, runs)), names, credit)
        yield Figure(path=self.target / "predictions.png", caption=CAPTIONS["predictions.png"])
        bins: dict[str, torch.Tensor] = {}
        for varied, trainings in experiment.varied:
            for training in filter(self.finished, trainings):
                found = reliability(open_run(self.out / "runs" / training.folder, self.out / "stores"))
                name = NAMES[varied["method"]]
                bins[name] = bins[name] + found if name in bins else found
        draw_reliability(self.target / "reliability.png", bins, credit)
        yield Figure(path=self.target / "reliability.png", caption=CAPTIONS["reliability.png"])

    def shown_cases(self, found: Measured, runs: dict[str, TrainedRun]) -> Iterator[tuple[str, Predictions]]:
        """Yield three test cases, and what each method predicts there."""
        scores = found.of(DSC).mean(axis=0)
        order = scores.argsort()
        for name, index in (("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])):
            case = found.cases[index]
            yield f"{name}: {case}", {method: run.predict(case) for method, run in runs.items()}

    def rows(self, experiment: Experiment) -> list[Row]:
        """Return the rows of an experiment that have finished trainings.

        Raises:
            InputError: two of them were tested on other cases.
        """
        rows: list[Row] = []
        for varied, trainings in experiment.varied:
            found = read_measured(self.out / "runs", trainings, self.study.structures, self.patients, self.metrics)
            if found is None:
                continue
            if rows and rows[0][1].cases != found.cases:
                raise InputError(
                    f"{found.kind} was tested on other cases than {rows[0][1].kind}: no comparison is fair"
                )
            rows.append((", ".join(NAMES.get(str(value), str(value)) for value in varied.values()), found))
        return rows

    def finished(self, training: Training) -> bool:
        """Whether a training has a summary."""
        return (self.out / "runs" / training.folder / SUMMARY).is_file()

    def tolerance(self) -> str:
        """Return at which tolerance the surface Dice of all trainings is.

        Raises:
            InputError: not all have the same.
        """
        summaries = [self.out / "runs" / t.folder / SUMMARY for t in self.study.trainings() if self.finished(t)]
        # runs of before it could be chosen say nothing, and had 2 mm
        found = sorted({float(read_json(path).get("surface_tolerance_mm", 2.0)) for path in summaries})
        if len(found) > 1:
            raise InputError(
                f"surface Dice is at {found[0]:g} mm in some trainings and at {found[1]:g} mm in others: train again "
                "with one --surface-tolerance"
            )
        return f"{found[0]:g} mm" if found else "no tolerance yet"

    def keep_runs(self) -> None:
        """Copy what every finished training was and measured, without the path of this machine."""
        for training in filter(self.finished, self.study.trainings()):
            source, copy = self.out / "runs" / training.folder, self.target / "runs" / training.folder
            copy.mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                (copy / name).write_text((source / name).read_text().replace(str(self.out.resolve()), "OUT"))
            shutil.copy(source / SPLIT, self.target / SPLIT)


def read_patients(study: Study, out: Path) -> Mapping[str, str]:
    """Return the patients of the cases, as the split of the study knows them."""
    places = [out / SPLIT, *(out / "runs" / training.folder / SPLIT for training in study.trainings())]
    return next((read_split(path).patients for path in places if path.is_file()), {})


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path), metavar="STUDY.toml")
@click.argument("out", type=click.Path(path_type=Path, exists=True), metavar="OUT")
@click.option("-o", "--report", "target", type=click.Path(path_type=Path), required=True, help="Folder of the report.")
@click.option("--title", help="Of the report, where the study's is not enough.")
@click.option("--tables", is_flag=True, help="Read no network and no store; pictures that need them stay as they are.")
@reports_errors(extra="all")
def main(study_file: Path, out: Path, target: Path, title: str | None, tables: bool, debug: bool) -> int:
    """Write the report of a study; see the top of this file."""
    study = read_study(study_file)
    target.mkdir(parents=True, exist_ok=True)
    report = Report(study=study, out=out, target=target, tables_only=tables, patients=read_patients(study, out))
    if target.resolve() != out.resolve():
        report.keep_runs()
    blocks: Sequence[Block] = list(report.blocks())
    write_markdown(target / "report.md", title or study.title, blocks)
    write_html(target / "report.html", title or study.title, blocks)
    click.echo(f"report  {target / 'report.md'}, {target / 'report.html'}")
    return EXIT_DONE


if __name__ == "__main__":
    main()
