"""geols-store croissant: what a catalogue of data sets is told of a store is so, and mlcroissant can read it."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
from sharing import CASES, make_store, packed, run

TERMS = {"licence": "CC-BY 4.0", "citation": "Doe, J. (2026). Organs."}
FLAGS = ("--url", "https://www.lab-a.example/maps", "--creator", "Lab A", "--published", "2026-01-31")


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "labels.zarr", CASES, terms=TERMS)


def described(path, out, *flags):
    result = run("croissant", path, *flags, "-o", out)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text()), result.output


def test_a_packed_store(store, tmp_path):
    archive = packed(store, tmp_path / "public/organs.zarr.zip")
    document, said = described(archive, tmp_path / "public/croissant.json", *FLAGS)
    assert "note" not in said
    assert f"digest  {store.digest}" in said
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert document["license"] == "CC-BY 4.0"
    assert document["citeAs"] == TERMS["citation"]
    assert document["creator"]["name"] == "Lab A"
    assert document["datePublished"] == "2026-01-31"
    assert store.digest in document["description"]
    zipped, manifest, _ = document["distribution"]
    assert zipped["contentUrl"] == "https://www.lab-a.example/maps/organs.zarr.zip"
    assert zipped["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert zipped["contentSize"] == f"{archive.stat().st_size} B"
    assert manifest["sha256"] == hashlib.sha256((store.path / "manifest.json").read_bytes()).hexdigest()
    assert document["recordSet"][0]["data"] == [
        {"classes/value": 0, "classes/name": "background"},
        {"classes/value": 1, "classes/name": "a"},
        {"classes/value": 5, "classes/name": "b"},
    ]


def test_a_folder_is_described_by_its_manifest(store, tmp_path):
    (tmp_path / "about").mkdir()
    document, said = described(store.path, tmp_path / "about/croissant.json")
    (manifest,) = document["distribution"]
    assert manifest["contentUrl"] == "../labels.zarr/manifest.json"
    assert manifest["sha256"] == store.digest
    assert "asks for more: url (--url), creator (--creator), datePublished (--published)" in said


def test_what_the_store_does_not_state_is_named(tmp_path):
    document, said = described(make_store(tmp_path / "s.zarr", "a").path, tmp_path / "croissant.json", *FLAGS)
    assert "license" not in document
    assert "note: Croissant 1.0 asks for more: license (dataset.json states none)" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--url", "ftp://x"), "--url ftp://x: give an address"),
        (("--published", "yesterday"), "--published yesterday: give a date such as 2026-01-31"),
    ],
)
def test_flags_that_are_none(store, tmp_path, flags, says):
    result = run("croissant", store.path, *flags, "-o", tmp_path / "croissant.json")
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "croissant.json").exists()


def test_files_of_others_and_stores_are_left_alone(store, tmp_path):
    for content in ('{"conformsTo": "http://mlcommons.org/croissant/1.0", "keywords": []}', "[]", "mine"):
        (tmp_path / "croissant.json").write_text(content)
        result = run("croissant", store.path, "-o", tmp_path / "croissant.json")
        assert result.exit_code == 2
        assert "was not written by geols" in result.output
        assert (tmp_path / "croissant.json").read_text() == content
    assert "lies in the store" in run("croissant", store.path, "-o", store.path / "croissant.json").output
    out = tmp_path / "c.json"
    assert [run("croissant", store.path, "-o", out).exit_code for _ in range(2)] == [0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_packed", [True, False])
def test_mlcroissant_reads_it_without_a_remark(store, tmp_path, is_packed, caplog):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    path = packed(store, tmp_path / "organs.zarr.zip") if is_packed else store.path
    out = tmp_path / "croissant.json"
    document, _ = described(path, out, *FLAGS)
    with caplog.at_level(logging.WARNING):
        found = mlcroissant.Dataset(jsonld=str(out))
    issues = found.metadata.ctx.issues
    assert not issues.errors
    # a store has a digest, no version number
    assert [w for w in issues.warnings if "version" not in w] == []
    assert found.metadata.cite_as == TERMS["citation"]
    assert [file.sha256 for file in found.metadata.distribution if getattr(file, "sha256", None)] == [
        file["sha256"] for file in document["distribution"] if "sha256" in file
    ]
    records = [(r["classes/value"], r["classes/name"]) for r in found.records("classes")]
    assert records == [(0, "background"), (1, "a"), (5, "b")]
