"""The paper's studies: their matrices, the runner on a tiny data set by the real commands, and the report of it."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from geols_precompute.cli import precompute as precompute_cli
from geols_train import cli as train_cli

PAPER = Path(__file__).parents[2] / "workflows/paper"
sys.path.insert(0, str(PAPER))

from matrix import as_arguments, read_study  # noqa: E402

STUDIES = sorted(PAPER.glob("*.toml"))
TINY = """
title = "Balls"
attribution = "Nobody's images."
obtain = "Make balls yourself."
structures = ["organ1", "organ2"]
repeats = 2

[precompute]

[train]
split = "4,2,2"
features = "4,8"
epochs = 2
lr = 1e-2
batch-size = 2

[[experiments]]
name = "methods"
method = ["ce", "geols"]

[[experiments]]
name = "alpha"
alpha = [0, 0.1]
"""


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_key_of_a_study_is_a_flag_of_the_command(path):
    study = read_study(path)
    known = {
        name: {o for p in c.params for o in p.opts}
        for name, c in (("train", train_cli.train), ("precompute", precompute_cli.precompute))
    }
    for training in study.trainings():
        assert {f"--{key}" for key in {**study.train, **training.flags()}} <= known["train"]
        if training.labels:
            assert {f"--{key}" for key in {**study.precompute, **dict(training.labels.flags)}} <= known["precompute"]


def test_the_studies_are_the_papers_protocol():
    studies = {path.stem: read_study(path) for path in STUDIES}
    assert set(studies) == {"brats2019", "flare2021", "hippocampus"}
    assert studies["brats2019"].train["split"] == "235,32,68"
    assert studies["flare2021"].train["split"] == "260,26,75"
    assert set(studies["brats2019"].structures) == {"ET", "WT", "TC"}
    # the paper's settings are the trainer's defaults, and stay away from the files
    assert set(studies["brats2019"].train) == set(studies["flare2021"].train) == {"split", "eval"}


def test_equal_trainings_are_done_once_and_first_repeats_first():
    study = read_study(PAPER / "hippocampus.toml")
    trainings = study.trainings()
    # 5 methods, 3 more α (0 is CE), 4 more seed strategies, converged distances, maps that are not normalised
    assert len(trainings) == len({t.folder for t in trainings}) == 3 * (5 + 3 + 4 + 1 + 1)
    assert [t.repeat for t in trainings] == sorted(t.repeat for t in trainings)
    by_name = {e.name: e for e in study.experiments}
    kinds = {name: [ts[0].kind for _, ts in e.varied] for name, e in by_name.items()}
    assert kinds["alpha"][0] == "ce"
    assert kinds["iterations"] == ["geols-0.1-skeleton", "geols-0.1-skeleton-iterations-exact"]
    assert kinds["normalize"] == ["geols-0.1-skeleton", "geols-0.1-skeleton-none"]
    assert len({t.flags()["random-seed"] for t in trainings}) == 3
    assert as_arguments({"intensity": True, "compile": False}) == ["--intensity", "--no-compile"]
    assert as_arguments({"crop": [1, 2, 3], "lr": 1e-3}) == ["--crop", "1", "2", "3", "--lr", "0.001"]


def script(name, *arguments, **options):
    command = [sys.executable, str(PAPER / name), *map(str, arguments)]
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=path, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study: its file, its data, its output, and what the runner printed."""
    from datasets import ball_case, write

    root = tmp_path_factory.mktemp("study")
    for number in range(8):
        image, label = ball_case(number)
        write(image[0].astype(np.int16), root / f"data/imagesTr/case_{number:02d}_0000.nii.gz")
        write(label, root / f"data/labelsTr/case_{number:02d}.nii.gz")
    description = {
        "channel_names": {"0": "m0"},
        "labels": {"background": 0, "organ1": 1, "organ2": 2},
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    (root / "data/dataset.json").write_text(json.dumps(description))
    study = root / "balls.toml"
    study.write_text(TINY)
    run = script("run.py", study, "--data", root / "data", "--out", root / "out", "--jobs", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    return study, root / "data", root / "out", run.stdout


def test_the_runner_trains_everything_once(done):
    study, data, out, printed = done
    assert "4 trainings to do, 0 finished before" in printed
    assert printed.count("geols-precompute") == 1
    found = sorted(str(p.parent.relative_to(out / "runs")) for p in out.glob("runs/*/*/summary.json"))
    assert found == [f"{kind}/repeat-{n}" for kind in ("ce", "geols-0.1-skeleton") for n in (1, 2)]
    assert "epoch 2 of 2" in (out / "runs/ce/repeat-1/output.txt").read_text()
    again = script("run.py", study, "--data", data, "--out", out)
    assert again.returncode == 0
    assert "0 trainings to do, 4 finished before" in again.stdout
    # a flag that is given beside the study does not make it another one
    flagged = script("run.py", study, "--data", data, "--out", out, "--list", "--", "--epochs", "3")
    assert flagged.stdout.count("finished geols-train") == 4, flagged.stderr
    listed = script("run.py", study, "--data", data, "--out", out, "--part", "2/2", "--list").stdout
    assert listed.count("finished geols-train") == 2


def test_a_study_that_changed_is_not_mixed_with_what_was_done(done, tmp_path):
    _study, data, out, _ = done
    changed = tmp_path / "changed.toml"
    changed.write_text(TINY.replace("epochs = 2", "epochs = 3"))
    refused = script("run.py", changed, "--data", data, "--out", out)
    assert refused.returncode == 2
    assert "was trained with epochs 2, and the study now says 3" in refused.stderr


def test_a_data_set_that_is_not_there_is_explained(done, tmp_path):
    refused = script("run.py", done[0], "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert "Balls is to be had as follows: Make balls yourself." in refused.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TINY.replace("repeats = 2", ""), "missing key 'repeats'"),
        (TINY + "\n[more]\n", "unknown key 'more'"),
        (TINY.replace('["ce", "geols"]', '"ce"'), "lists of what is varied"),
        (TINY.replace('["ce", "geols"]', "[[1, 2]]"), "lists of what is varied"),
        (TINY.replace("[precompute]", "[precompute]\nalpha = 1"), "'alpha' is varied in an experiment"),
        ("title = ", "cannot be read as TOML"),
    ],
)
def test_a_study_with_a_mistake_is_refused(tmp_path, text, message):
    (tmp_path / "study.toml").write_text(text)
    refused = script("run.py", tmp_path / "study.toml", "--data", tmp_path, "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert message in refused.stderr


def test_a_failed_training_is_named_and_the_others_go_on(done, tmp_path):
    _, data, _, _ = done
    study = tmp_path / "study.toml"
    study.write_text(TINY.replace("repeats = 2", "repeats = 1"))
    out = tmp_path / "out"
    (out / "runs/ce/repeat-1").mkdir(parents=True)
    (out / "runs/ce/repeat-1/last.pt").write_bytes(b"damaged")
    run = script("run.py", study, "--data", data, "--out", out)
    assert run.returncode == 1
    assert re.search(r"ce/repeat-1: failed, see .*output\.txt", run.stdout)
    assert "geols-0.1-skeleton/repeat-1: done" in run.stdout


def test_jobs_that_start_together_do_not_disturb_each_other(done, tmp_path):
    _, data, _, _ = done
    study = tmp_path / "study.toml"
    study.write_text(TINY.replace("repeats = 2", "repeats = 1"))
    command = [sys.executable, str(PAPER / "run.py"), str(study), "--data", str(data), "--out", str(tmp_path / "out")]
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    jobs = [subprocess.Popen([*command, "--part", f"{n}/2"], env=path, stdout=subprocess.PIPE) for n in (1, 2)]
    printed = [job.communicate(timeout=200)[0].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], printed
    assert len(list((tmp_path / "out/runs").glob("*/*/summary.json"))) == 2
    # one of them computed the store, the other found it whole
    assert sorted(re.findall(r"(\d) cases computed, \d unchanged", "".join(printed))) == ["0", "8"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_study_goes_on(done, tmp_path, number):
    _study, data, _finished, _ = done
    longer = tmp_path / "longer.toml"
    longer.write_text(TINY.replace("epochs = 2", "epochs = 4000").replace("repeats = 2", "repeats = 1"))
    out = tmp_path / "out"
    command = [sys.executable, str(PAPER / "run.py"), str(longer), "--data", str(data), "--out", str(out)]
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    log = out / "runs/ce/repeat-1/log.jsonl"
    with subprocess.Popen(command, env=path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not log.exists() or log.read_text().count("epoch") < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert (log.parent / "last.pt").exists()
    assert not (log.parent / "summary.json").exists()
    listed = script("run.py", longer, "--data", data, "--out", out, "--list").stdout
    assert re.search(r"waiting +geols-train .*--method ce .*--resume", listed)


def test_the_report_says_what_was_measured(done, tmp_path):
    study, _data, out, _ = done
    report = tmp_path / "report"
    run = script("report.py", study, out, "-o", report)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("closeup", "predictions", "reliability", "alpha"):
        assert (report / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text, page = (report / "report.md").read_text(), (report / "report.html").read_text()
    assert "4 trainings of 4 are finished." in text
    assert "Nobody's images." in text
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 4
    # two repeats of two cases carry no claim
    assert text.count("within noise") == 6
    assert not re.search(r"\| (better|worse) \|", text)
    # the mean of a table, from the runs' own tables by other means
    with (report / "methods.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r[""] == "GeoLS")
    rows = [
        r
        for n in (1, 2)
        for r in csv.DictReader((out / f"runs/geols-0.1-skeleton/repeat-{n}/test_cases.csv").read_text().splitlines())
    ]
    dice = [100 * float(r["dice"]) for r in rows if r["structure"] == "organ2"]
    assert float(row["DSC organ2 (%) mean"]) == pytest.approx(np.mean(dice))
    assert float(row["ECE (%) mean"]) == pytest.approx(np.mean([100 * float(r["ece"]) for r in rows]))
    # what is kept of a run names no folder of this machine
    kept = [p for p in (report / "runs").rglob("*") if p.is_file()]
    assert len(kept) == 4 * 4
    assert not any(str(out) in p.read_text() for p in kept)
    assert json.loads((report / "split.json").read_text()).keys() == {"train", "validation", "test"}


def test_tables_are_made_again_from_what_a_report_kept(done, tmp_path):
    study, _data, out, _ = done
    report = tmp_path / "report"
    assert script("report.py", study, out, "-o", report).returncode == 0
    before = {path.name: path.read_bytes() for path in report.glob("*.*")}
    (report / "report.md").unlink()
    (report / "methods-differences.csv").unlink()
    again = script("report.py", study, report, "--tables", "-o", report)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path.name: path.read_bytes() for path in report.glob("*.*")} == before


def test_kinds_are_compared_in_one_table_of_the_metrics_that_are_asked_for(done, tmp_path):
    _study, _data, out, _ = done
    study = tmp_path / "kinds.toml"
    kinds = '[[experiments]]\nname = "kinds"\nkinds = [{ name = "one-hot", method = "ce" }, { name = "soft" }]\n'
    chosen = 'repeats = 2\nmetrics = ["dice", "nll_border", "ece"]\n'
    study.write_text(TINY[: TINY.index("[[experiments]]")].replace("repeats = 2\n", chosen) + kinds)
    run = script("report.py", study, out, "--tables", "--title", "Two kinds", "-o", tmp_path / "report")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "report/report.md").read_text().startswith("# Two kinds\n")
    with (tmp_path / "report/kinds.csv").open() as file:
        header, *rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["one-hot", "soft"]
    tables = [out / f"runs/ce/repeat-{n}/test_cases.csv" for n in (1, 2)]
    found = [float(r["nll_border"]) for path in tables for r in csv.DictReader(path.read_text().splitlines())]
    assert float(rows[0][header.index("NLL, border (nat) mean")]) == pytest.approx(np.mean(found))
    with (tmp_path / "report/kinds-differences.csv").open() as file:
        # the calibration error over all voxels is shown, and not tested
        tested = [(row["less soft"], row["metric"]) for row in csv.DictReader(file)]
    assert tested == [("one-hot", "DSC (%)"), ("one-hot", "NLL, border (nat)")]
    study.write_text(study.read_text().replace("nll_border", "nll_nowhere"))
    refused = script("report.py", study, out, "--tables", "-o", tmp_path / "report")
    assert refused.returncode == 2
    assert "the study reports 'nll_nowhere'; a training measures dice, surface_dice, " in refused.stderr


def test_an_unfinished_study_is_reported_as_far_as_it_is(done, tmp_path):
    _study, _, out, _ = done
    wider = tmp_path / "wider.toml"
    wider.write_text(
        TINY.replace("[0, 0.1]", "[0, 0.1, 0.2]") + '\n[[experiments]]\nname = "more"\nseeds = ["erosion"]\n'
    )
    run = script("report.py", wider, out, "-o", tmp_path / "report")
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "report/report.md").read_text()
    assert "missing: geols-0.2-skeleton/repeat-1, geols-0.1-erosion/repeat-1" in text
    assert "Nothing is finished yet." in text
