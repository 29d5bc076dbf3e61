"""Copies of images and labels are never open to more people than the files they are made of."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from commands import precompute, store
from datasets import write
from train_fixtures import GRID, label_like, make_stores, predictor, tiny_config

from geols_precompute.atomic import EVERYONE, readers_of, replace_file
from geols_train.run import train_and_test


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def place():
    """A folder that everybody may pass, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def set_modes(root: Path, bits: int, pattern: str = "*.nii.gz") -> None:
    for path in root.rglob(pattern):
        path.chmod(bits)


def open_to(folder: Path, bit: int) -> list[str]:
    """The files and folders below a folder whose mode has one of the bits."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if mode(path) & bit)


def file(path: Path, bits: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    path.chmod(bits)
    return path


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "readers"),
    [
        ([], 0o777),
        ([0o644], 0o777),
        ([0o444], 0o777),
        ([0o600], 0o700),
        ([0o400], 0o700),
        ([0o640], 0o770),
        ([0o604], 0o700),  # the group may not, and its members may be others of the copy
        ([0o644, 0o640], 0o770),
        ([0o644, 0o640, 0o600], 0o700),
    ],
)
def test_the_bits_of_a_copy(place, modes, readers):
    sources = [file(place / f"in/{number}", bits) for number, bits in enumerate(modes)]
    assert readers_of(sources, place / "out/deeper") == readers


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another group")
def test_the_bits_of_a_group_are_for_that_group(place):
    source = file(place / "in/x", 0o640)
    os.chown(source, -1, 54321)
    assert readers_of([source], place / "out") == 0o700
    (place / "out").mkdir()
    os.chown(place / "out", -1, 54321)
    (place / "out").chmod(0o2755)  # what is made here belongs to the group of the folder
    assert readers_of([source], place / "out/deeper") == 0o770


def test_a_folder_that_others_cannot_pass_closes_what_is_in_it(place):
    source = file(place / "home/data/x")
    (place / "home").chmod(0o700)
    assert readers_of([source], place / "out") == 0o700
    # whoever reaches the copy has passed the folder
    assert readers_of([source], place / "home/data/geols") == EVERYONE


def test_a_link_is_as_open_as_what_it_leads_to(place):
    file(place / "closed/x", 0o600)
    (place / "in").mkdir()
    (place / "in/x").symlink_to(place / "closed/x")
    assert readers_of([place / "in/x"], place) == 0o700


def test_a_file_is_never_open_before_it_has_its_name(place, monkeypatch):
    seen = []
    write = Path.write_bytes

    def look(path, content):
        seen.append(mode(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", look)
    replace_file(place / "a", b"x", 0o700)
    replace_file(place / "b", b"x")
    assert (seen, mode(place / "a"), mode(place / "b")) == ([0o600, 0o644], 0o600, 0o644)


# --- the commands ----------------------------------------------------------------------------------------------------


def test_ordinary_data_are_as_open_as_ever(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    assert {mode(path) for path in out.rglob("*") if path.is_file()} == {0o644}
    assert {mode(path) for path in out.rglob("*") if path.is_dir()} == {0o755}


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_stores_reports_previews_and_exports_of_private_files(nnunet, tmp_path, part):
    root, out = nnunet(cases=2), tmp_path / "o"
    set_modes(root / part, 0o600)
    assert precompute("--out", out, root).exit_code == 0
    case = ["case_00", *(f"case_00/{name}" for name in ("image", "label", "zarr.json", "image/c/0/0/0/0"))]
    assert not {mode(out / "volumes.zarr" / name) & 0o077 for name in case} - {0}
    assert open_to(out / "volumes.zarr/case_00", 0o077) == open_to(out / "labels.zarr/case_01", 0o077) == []
    assert {mode(path) for path in out.glob("*.json*")} == {0o600}
    labels, page = out / "labels.zarr", tmp_path / "page.html"
    assert store("report", labels, "-o", page).exit_code == 0
    assert store("export", labels, "--case", "case_00", "-o", tmp_path / "maps.nii.gz").exit_code == 0
    assert store("export", labels, "--case", "case_00", "--soft", "-o", tmp_path / "soft.nii").exit_code == 0
    assert store("pack", labels, "-o", tmp_path / "x.zarr.zip").exit_code == 0
    assert store("unpack", tmp_path / "x.zarr.zip", "-o", tmp_path / "x.zarr").exit_code == 0
    assert precompute("--out", out, "--preview", "case_00", root).exit_code == 0
    made = (page, tmp_path / "maps.nii.gz", tmp_path / "soft.nii", tmp_path / "x.zarr.zip")
    assert {mode(path) for path in (*made, out / "preview-labels-case_00.html")} == {0o600}
    assert open_to(tmp_path / "x.zarr/case_00", 0o077) == []
    # they are whole all the same, and a second run finds them so
    assert "0 cases computed, 2 unchanged" in precompute("--out", out, root).output
    assert store("verify", "--data", root, labels).exit_code == 0


def test_one_private_case_closes_what_shows_all(nnunet, tmp_path):
    root, out = nnunet(cases=2), tmp_path / "o"
    set_modes(root, 0o640, "case_01*")
    precompute("--out", out, root)
    assert mode(out / "volumes.zarr/case_00/image/c/0/0/0/0") == 0o644
    assert mode(out / "volumes.zarr/case_01/image/c/0/0/0/0") == 0o640
    assert mode(out / "volumes.zarr/case_01") == 0o750
    store("report", out / "labels.zarr", "-o", tmp_path / "page.html")
    store("report", out / "labels.zarr", "--data", root, "-o", tmp_path / "data.html")
    assert mode(tmp_path / "page.html") == mode(tmp_path / "data.html") == 0o640


def test_a_report_of_open_maps_over_private_data(nnunet, tmp_path):
    root, out = nnunet(cases=1), tmp_path / "o"
    precompute("--out", out, root)
    set_modes(root, 0o600)
    store("report", out / "labels.zarr", "--data", root, "-o", tmp_path / "page.html")
    assert mode(tmp_path / "page.html") == 0o600


def test_maps_that_are_taken_from_another_store(nnunet, tmp_path):
    root = nnunet(cases=1)
    precompute("--out", tmp_path / "one", root)
    set_modes(root, 0o600)
    result = precompute("--out", tmp_path / "two", "--reuse", tmp_path / "one/labels.zarr", root)
    assert "1 taken from" in result.output
    assert open_to(tmp_path / "two/labels.zarr/case_00", 0o077) == []


@pytest.mark.parametrize(("bits", "private"), [(0o700, 0o077), (0o750, 0o027), (0o755, 0)])
def test_a_run_folder_is_as_open_as_the_volumes(place, bits, private):
    stores = make_stores(place / "geols")
    (stores / "volumes.zarr/case_01").chmod(bits)
    train_and_test(tiny_config(stores), place / "run")
    names = {"best.pt", "cases.png", "config.toml", "curves.png", "last.pt", "log.jsonl", "split.json", "summary.json"}
    assert names < {path.name for path in (place / "run").iterdir()}
    assert {mode(path) for path in (place / "run").iterdir()} == {0o644 & ~private}
    assert mode(place / "run") == 0o755 & ~private
    (place / "later").write_text("")
    assert mode(place / "later") == 0o644


@pytest.mark.parametrize(("bits", "expected"), [(0o600, 0o600), (0o644, 0o644)])
def test_predictions(tmp_path, bits, expected):
    source = write(label_like() * 100, tmp_path / "in/p1.nii.gz", **GRID)
    source.chmod(bits)
    judge = predictor(window=(9, 14, 17))
    (case,), _ = judge.find(tmp_path / "in")
    judge.predict(case, tmp_path / "out", probabilities=True)
    assert {mode(path) for path in (tmp_path / "out").iterdir()} == {expected}


def test_a_prediction_of_voxels_that_lie_apart(tmp_path):
    write(label_like() * 100, tmp_path / "in/p1.mhd", **GRID)
    (voxels,) = (path for path in (tmp_path / "in").iterdir() if path.suffix != ".mhd")
    voxels.chmod(0o600)
    judge = predictor(window=(9, 14, 17))
    (case,), _ = judge.find(tmp_path / "in")
    judge.predict(case, tmp_path / "out")
    assert mode(tmp_path / "out/p1.nii.gz") == 0o600
