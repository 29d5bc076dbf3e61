"""Sharing where it may do harm: outputs that hold other things, sources that are the output, disks, races, secrets."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading

import numpy as np
import pytest
import SimpleITK as sitk
from commands import precompute
from servers import Faults, failing
from sharing import CASES, make_store, packed, run, verified_store
from stores import contents

from geols_precompute import atomic
from geols_precompute.data.formats.nifti import write_image
from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import canonical_json
from geols_precompute.errors import OutputError
from geols_precompute.formatting import printable
from geols_precompute.share import remote
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import commit_case


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return make_store(tmp_path / "labels.zarr", CASES)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.01, 0.02))


def error_line(result) -> str:
    assert result.exit_code == 2, result.output
    assert "unexpected" not in result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    return line


# --- outputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [{}, {"geols": {"format": "geols-volumes", "version": 1}}])
def test_a_foreign_zarr_group_is_never_written_into(store, tmp_path, attributes):
    mine = tmp_path / "mine.zarr"
    (mine / "a").mkdir(parents=True)
    (mine / "zarr.json").write_bytes(canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    (mine / "a/mine").write_text("data")
    before = contents(mine)
    for command in (("pull", store.path), ("merge", store.path)):
        error_line(run(*command, "-o", mine))
        assert contents(mine) == before


@pytest.mark.parametrize("make", [lambda p: p.write_text("mine"), lambda p: p.symlink_to("/etc")])
def test_a_file_or_link_with_the_name_of_a_case_stays(store, tmp_path, make):
    out = tmp_path / "out.zarr"
    run("pull", store.path, "--cases", "a", "-o", out)
    make(out / "b")
    assert f"{out / 'b'}: is no folder of a case; move it away" in error_line(run("pull", store.path, "-o", out))
    assert os.path.lexists(out / "b")
    assert not list(out.glob(".tmp-*"))


def test_a_damaged_case_of_a_store_pulled_onto_itself_stays(store):
    with (store.path / "b/maps/c/0/0/0/0").open("ab") as file:
        file.write(b"x")
    before = contents(store.path)
    for command in (("pull", store.path), ("merge", store.path, store.path)):
        result = run(*command, "-o", store.path)
        assert result.exit_code == 1
        assert "failed: b: " in result.output
        assert contents(store.path) == before


def test_nothing_is_written_into_a_store(store, nnunet, tmp_path):
    before = contents(store.path)
    for command in (
        ("pull", store.path, "-o", store.path / "sub.zarr"),
        ("pull", store.path, "-o", store.path / "a"),
        ("merge", store.path, "-o", store.path / "sub.zarr"),
        ("pack", store.path, "-o", store.path / "s.zarr.zip"),
        ("pack", store.path, "-o", store.path / "a/s.zarr.zip"),
    ):
        assert f"lies in the store {store.path}" in error_line(run(*command))
        assert contents(store.path) == before
    (tmp_path / "link").symlink_to(store.path)
    for out in (store.path, store.path / "sub", tmp_path / "link"):
        result = precompute("--out", out, nnunet(f"data-{out.name}", cases=1))
        assert f"lies in the store {store.path}" in error_line(result)
        assert contents(store.path) == before


def test_case_ids_that_differ_in_letter_case_only_are_refused_before_anything_is_copied(store, tmp_path):
    other = make_store(tmp_path / "other.zarr", ["A"])
    assert "differs from the case A in letter case only" in error_line(run("pull", other.path, "-o", store.path))
    verified_store(store.path, store.digest)


def test_two_pulls_at_once_into_a_new_folder(store, tmp_path):
    for number in range(8):
        out, results = tmp_path / f"{number}.zarr", []
        threads = [
            threading.Thread(
                target=lambda out=out, results=results: results.append(run_process("pull", store.path, out))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [0, 0]
        verified_store(out, store.digest)


def run_process(command, source, out) -> int:
    import sys

    code = "from geols_precompute.cli.store import store; store()"
    arguments = [sys.executable, "-c", code, command, str(source), "-o", str(out)]
    return subprocess.run(arguments, capture_output=True, timeout=60, check=False).returncode


def test_a_writer_never_loses_its_folder_to_a_cleaner(tmp_path):
    """Threads stand for processes: a lock belongs to an open file."""
    stop, lost = threading.Event(), []

    def clean():
        while not stop.is_set():
            atomic.remove_abandoned(tmp_path)

    cleaners = [threading.Thread(target=clean) for _ in range(2)]
    for cleaner in cleaners:
        cleaner.start()
    for number in range(1500):
        with atomic.new_folder(tmp_path) as folder:
            if not folder.is_dir():
                lost.append(number)
    stop.set()
    for cleaner in cleaners:
        cleaner.join()
    assert lost == []


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nii"])
def test_a_volume_on_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, name):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", disk], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    geometry = Geometry(
        size=(40, 40, 40), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=tuple(np.eye(3).ravel())
    )
    try:
        noise = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
        with pytest.raises(OutputError, match="No space left"):
            write_image(noise, geometry, disk / name)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_compressed_volume_holds_neither_name_nor_time(tmp_path):
    geometry = Geometry(
        size=(4, 3, 2), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=tuple(np.eye(3).ravel())
    )
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_image(array, geometry, tmp_path / "patient.nii.gz")
    content = (tmp_path / "patient.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)
    assert len(gzip.decompress(content)) == 352 + array.nbytes
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "patient.nii.gz"))), array)
    assert os.listdir(tmp_path) == ["patient.nii.gz"]


# --- sources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64])
def test_a_digest_that_is_none_is_refused(store, tmp_path, digest):
    assert "64 hexadecimal digits" in error_line(run("pull", store.path, "--digest", digest, "-o", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_a_manifest_with_anything_more_is_refused(store):
    path = store.path / "manifest.json"
    document = json.loads(path.read_bytes())
    path.write_bytes(canonical_json({**document, "more": 1}))
    assert "is not written as the format prescribes" in error_line(run("info", store.path))
    path.write_text(json.dumps(document))
    assert "is not written as the format prescribes" in error_line(run("info", store.path))


def test_cases_with_equal_data_are_all_there(nnunet, tmp_path):
    root = nnunet(cases=2)
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (root / folder / f"twin{suffix}.nii.gz").write_bytes((root / folder / f"case_00{suffix}.nii.gz").read_bytes())
    assert precompute("--out", tmp_path / "o", root).exit_code == 0
    packed_, names = tmp_path / "r.zarr.zip", ("--rename", tmp_path / "o/labels.zarr")
    run("pack", *names, "-o", packed_)
    for path in (tmp_path / "o/labels.zarr", packed_):
        result = run("verify", "--data", root, path)
        assert result.exit_code == 0, result.output
        assert "3 same" in result.output


def test_a_slow_line_that_breaks_often_gets_there(tmp_path, monkeypatch):
    """Every connection brings a little; as long as it does, it goes on, and what came is not asked for again."""
    monkeypatch.setattr(remote, "WEB_PIECE_BYTES", 2**16)
    store = make_store(tmp_path / "site/labels.zarr", [])
    rng = np.random.default_rng(0)
    metadata = make_store(tmp_path / "one.zarr", ["a"]).metadata("a")
    maps = rng.integers(0, 256, (2, 64, 96, 96), np.uint8)
    document = {k: metadata.geols[k] for k in ("source", "present", "channels", "seeds", "stats")}
    geometry = Geometry(
        size=(96, 96, 64), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=tuple(np.eye(3).ravel())
    )
    commit_case(store.path, "a", {"maps": maps}, geometry, document)
    digest = run("finalize", store.path).output.split()[-1]
    shard = "/labels.zarr/a/maps/c/0/0/0/0"
    faults = Faults(lambda path, before: "cut" if path == shard and before < 5 else "")
    with failing(tmp_path / "site", faults) as server:
        result = run("pull", f"{server.url}/labels.zarr", "-o", tmp_path / "out.zarr")
    assert result.exit_code == 0, result.output
    verified_store(tmp_path / "out.zarr", digest)
    starts = [int(part_[len("bytes=") :].split("-")[0]) for path, part_ in faults.seen if path == shard and part_]
    assert starts == sorted(starts)
    assert len(set(starts)) >= 3


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_an_archive_that_is_only_sent_whole_and_breaks(store, tmp_path, fault):
    site = tmp_path / "site"
    site.mkdir()
    packed(store, site / "s.zarr.zip")
    faults = Faults(lambda path, before: fault if before else "", ranges=False)
    with failing(site, faults) as server:
        line = error_line(run("pull", f"{server.url}/s.zarr.zip", "-o", tmp_path / "out/o.zarr"))
    assert line.startswith(f"error: {server.url}/s.zarr.zip: ")
    assert ("IncompleteRead" if fault == "cut" else "is not a whole zip archive") in line
    assert "parts of files" not in line
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/x.zarr",
        "http://[zz]/x.zarr",
        "http://a..b/x.zarr",
        f"http://{'a' * 70}.com/x.zarr",
        "http://user:SECRET@127.0.0.1:99999/l?k=SECRET",
        "s3://key:SECRET@bucket/x.zarr",
        "ftp://127.0.0.1:1/x.zarr",
        "tar://x",
        "reference://x",
        "dir://x",
        "http://user:SECRET@[::1/x.zarr?k=SECRET",
    ],
)
def test_addresses_that_are_none_give_one_line_without_secrets(tmp_path, url):
    result = run("pull", url, "-o", tmp_path / "o.zarr")
    line = error_line(result)
    assert "SECRET" not in result.output
    assert "cannot be written" not in line
    assert not (tmp_path / "o.zarr").exists()


def test_paths_that_cannot_be_opened(tmp_path):
    name = tmp_path / ("x" * 300)
    for command in (
        ("info", name),
        ("verify", name),
        ("unpack", name, "-o", tmp_path / "o"),
        ("merge", name, "-o", "o"),
    ):
        line = error_line(run(*command))
        assert "no such store (File name too long)" in line
    assert "no such store" in error_line(run("pull", name, "-o", tmp_path / "o"))
    assert "no such store" in error_line(run("pack", name, "-o", tmp_path / "o.zip"))


def test_an_address_is_nothing_to_reuse(nnunet):
    line = error_line(precompute("--reuse", "https://lab.example/x.zarr", nnunet(cases=1)))
    assert "--reuse https://lab.example/x.zarr: fetch it first, with geols-store pull" in line


def test_what_a_store_says_does_nothing_to_a_terminal(tmp_path):
    store = make_store(tmp_path / "s.zarr", ["a"], terms={"licence": "free\x1b[31m\nerror: fake"})
    output = run("info", store.path).output
    assert "\x1b" not in output
    assert not [line for line in output.splitlines() if line.startswith("error")]
    assert printable("α ≤\t1\r\nmm\x9b") == "α ≤ 1 mm\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("terms", [{"licence": {"a": 1}}, {"citation": ["x"]}])
def test_terms_are_texts(tmp_path, terms):
    with pytest.raises(Exception, match="licence malformed"):
        make_store(tmp_path / "s.zarr", ["a"], terms=terms)


def test_flags_of_a_soft_label_without_one(store, tmp_path):
    for flags in (("--alpha", "0.2"), ("--normalize", "none"), ("--volumes", tmp_path)):
        line = error_line(run("export", store.path, "--case", "a", *flags, "-o", tmp_path / "x.nii.gz"))
        assert f"{flags[0]} belongs to --soft" in line


@pytest.mark.parametrize("name", ["m.mhd", "m.nrrd", "m.NII.GZ", "m"])
def test_an_export_is_nifti(store, tmp_path, name):
    line = error_line(run("export", store.path, "--case", "a", "-o", tmp_path / name))
    assert f"{name}: the name of a volume ends in .nii.gz or .nii" in line
    assert os.listdir(tmp_path) == ["labels.zarr"]
