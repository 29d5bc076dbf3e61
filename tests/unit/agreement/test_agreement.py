"""geols-store agreement, on a small data set whose raters are known."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from commands import error_line, store
from raters import lesion_of, rated_stores, write_raters
from scipy import ndimage

from geols_precompute.agreement.patients import halves
from geols_precompute.softlabel import soft_label


def shifted(label, seed, raters):
    return [np.roll(label, shift, axis=2) for shift in range(-(raters // 2), raters - raters // 2)]


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    root = write_raters(tmp_path_factory.mktemp("rated"), shifted, cases=6, raters=4)
    rated_stores(root)
    rated_stores(root, "--preset", "border", name="border")
    return root


def measured(root, out, *flags):
    stores = (root / "geols/labels.zarr", root / "geols/border.zarr")
    result = store("agreement", *stores, "--group", root / "patients.json", "-o", out, *flags)
    assert result.exit_code == 0, result.output
    return table(out / "agreement.csv"), result.output


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def report(rated, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    rows, output = measured(rated, out)
    return out, rows, output


def test_the_table_has_every_soft_label_and_score(report):
    _, rows, output = report
    methods = {row["method"] for row in rows}
    assert methods == {"hard", "LS", "SVLS", "Gaussian 1 mm", "signed distance", "labels", "border"}
    assert {row["anatomy"] for row in rows} == {"rated0"}
    assert {row["patients"] for row in rows} == {"1"}
    assert all((row["difference"] == "") == (row["method"] == "SVLS") for row in rows)
    assert "4 cases calibrate, 2 test" in output


def test_the_numbers_are_those_of_a_computation_by_hand(report):
    """SVLS, as it stands, in a band of 3 mm around each test case's label."""
    out, _, _ = report
    patients = {f"case{n:02d}": f"p{n // 2}" for n in range(6)}
    found = {row["case"]: row for row in table(out / "agreement-cases.csv") if row["method"] == "SVLS"}
    assert set(found) == {case for case, half in halves(patients, 0).items() if half == "test"}
    for case, row in found.items():
        label = lesion_of(int(case[4:]))
        others = np.stack(shifted(label, 0, 3))
        soft = soft_label(label.astype(np.uint8), method="svls", n_classes=2)[1]
        depth = ndimage.distance_transform_edt(label) + ndimage.distance_transform_edt(~label)
        band = depth <= 3
        expected = np.mean((soft - others.mean(axis=0))[band] ** 2)
        assert float(row["brier_uncalibrated"]) == pytest.approx(expected, abs=1e-3)


def test_the_page_shows_pictures_and_needs_no_network(report):
    page = (report[0] / "agreement.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 6
    assert "http" not in page.replace("http-equiv", "")
    assert "case0" in page


def test_raters_may_come_from_the_data_and_give_the_same_numbers(rated, report, tmp_path):
    rows, _ = measured(rated, tmp_path, "--data", rated)
    assert rows == report[1]


def test_it_replaces_its_own_report_and_nothing_else(rated, tmp_path):
    measured(rated, tmp_path)
    measured(rated, tmp_path)
    (tmp_path / "agreement.csv").write_text("mine\n")
    result = store("agreement", rated / "geols/labels.zarr", "-o", tmp_path)
    assert "was not written by geols" in error_line(result)
    assert (tmp_path / "agreement.csv").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--against", "svls"), "--against svls: is none of hard, LS, SVLS"),
        (("--sigma", "0"), "--sigma 0.0: give a positive number"),
        (("--group", "cases.csv"), "cases.csv: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(rated, tmp_path, flags, text):
    assert text in error_line(store("agreement", rated / "geols/labels.zarr", "-o", tmp_path / "o", *flags))
    assert not (tmp_path / "o").exists()


def test_a_consensus_has_no_other_raters(tmp_path):
    from commands import precompute

    root = write_raters(tmp_path, shifted, cases=2, raters=3)
    precompute(root, "--classes", "1=lesion", "--rater", "majority", "--keep-raters")
    result = store("agreement", root / "geols/labels.zarr", "-o", tmp_path / "o")
    assert "softens a consensus (majority)" in error_line(result)
