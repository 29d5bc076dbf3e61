"""The commands as a user types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import digest, error_line, precompute, store
from datasets import ball_case, write

import geols_precompute
from geols_precompute.cli import precompute as cli
from geols_precompute.cli import store as store_cli


def test_the_two_commands_of_the_readme_work_as_written(nnunet, tmp_path, monkeypatch):
    nnunet("data")
    monkeypatch.chdir(tmp_path)
    result = precompute("--seeds", "skeleton", "data/")
    assert result.exit_code == 0, result.output
    assert Path("data/geols/labels.zarr/manifest.json").exists()
    assert "3 cases computed, 0 unchanged, 0 failed" in result.output
    assert digest(precompute()) == digest(result)


def test_workers_0_1_and_2_end_with_one_digest(nnunet, tmp_path):
    root = nnunet(cases=5)
    digests = set()
    for workers in (0, 1, 2):
        command = [
            sys.executable,
            "-m",
            "geols_precompute",
            "--workers",
            str(workers),
            "--out",
            tmp_path / f"o{workers}",
        ]
        done = subprocess.run([*command, root], capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        digests.add(re.search(r"digest  ([0-9a-f]{64})", done.stdout)[1])
    assert len(digests) == 1


def test_failures_exit_with_1_and_are_named(nnunet, tmp_path):
    root = nnunet()
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    result = precompute(root)
    assert result.exit_code == 1
    assert "failed: case_01:" in result.output
    assert "2 cases computed, 0 unchanged, 1 failed" in result.output
    assert json.loads((root / "geols/failures.jsonl").read_text())["case"] == "case_01"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--seeds", "skeletons"], "--seeds must be one of"),
        (["--preset", "best"], "--preset must be one of default, code, paper"),
        (["--iterations", "many"], "neither a number nor exact"),
        (["--iterations", "0"], "--iterations must be"),
        (["--lam", "2"], "--lam must be in"),
        (["--classes", "liver=1"], "is not of the form 1=liver"),
        (["--classes", "1=a,1=b"], "names a value twice"),
        (["--recipe", "none"], "no recipe 'none'"),
        (["--clip", "99", "1"], "--clip must be"),
        (["--name", "../x"], "--name"),
        (["--name", "volumes"], "--name"),
        (["--modalities", "t9"], "choose average, joint, or one of m0"),
        (["--workers", "-1"], "--workers"),
        (["--gamma", "2"], "--gamma belongs to --metric riemannian"),
        (["--gamma", "1e9"], "--gamma must be"),
        (["--lam", "1", "--metric", "riemannian"], "--lam belongs to --metric gradient"),
        (["--iterations", "9999999999"], "--iterations must be"),
        (["--engine", "geodistk", "--metric", "riemannian"], "geodistk"),
        (["--decay", "0"], "decay"),
        (["--dry-run", "--scheduler", "tcp://localhost:1"], "--workers belongs to a cluster on this machine"),
        (["--preview", "case_00", "--workers", "2"], "computes one case, here and now: leave out --workers"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(nnunet, args, says):
    result = precompute(*args, nnunet())
    assert result.exit_code == 2
    assert says in error_line(result)


def test_a_folder_of_no_known_layout_and_one_that_is_not_there(tmp_path):
    result = precompute(tmp_path)
    assert result.exit_code == 2
    assert "no known layout" in error_line(result)
    assert "does not exist" in error_line(precompute(tmp_path / "none"))


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in precompute("--debug", tmp_path).output


def test_debug_shows_where_a_case_failed(nnunet):
    root = nnunet()
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    assert "Traceback" not in precompute("--out", root / "o", root).output
    result = precompute("--debug", "--out", root / "o", root)
    assert result.exit_code == 1
    assert "Traceback" in result.output
    assert "in read_source" in result.output
    assert "failed: case_01:" in result.output


@pytest.mark.parametrize("command", [cli.precompute, store_cli.store])
def test_every_command_tells_its_version(command):
    result = CliRunner().invoke(command, ["--version"])
    assert (result.exit_code, result.output) == (0, f"geols {geols_precompute.__version__}\n")


def test_a_refused_run_takes_nothing_out_of_the_stores(nnunet):
    data = nnunet(cases=3)
    assert precompute(data).exit_code == 0
    # in another place every file is new, and would be looked at again
    moved = data.rename(data.with_name("moved"))
    manifests = {p: p.read_bytes() for p in moved.rglob("manifest.json")}
    refused = precompute("--seeds", "erosion", moved)
    assert refused.exit_code == 2
    assert len(manifests) == 2
    assert {p: p.read_bytes() for p in moved.rglob("manifest.json")} == manifests


def test_an_output_of_another_recipe_is_refused_and_another_name_helps(nnunet):
    root = nnunet()
    assert precompute(root).exit_code == 0
    result = precompute("--seeds", "erosion", "--iterations", "8", root)
    assert result.exit_code == 2
    line = error_line(result)
    assert "maps.iterations: 8, store has 4" in line
    assert 'maps.seeds: "erosion", store has "skeleton"' in line
    assert "--name" in line
    assert precompute("--seeds", "erosion", "--iterations", "8", "--name", "erosion", root).exit_code == 0
    assert (root / "geols/erosion.zarr").is_dir()


def test_read_only_data_names_out(nnunet):
    root = Path(tempfile.mkdtemp())
    shutil.copytree(nnunet(), root, dirs_exist_ok=True)
    root.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)  # nobody: root may write anywhere
        result = precompute(root)
    finally:
        if is_root:
            os.seteuid(0)
        root.chmod(0o755)
        shutil.rmtree(root)
    assert result.exit_code == 2
    assert "name another folder with --out" in error_line(result)


def test_classes_are_never_guessed(tmp_path):
    image, label = ball_case(0, classes=2)
    write(image[0], tmp_path / "d/c1/c1_img.nii.gz")
    write(label, tmp_path / "d/c1/c1_seg.nii.gz")
    assert "--recipe" in error_line(precompute(tmp_path / "d"))
    result = precompute("--classes", "1=liver", tmp_path / "d")
    assert result.exit_code == 1
    assert "label values without a class: 2" in result.output
    assert precompute("--classes", "1=liver,2=kidney", "--out", tmp_path / "o", tmp_path / "d").exit_code == 0


def test_a_toml_recipe_and_flags_over_it(tmp_path):
    image, label = ball_case(0, modalities=2, classes=2)
    for suffix, array in (("flair", image[0]), ("t1ce", image[1]), ("seg", label)):
        write(array, tmp_path / f"d/c1/c1_{suffix}.nii.gz")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'modalities = ["flair", "t1ce"]\nspacing = [2, 2, 2]\n[classes]\n1 = "a"\n2 = "b"\n[regions]\nR = [1, 2]\n'
        '[maps]\npreset = "paper"\ndecay = 0.2\n'
    )
    result = precompute("--recipe", recipe, "--iterations", "6", tmp_path / "d")
    assert result.exit_code == 0, result.output
    root = json.loads((tmp_path / "d/geols/labels.zarr/zarr.json").read_text())["attributes"]["geols"]
    assert root["recipe"]["maps"] | {"metric": "riemannian", "iterations": 6, "decay": 0.2} == root["recipe"]["maps"]
    assert root["recipe"]["preprocessing"]["spacing"] == [2.0, 2.0, 2.0]
    volumes = json.loads((tmp_path / "d/geols/volumes.zarr/zarr.json").read_text())["attributes"]["geols"]
    assert volumes["training"]["regions"] == {"R": [1, 2]}


def test_info_verify_and_finalize(nnunet):
    root = nnunet()
    made = precompute(root)
    path = root / "geols/labels.zarr"
    info = store("info", path)
    assert info.exit_code == 0
    for text in (
        digest(made),
        "0 background, 1 organ1, 2 organ2",
        "maps.seeds = skeleton",
        "class 1 organ1: in 3 cases",
    ):
        assert text in info.output
    assert store("verify", path).exit_code == 0
    assert store("verify", root / "geols/volumes.zarr").exit_code == 0
    both = store("verify", root / "geols", "--data", root)
    assert both.exit_code == 0
    assert both.output.count(" 0 findings") == 2
    assert f"store   {path}\n" in both.output
    (path / "manifest.json").unlink()
    assert "geols-store finalize" in error_line(store("verify", path))
    assert digest(store("finalize", path)) == digest(made)
    assert "no store, and none in it" in error_line(store("finalize", root))


def test_info_of_an_output_folder_names_the_stores_in_it(nnunet):
    root = nnunet(cases=1)
    precompute(root)
    result = store("info", root / "geols")
    assert result.exit_code == 0
    for name in ("labels", "volumes"):
        assert f"store   {root}/geols/{name}.zarr, 1 case\n" in result.output
    assert "no store, and none in it" in error_line(store("info", root))


def test_finalize_refuses_while_planned_cases_are_missing(nnunet):
    root = nnunet()
    precompute(root)
    path = root / "geols/labels.zarr"
    shutil.rmtree(path / "case_01")
    (path / "manifest.json").unlink()
    result = store("finalize", path)
    assert result.exit_code == 2
    assert "1 planned case is missing: case_01" in error_line(result)
    assert store("finalize", "--partial", path).exit_code == 0
    assert store("verify", path).exit_code == 0


def test_a_failed_case_that_left_the_data_does_not_block_finalize(nnunet):
    root = nnunet()
    (root / "labelsTr/case_01.nii.gz").write_bytes(b"")
    assert precompute(root).exit_code == 1
    for part in ("imagesTr/case_01_0000", "labelsTr/case_01"):
        (root / f"{part}.nii.gz").unlink()
    assert precompute(root).exit_code == 0
    assert store("finalize", root / "geols/labels.zarr").exit_code == 0


@pytest.mark.parametrize("make", ["folder", "fifo", "link", "text"])
@pytest.mark.parametrize("name", ["zarr.json", "manifest.json"])
@pytest.mark.parametrize("command", ["info", "verify", "finalize"])
def test_what_is_no_file_of_a_store_is_one_line(nnunet, make, name, command):
    root = nnunet(cases=1)
    precompute(root)
    path = root / "geols/labels.zarr" / name
    path.unlink()
    if make == "folder":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    elif make == "link":
        path.symlink_to("/dev/zero")
    else:
        path.write_text('{"attributes": {"geols": {}}, "node_type": "group", "zarr_format": 3}')
    result = store(command, path.parent)
    if (command, name) == ("finalize", "manifest.json") and make != "folder":
        assert result.exit_code == 0
        assert store("verify", path.parent).exit_code == 0
        return
    assert result.exit_code == 2, result.output
    error_line(result)


def test_ctrl_c_ends_a_run_with_one_line(nnunet, tmp_path):
    root = nnunet(cases=40, shape=(24, 60, 60))
    command = [sys.executable, "-m", "geols_precompute", "--workers", "2", "--out", tmp_path / "o", root]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while not list((tmp_path / "o").glob("labels.zarr/case_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT  # which a shell calls 130, and ends a loop
    assert errors.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in errors


def test_verify_names_damage_and_exits_with_1(nnunet):
    root = nnunet()
    precompute(root)
    shard = root / "geols/labels.zarr/case_01/maps/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = store("verify", root / "geols/labels.zarr")
    assert result.exit_code == 1
    assert "damaged: case_01:" in result.output


def test_verify_against_data_tells_what_differs(nnunet):
    root = nnunet(cases=7)
    precompute(root)
    path = root / "geols/labels.zarr"
    assert "7 same" in store("verify", path, "--data", root).output
    spacing = (1.0, 1.5, 2.0)
    image, label = ball_case(50)
    write(label, root / "labelsTr/case_01.nii.gz", spacing=spacing)
    write(image[0], root / "imagesTr/case_02_0000.nii.gz", spacing=spacing)
    for part in ("imagesTr/case_03_0000", "labelsTr/case_03"):
        original = ball_case(3)[0][0].astype(np.int16) if "images" in part else ball_case(3)[1]
        write(original, root / f"{part}.nii.gz", spacing=(1.0, 1.5, 2.5))
    (root / "imagesTr/case_04_0000.nii.gz").unlink()
    (root / "labelsTr/case_04.nii.gz").unlink()
    write(image[0], root / "imagesTr/new_0000.nii.gz", spacing=spacing)
    write(label, root / "labelsTr/new.nii.gz", spacing=spacing)
    (root / "labelsTr/case_05.nii.gz").write_bytes(b"")
    result = store("verify", path, "--data", root)
    assert result.exit_code == 1
    for line in (
        "label differs: case_01",
        "image differs: case_02",
        "geometry differs: case_03",
        "missing: case_04",
        "extra: new",
        "unreadable: case_05: ",
    ):
        assert line in result.output
    assert "2 same" in result.output


@pytest.mark.parametrize("command", [["geols-precompute"], ["geols-store"], ["geols-store", "verify"]])
def test_help_is_quick_and_complete(command):
    script = Path(sys.executable).parent / command[0]
    if not script.exists():
        pytest.skip(f"{script} is not installed")
    done = subprocess.run([script, *command[1:], "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Usage:")


def test_every_documented_flag_exists():
    names = {option for parameter in cli.precompute.params for option in parameter.opts}
    assert {
        "--seeds",
        "--preset",
        "--recipe",
        "--classes",
        "--metric",
        "--lam",
        "--gamma",
        "--iterations",
        "--decay",
        "--background",
        "--modalities",
        "--clip",
        "--engine",
        "--out",
        "--name",
        "--workers",
        "--debug",
    } <= names


def test_the_console_scripts_are_declared():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["geols-precompute"] == "geols_precompute.cli.precompute:precompute"
    assert project["scripts"]["geols-store"] == "geols_precompute.cli.store:store"
