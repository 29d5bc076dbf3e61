"""The quality report as a command: what its file holds, what it refuses, and the preview of one case."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from raters import bulge_of, rated_stores, write_raters
from reports import document_of
from train_fixtures import make_stores

from geols_precompute import LabelStore, VolumeStore
from geols_precompute.cli.precompute import precompute
from geols_precompute.cli.store import store
from geols_precompute.report import page
from geols_precompute.report.cases import read_case, volumes_of
from geols_precompute.report.slices import _levels, case_slices


def run(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), cases=7, vary=True, absent=(3,), modalities=2)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "RPI", "SAL"])
def test_the_slices_hold_what_the_stores_hold(out, orientation):
    labels = LabelStore.open(out / "labels.zarr")
    case = replace(read_case(labels, volumes_of(labels, None), labels.cases[0]), orientation=orientation)
    raters = {"one": case.label, "two": case.label[::-1]}
    document = case_slices(replace(case, raters=raters), 10**6)
    for view in document["views"]:
        axis, rows, columns = view["axis"], view["rows"], view["columns"]
        H, W = view["size"]
        down = view["starts"][0] + view["steps"][0] * np.arange(H)
        along = view["starts"][1] + view["steps"][1] * np.arange(W)
        assert [s["at"] for s in view["slices"]] == list(range(case.label.shape[axis]))  # smaller than the margin
        for entry in view["slices"]:

            def seen(array, at=entry["at"], axes=(axis, rows, columns), down=down, along=along):
                first = array.ndim - 3
                turned = np.moveaxis(array, [first + a for a in axes], [first, first + 1, first + 2])
                return turned[..., at, :, :][..., down[:, None], along]

            content = np.frombuffer(zlib.decompress(b64decode(entry["data"])), np.uint8)
            parts = np.split(content, np.cumsum([2 * H * W] * 3 + [3 * (H + 2) * (W + 2)]))
            high, low, maps, slabs, drawn = parts
            levels = 256.0 * high.reshape(2, H, W) + low.reshape(2, H, W)
            for modality, described in enumerate(document["images"]):
                image = described["low"] + described["step"] * levels[modality]
                expected = seen(case.image[modality])
                assert np.abs(image - expected).max() <= max(described["step"], np.ptp(case.image[modality]) / 100)
            assert np.array_equal(maps.reshape(2, H, W), seen(case.maps))
            around = slabs.reshape(3, H + 2, W + 2)
            assert np.array_equal(around[1, 1:-1, 1:-1], seen(case.label))
            for name, label in zip(raters, drawn.reshape(2, H, W), strict=True):
                assert np.array_equal(label, seen(raters[name]))


def test_fewer_slices_are_kept_where_room_is_short_and_always_the_middle(out):
    labels = LabelStore.open(out / "labels.zarr")
    case = read_case(labels, volumes_of(labels, None), labels.cases[0])
    sizes = {}
    for room in (0, 9_000, 10**6):
        document = case_slices(case, room)
        for view in document["views"]:
            places = [s["at"] for s in view["slices"]]
            assert document["centre"][view["axis"]] in places
            assert set(np.diff(places)) <= {view["every"]}
        sizes[room] = sum(len(s["data"]) for view in document["views"] for s in view["slices"])
    assert sizes[0] < sizes[9_000] < sizes[10**6]
    assert sizes[9_000] < 12_000


def test_raters_are_shown_where_the_store_keeps_them(tmp_path):
    stores = rated_stores(
        write_raters(tmp_path / "data", lambda label, seed, n: [bulge_of(seed)] * n, cases=2, raters=3)
    )
    done = run(store, "report", stores / "labels.zarr", "-o", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert document_of(tmp_path / "r.html")["cases"][0]["raters"] == ["1", "2", "3"]


def test_hounsfield_units_are_recognised_and_exact():
    rng = np.random.default_rng(0)
    ct = rng.integers(-1024, 1500, (5, 6, 7)).astype(np.float32)
    levels, described = _levels(ct)
    assert described["hounsfield"]
    assert np.array_equal(described["low"] + levels * described["step"], ct)
    scores = rng.normal(size=(5, 6, 7)).astype(np.float32)
    levels, described = _levels(scores)
    assert not described["hounsfield"]
    low, high = np.percentile(scores, [0.05, 99.95])
    clipped = np.clip(scores, low, high)
    assert np.abs(described["low"] + levels * described["step"] - clipped).max() <= (high - low) / 4095


def test_the_command_writes_one_file(out, tmp_path):
    path = tmp_path / "report.html"
    done = run(store, "report", out / "labels.zarr", "-o", path, "--alpha", "0.25")
    assert done.exit_code == 0, done.output
    text, document = path.read_text(), document_of(path)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", text)
    assert document["alpha"] == 0.25
    assert [entry["id"] for entry in document["ranking"]] != []
    assert {found["id"] for found in document["cases"]} == set(LabelStore.open(out / "labels.zarr").cases)
    assert document["modalities"] == ["m0", "m1"]
    assert [found["cases"] for found in document["dataset"]] == [7, 7, 6]
    assert len(list(tmp_path.iterdir())) == 1


def test_strict_turns_flags_into_an_exit_status(tmp_path):
    plain = make_stores(tmp_path / "plain", cases=2)
    coarse = make_stores(tmp_path / "coarse", cases=2, spacing=(9.0, 1.0, 1.0))
    for folder, flagged in ((plain, False), (coarse, True)):
        for strict in (False, True):
            flags = ["--strict"] if strict else []
            done = run(store, "report", folder / "labels.zarr", "-o", tmp_path / "r.html", *flags)
            assert done.exit_code == (1 if strict and flagged else 0), done.output
            assert ("anisotropy: 2 of 2 cases" in done.output) == flagged


def test_chosen_cases_are_shown_in_their_order(out, tmp_path):
    done = run(store, "report", out / "labels.zarr", "-o", tmp_path / "r.html", "--cases", "case_05, case_01")
    assert done.exit_code == 0, done.output
    assert [found["id"] for found in document_of(tmp_path / "r.html")["cases"]] == ["case_05", "case_01"]
    refused = run(store, "report", out / "labels.zarr", "-o", tmp_path / "no.html", "--cases", "nobody")
    assert refused.exit_code == 2
    assert "no case 'nobody'" in refused.output
    assert not (tmp_path / "no.html").exists()


def test_a_file_that_would_be_too_large_shows_fewer_cases(out, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 212_000)
    labels = LabelStore.open(out / "labels.zarr")
    found = page.write_report(tmp_path / "r.html", labels, volumes_of(labels, None))
    assert 0 < found.shown < 7
    document = document_of(tmp_path / "r.html")
    assert len(document["left_out"]) == 7 - found.shown
    assert (tmp_path / "r.html").stat().st_size < 212_000


def test_names_that_are_markup_stay_names(tmp_path):
    evil = {2: "</script><script>alert(1)</script>", 5: "@STYLE@"}
    folder = make_stores(tmp_path, cases=2, names=evil)
    done = run(store, "report", folder / "labels.zarr", "-o", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert "<script>alert" not in (tmp_path / "r.html").read_text()
    assert document_of(tmp_path / "r.html")["classes"][1:] == list(evil.values())


def test_without_volumes_a_data_folder_is_asked_for(nnunet, tmp_path):
    data = nnunet(cases=3)
    assert run(precompute, "--workers", 0, data).exit_code == 0
    labels = data / "geols/labels.zarr"
    done = run(store, "report", labels, "-o", tmp_path / "beside.html")
    assert done.exit_code == 0, done.output
    (data / "geols/volumes.zarr").rename(tmp_path / "volumes.zarr")
    refused = run(store, "report", labels, "-o", tmp_path / "r.html")
    assert refused.exit_code == 2
    assert "name your copy of the data with --data" in refused.output
    done = run(store, "report", labels, "--data", data, "-o", tmp_path / "data.html")
    assert done.exit_code == 0, done.output
    # these images are whole numbers of a small range, which int16 holds exactly
    assert document_of(tmp_path / "data.html") == document_of(tmp_path / "beside.html")


def test_other_data_than_the_maps_were_made_from_is_refused(nnunet, tmp_path):
    data = nnunet(cases=2)
    assert run(precompute, "--workers", 0, data).exit_code == 0
    other = nnunet("other", cases=2, shape=(13, 14, 16))
    refused = run(store, "report", data / "geols/labels.zarr", "--data", other, "-o", tmp_path / "r.html")
    assert refused.exit_code == 2
    assert "its maps were made from other data than that in" in refused.output


def test_a_preview_leaves_only_its_page(nnunet):
    data = nnunet(cases=3)
    done = run(precompute, "--preview", "case_01", "--seeds", "erosion", data)
    assert done.exit_code == 0, done.output
    assert [p.name for p in (data / "geols").iterdir()] == ["preview-labels-case_01.html"]
    assert [found["id"] for found in document_of(data / "geols/preview-labels-case_01.html")["cases"]] == ["case_01"]
    assert sorted(p.name for p in data.iterdir()) == ["dataset.json", "geols", "imagesTr", "labelsTr"]
    refused = run(precompute, "--preview", "nobody", data)
    assert refused.exit_code == 2
    assert "no case 'nobody'; there are case_00, case_01, case_02" in refused.output
    # the run that follows is not disturbed, and its store gives the same page
    assert run(precompute, "--workers", 0, "--seeds", "erosion", data).exit_code == 0
    done = run(store, "report", data / "geols/labels.zarr", "--cases", "case_01", "-o", data / "r.html")
    assert done.exit_code == 0
    assert document_of(data / "r.html")["cases"] == document_of(data / "geols/preview-labels-case_01.html")["cases"]


def test_a_report_replaces_a_report_and_nothing_else(out, tmp_path):
    thesis, page = tmp_path / "thesis.html", tmp_path / "page.html"
    thesis.write_text("mine")
    refused = run(store, "report", out / "labels.zarr", "-o", thesis)
    assert refused.exit_code == 2
    assert f"{thesis}: is there, and was not written by geols" in refused.output
    assert thesis.read_text() == "mine"
    assert [run(store, "report", out / "labels.zarr", "-o", page).exit_code for _ in range(2)] == [0, 0]


def test_what_cannot_be_written_is_refused_before_anything_is_measured(out, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "measure", lambda *args: pytest.fail("measured"))
    refused = run(store, "report", out / "labels.zarr", "-o", tmp_path)
    assert refused.exit_code == 2
    assert "is a folder; name a file with -o" in refused.output
    refused = run(store, "report", out / "labels.zarr", "-o", tmp_path / "r.html", "--alpha", "nan")
    assert refused.exit_code == 2
    assert "--alpha must be in [0, 1]" in refused.output
    monkeypatch.undo()
    done = run(store, "report", out / "labels.zarr", "-o", tmp_path / "new/r.html", "--cases", "case_01,case_01, ,")
    assert done.exit_code == 0, done.output
    assert "7 cases, 1 shown" in done.output


def test_a_store_without_cases_is_refused_in_one_line(tmp_path):
    folder = make_stores(tmp_path, cases=0)
    refused = run(store, "report", folder / "labels.zarr", "-o", tmp_path / "r.html")
    assert refused.exit_code == 2
    assert "has no case to report on" in refused.output


def test_a_preview_says_what_it_does_not_go_with(nnunet):
    refused = run(precompute, "--preview", "case_01", "--dry-run", "--part", "1/2", nnunet())
    assert refused.exit_code == 2
    assert "leave out --dry-run and --part" in refused.output


def test_a_damaged_case_is_named_and_nothing_is_written(tmp_path):
    folder = make_stores(tmp_path, cases=2)
    shard = next(p for p in (folder / "labels.zarr/case_01/maps/c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-5])
    done = run(store, "report", folder / "labels.zarr", "-o", tmp_path / "r.html")
    assert done.exit_code == 2
    assert "case_01" in done.output
    assert not (tmp_path / "r.html").exists()


def test_intensities_come_back_from_the_volumes(out):
    labels, volumes = LabelStore.open(out / "labels.zarr"), VolumeStore.open(out / "volumes.zarr")
    found = volumes_of(labels, None)("case_02")
    scale, offset = volumes.scale_offset("case_02")
    expected = volumes.image("case_02")[1].astype(np.float64) * scale[1] + offset[1]
    np.testing.assert_allclose(found.image[1], expected, rtol=1e-5)
    assert np.array_equal(found.label, volumes.label("case_02"))


def test_maps_on_another_grid_than_the_volume_are_refused(tmp_path):
    one, other = (make_stores(tmp_path / name, cases=2, spacing=(z, 1.0, 1.0)) for name, z in (("a", 1.0), ("b", 2.0)))
    (one / "volumes.zarr").rename(tmp_path / "aside")
    (other / "volumes.zarr").rename(one / "volumes.zarr")
    refused = run(store, "report", one / "labels.zarr", "-o", tmp_path / "r.html")
    assert refused.exit_code == 2
    assert "its maps were made from other data than" in refused.output
    assert "(geometry differs)" in refused.output
