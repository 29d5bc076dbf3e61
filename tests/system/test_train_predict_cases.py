"""Predicting a folder: what cannot be predicted costs itself only, and no image is ever replaced."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from datasets import ball_case, write

from geols_precompute.data.volumes import read_image
from geols_precompute.errors import OutputError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing
from geols_train import cli
from geols_train import predict as module
from geols_train.checkpoint import NetworkSpec, save_checkpoint
from geols_train.predict import Predictor, require_new_files

IMAGE = (np.random.default_rng(0).random((12, 14, 16)) * 1000).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    spec = NetworkSpec(
        features=(2, 4),
        classes=ClassTable.from_names({1: "a"}),
        preprocessing=Preprocessing(modalities=("mr",), spacing=(1.0, 1.0, 1.0)),
        skull_stripped=False,
        window=(8, 8, 8),
        overlap=0.5,
        regions={},
    )
    folder = tmp_path / "run"
    folder.mkdir()
    save_checkpoint(folder / "best.pt", spec, {"model": spec.network().state_dict()})
    return folder


def predict(run, images, out, *more):
    return CliRunner().invoke(cli.predict, [str(run), str(images), "-o", str(out), "--device", "cpu", *more])


def images(folder, *names):
    for name in names:
        write(IMAGE, folder / f"{name}.nii.gz")
    return folder


# --- one case costs itself only ---------------------------------------------------------------------------------------


def spacing_of_metres(path):
    write(IMAGE, path, spacing=(4000.0, 4000.0, 4000.0))


def a_damaged_file(path):
    path.write_bytes(b"x")


def a_folder_in_its_way(path):
    write(IMAGE, path)
    (path.parents[1] / "out" / path.name).mkdir(parents=True)


@pytest.mark.parametrize("make", [spacing_of_metres, a_damaged_file, a_folder_in_its_way])
def test_a_case_that_cannot_be_predicted_costs_that_case_only(run, tmp_path, make):
    folder = images(tmp_path / "images", "a", "z")
    make(folder / "m.nii.gz")
    result = predict(run, folder, tmp_path / "out")
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: m: ")
    assert "unexpected" not in line
    assert "2 cases predicted, 1 failed" in result.output
    for case in "az":
        found, _, _ = read_image(tmp_path / f"out/{case}.nii.gz")
        assert found.shape == (1, *IMAGE.shape)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "failed: m: out of memory: lower the size of the image"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory"), "failed: m: out of memory: lower"),
        (RuntimeError("Exception thrown: std::bad_alloc"), "failed: m: out of memory: lower the size"),
        (OSError(5, "Input/output error"), "failed: m: unexpected OSError: [Errno 5] Input/output error"),
    ],
)
def test_any_error_of_one_case(run, tmp_path, monkeypatch, error, said):
    read = module.read_volume

    def failing(paths, *args, **options):
        if paths[0].name.startswith("m"):
            raise error
        return read(paths, *args, **options)

    monkeypatch.setattr(module, "read_volume", failing)
    result = predict(run, images(tmp_path / "images", "a", "m", "z"), tmp_path / "out")
    assert result.exit_code == 1
    assert said in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "z.nii.gz"]


def test_an_image_larger_than_the_memory_is_refused_before_anything_is_allocated(run, tmp_path, monkeypatch):
    judge = Predictor.of_run(run, device="cpu")
    folder = images(tmp_path / "images", "a")
    (case,), _ = judge.find(folder)
    # one modality and two classes on the network's grid, two classes on the image's, each of 4 bytes
    needed = 4 * (1 + 2 + 2) * IMAGE.size
    monkeypatch.setattr(module, "free_memory", lambda: needed - 1)
    with pytest.raises(MemoryError, match=r"16 × 14 × 12 voxels and on the network's needs at least 53.8 kB, of 53.8"):
        judge.predict(case, tmp_path / "out")
    monkeypatch.setattr(module, "free_memory", lambda: needed)
    judge.predict(case, tmp_path / "out")


def test_a_real_image_that_does_not_fit(run, tmp_path):
    folder = images(tmp_path / "images", "a", "z")
    large = sitk.Image([600, 600, 600], sitk.sitkUInt8)
    sitk.WriteImage(large, str(folder / "m.nii.gz"), useCompression=True)
    code = "import sys; from geols_train.cli import predict; predict(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, run, folder, "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed:")]
    assert "out of memory" in line
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "z.nii.gz"]


# --- images are never replaced ----------------------------------------------------------------------------------------


def by_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "images")
    return tmp_path / "link", tmp_path / "images"


def into_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "images")
    return tmp_path / "images", tmp_path / "link"


def by_dots(tmp_path):
    return tmp_path / "images", tmp_path / "images/../images"


def by_a_manifest(tmp_path):
    (tmp_path / "list.csv").write_text("case,mr\na,images/a.nii.gz\n")
    return tmp_path / "list.csv", tmp_path / "images"


def by_a_manifest_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "images")
    (tmp_path / "list.csv").write_text("case,mr\na,link/a.nii.gz\n")
    return tmp_path / "list.csv", tmp_path / "images/../images"


def an_image_that_is_a_link(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.nii.gz").symlink_to(tmp_path / "images/a.nii.gz")
    (tmp_path / "list.csv").write_text("case,mr\na,other/a.nii.gz\n")
    return tmp_path / "list.csv", tmp_path / "images"


def an_image_itself(tmp_path):
    return tmp_path / "images/a.nii.gz", tmp_path / "images"


@pytest.mark.parametrize(
    "attempt",
    [
        by_a_link,
        into_a_link,
        by_dots,
        by_a_manifest,
        by_a_manifest_through_a_link,
        an_image_that_is_a_link,
        an_image_itself,
    ],
)
def test_a_prediction_never_replaces_an_image(run, tmp_path, attempt):
    folder = images(tmp_path / "images", "a")
    before = (folder / "a.nii.gz").read_bytes()
    inputs, out = attempt(tmp_path)
    result = predict(run, inputs, out)
    assert result.exit_code == 2, result.output
    assert (folder / "a.nii.gz").read_bytes() == before
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert "would replace the image" in line or "no image" in line
    assert not list(folder.glob(".tmp-*"))


def test_from_python_too(run, tmp_path):
    folder = images(tmp_path / "images", "a")
    judge = Predictor.of_run(run, device="cpu")
    (case,), _ = judge.find(folder)
    with pytest.raises(OutputError, match="would replace the image"):
        judge.predict(case, folder)


def test_probabilities_of_one_case_are_not_the_labels_of_another(run, tmp_path):
    folder = images(tmp_path / "images", "a", "a_probabilities")
    judge = Predictor.of_run(run, device="cpu")
    cases, _ = judge.find(folder)
    assert len(cases) == 2
    require_new_files(cases, tmp_path / "out", probabilities=False)
    with pytest.raises(OutputError, match="two cases would be written there"):
        require_new_files(cases, tmp_path / "out", probabilities=True)


def test_predictions_of_an_earlier_run_are_replaced_but_no_inputs(run, tmp_path):
    folder = images(tmp_path / "images", "a")
    for _ in range(2):
        result = predict(run, folder, folder / "out")
        assert result.exit_code == 0, result.output
        assert "1 case predicted, 0 failed" in result.output


def test_predictions_do_not_go_among_the_images(run, tmp_path):
    folder = images(tmp_path / "images", "a_0000")
    result = predict(run, folder / "a_0000.nii.gz", folder)
    assert result.exit_code == 2
    assert f"-o {folder} is the folder of the images" in result.output
    assert [path.name for path in folder.iterdir()] == ["a_0000.nii.gz"]


def test_one_note_of_many_images_is_said_once(run, tmp_path):
    folder = tmp_path / "labels"
    for case in "abcdefg":
        write(ball_case(0)[1], folder / f"{case}.nii.gz")
    result = predict(run, folder, tmp_path / "out")
    assert result.output.count("is this a label map?") == 1
    assert "note: a, b, c, d, e, ...: is this a label map? Its only values are 0, 1, 2\n" in result.output


def test_a_prediction_is_synced_before_it_takes_its_name(run, tmp_path, monkeypatch):
    from geols_precompute.data.formats import nifti

    synced, path = [], tmp_path / "out/a.nii.gz"
    monkeypatch.setattr(nifti, "sync", lambda what: synced.append((what.is_dir(), path.exists())))
    assert predict(run, images(tmp_path / "images", "a"), tmp_path / "out").exit_code == 0
    assert synced == [(False, False), (True, True)]
