"""Whole cases from store to store: pull, unpack and merge on this machine, and how the commands say what they did."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from click.testing import CliRunner
from sharing import CASES, make_store, run, verified_store
from stores import RECIPE

from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters, ResolvedRecipe
from geols_precompute.share import copy as share
from geols_precompute.share.merge import merge
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import write_manifest


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return make_store(tmp_path / "labels.zarr", CASES)


def test_pack_unpack_pull_and_merge_of_parts_keep_the_digest(store, tmp_path):
    archive = tmp_path / "labels.zarr.zip"
    assert store.digest in run("pack", store.path, "-o", archive).output
    for command, source, out in (
        ("unpack", archive, "u.zarr"),
        ("pull", archive, "p.zarr"),
        ("pull", store.path, "f.zarr"),
    ):
        result = run(command, source, "-o", tmp_path / out)
        assert result.exit_code == 0, result.output
        assert "4 cases copied, 0 there already, 0 failed" in result.output
        assert f"digest  {store.digest}" in result.output
        verified_store(tmp_path / out, store.digest)
    parts = [
        make_store(tmp_path / f"part{i}.zarr", cases).path for i, cases in enumerate((("c", "a"), ("b",), ("b", "d")))
    ]
    assert run("pack", parts[1], "-o", tmp_path / "part1.zarr.zip").exit_code == 0
    result = run("merge", parts[0], tmp_path / "part1.zarr.zip", parts[2], "-o", tmp_path / "m.zarr")
    assert "4 cases copied" in result.output
    verified_store(tmp_path / "m.zarr", store.digest)


@pytest.mark.parametrize("content", [b"PK precious", b""])
def test_pack_does_not_replace_what_is_no_packed_store(store, tmp_path, content):
    archive = tmp_path / "images.zip"
    archive.write_bytes(content)
    result = run("pack", store.path, "-o", archive)
    assert result.exit_code == 2
    assert f"{archive}: is there, and was not written by geols" in result.output
    assert archive.read_bytes() == content
    archive.unlink()
    assert [run("pack", store.path, "-o", archive).exit_code for _ in range(2)] == [0, 0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("flags", [(), ("--cases", "b,c")])
@pytest.mark.parametrize("file", ["maps/c/0/0/0/0", "maps/zarr.json"])
def test_pull_of_a_digest_reads_what_is_there_again(store, tmp_path, file, flags):
    out = tmp_path / "out.zarr"
    pinned = ("pull", store.path, "--digest", store.digest, "-o", out)
    run(*pinned)
    flip(out / "b" / file)
    result = run(*pinned, *flags)
    assert result.exit_code == 0, result.output
    assert f"1 case copied, {1 if flags else 3} there already" in result.output
    verified_store(out, store.digest)


@pytest.mark.parametrize("name", ["notes.txt", "b/notes.txt", "e/notes.txt"])
def test_pull_of_a_digest_refuses_what_is_no_part_of_it(store, tmp_path, name):
    out = tmp_path / "out.zarr"
    pinned = ("pull", store.path, "--digest", store.digest, "-o", out)
    run(*pinned)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    result = run(*pinned)
    assert result.exit_code == 2
    assert "is not part of the store of this digest; move it away" in result.output
    assert (out / name).read_text() == "mine"


def test_some_cases_then_the_others(store, tmp_path):
    out = tmp_path / "out.zarr"
    result = run("pull", store.path, "--cases", "a, c", "--cases", "[d-z]", "-o", out)
    assert "3 cases copied" in result.output
    assert f"its digest is {store.digest}" in result.output
    assert LabelStore.open(out).cases == ("a", "c", "d")
    result = run("pull", store.path, "-o", out)
    assert "1 case copied, 3 there already" in result.output
    assert "note" not in result.output
    verified_store(out, store.digest)
    result = run("pull", store.path, "--cases", "a,nothing*", "-o", out)
    assert result.exit_code == 2
    assert "--cases nothing*" in result.output


def test_a_pinned_digest(store, tmp_path):
    out = tmp_path / "out.zarr"
    result = run("pull", store.path, "--digest", "0" * 64, "-o", out)
    assert result.exit_code == 2
    assert store.digest in result.output
    assert not out.exists()
    assert run("pull", store.path, "--digest", store.digest.upper(), "-o", out).exit_code == 0


def test_a_damaged_case_is_named_and_not_copied_and_the_others_are(store, tmp_path):
    path, out = store.path / "b/maps/c/0/0/0/0", tmp_path / "out.zarr"
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    result = run("pull", store.path, "-o", out)
    assert result.exit_code == 1
    assert f"failed: b: {path}: {len(good) - 5} bytes, {len(good)} expected" in result.output
    assert "3 cases copied, 0 there already, 1 failed" in result.output
    assert sorted(p.name for p in out.iterdir()) == ["a", "c", "d", "zarr.json"]
    with pytest.raises(StoreError, match="run geols-store finalize"):
        LabelStore.open(out)
    path.write_bytes(good)
    assert run("pull", store.path, "-o", out).exit_code == 0
    verified_store(out, store.digest)


def test_a_case_that_was_damaged_here_is_copied_again(store, tmp_path):
    out = tmp_path / "out.zarr"
    run("pull", store.path, "-o", out)
    shard = out / "b/maps/c/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "1 case copied, 3 there already" in run("pull", store.path, "-o", out).output
    verified_store(out, store.digest)


def test_another_store_or_anything_else_is_never_overwritten(store, tmp_path):
    other = make_store(tmp_path / "other.zarr", CASES, recipe=RECIPE_8, seed=0)
    result = run("pull", store.path, "-o", other.path)
    assert result.exit_code == 2
    assert "holds another store (recipe.maps.iterations: 4, store has 8" in result.output
    verified_store(other.path, other.digest)
    unequal = make_store(tmp_path / "unequal.zarr", ("b",), seed=9)
    result = run("pull", store.path, "-o", unequal.path)
    assert "b: is another case than" in result.output
    verified_store(unequal.path, unequal.digest)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "is not empty and no store" in run("pull", store.path, "-o", tmp_path / "mine").output
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


RECIPE_8 = ResolvedRecipe(classes=RECIPE.classes, preprocessing=RECIPE.preprocessing, maps=MapParameters(iterations=8))


def test_merge_refuses_what_does_not_belong_together(store, tmp_path):
    out = tmp_path / "m.zarr"
    names = ResolvedRecipe(classes=ClassTable.from_names({1: "a", 5: "c"}), preprocessing=RECIPE.preprocessing)
    for number, (recipe, seed, cases, says) in enumerate(
        (
            (RECIPE_8, 0, CASES, "recipe.maps.iterations"),
            (names, 0, CASES, "classes"),
            (RECIPE, 7, ("x", "b", "c"), "unequal cases have one name: b ("),
            (RECIPE, 0, ("B",), "unequal cases have one name: B ("),
        )
    ):
        other = make_store(tmp_path / f"o{number}.zarr", cases, recipe=recipe, seed=seed)
        result = run("merge", store.path, other.path, "-o", out)
        assert result.exit_code == 2
        assert says in result.output
        assert not out.exists()


def test_terms_of_all_parts_hold_for_the_union(tmp_path):
    one = make_store(tmp_path / "1.zarr", "a", terms={"licence": "CC-BY 4.0", "citation": "A"})
    two = make_store(tmp_path / "2.zarr", "b", terms={"licence": "CC-BY-SA 4.0", "citation": "A"})
    digests = []
    for number, order in enumerate(((one, two), (two, one))):
        out = tmp_path / f"m{number}.zarr"
        merge(order, out, lambda case, reason: None)
        digests.append(write_manifest(out))
    united = LabelStore.open(out)
    assert united.geols["licence"] == "CC-BY 4.0; CC-BY-SA 4.0"
    assert united.geols["citation"] == "A"
    assert digests[0] == digests[1]


def test_volumes_are_private(tmp_path, nnunet):
    from geols_precompute.cli.precompute import precompute

    root = nnunet(cases=1)
    CliRunner().invoke(precompute, ["--workers", "0", str(root)])
    for command in ("pack", "pull"):
        result = run(command, root / "geols/volumes.zarr", "-o", tmp_path / "out.zip")
        assert result.exit_code == 2
        assert "format is 'geols-volumes', expected 'geols-labels'" in result.output


def test_wrong_names_of_outputs_and_inputs(store, tmp_path):
    assert "ends in .zarr.zip" in run("pack", store.path, "-o", tmp_path / "labels.zarr").output
    assert "no such store" in run("unpack", tmp_path / "nothing.zip", "-o", tmp_path / "x").output
    (tmp_path / "text.zip").write_text("not a zip")
    assert "is not a whole zip archive" in run("unpack", tmp_path / "text.zip", "-o", tmp_path / "x").output
    if os.getuid():
        tmp_path.chmod(0o500)
        try:
            assert "name another folder with -o" in run("pull", store.path, "-o", tmp_path / "x").output
        finally:
            tmp_path.chmod(0o700)


def test_a_source_that_only_fails_is_given_up(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s.zarr", [f"{letter}{i}" for letter in "abcd" for i in range(10)])
    monkeypatch.setattr(share, "MAX_FAILURES_IN_A_ROW", 5)
    for path in store.path.glob("*/maps/c"):
        shutil.rmtree(path)
    result = run("pull", store.path, "-o", tmp_path / "out.zarr")
    assert result.exit_code == 2
    assert "5 cases in a row failed, the last: " in result.output
    assert list((tmp_path / "out.zarr").iterdir()) == [tmp_path / "out.zarr/zarr.json"]


def test_a_case_that_is_not_in_the_source(store, tmp_path):
    share.create_like(tmp_path / "out.zarr", store.root_content)
    with pytest.raises(InputError, match="no case 'nothing'"):
        share.copy_cases(store, tmp_path / "out.zarr", ["nothing"], lambda case, reason: None)


def test_nothing_private_enters_a_store(nnunet, tmp_path):
    """No path, host, user or header text; the names of cases only where --rename leaves them."""
    import getpass
    import socket

    from geols_precompute.cli.precompute import precompute

    secret = b"DOE^JOHN 1970-01-01"
    root = nnunet("projectX", cases=2, ending=".nii")
    for path in sorted(root.rglob("*.nii")):
        content = bytearray(path.read_bytes())
        # descrip, aux_file and intent_name of a NIfTI-1 header
        for start, length in ((148, 80), (228, 24), (328, 16)):
            content[start : start + length] = secret.ljust(length, b"\0")[:length]
        path.with_name(path.name.replace("case_", "mrn47")).write_bytes(content)
        path.unlink()
    result = CliRunner().invoke(precompute, ["--workers", "0", str(root)])
    assert result.exit_code == 0, result.output
    labels, archive = root / "geols/labels.zarr", tmp_path / "out.zarr.zip"
    assert run("pack", labels, "--rename", "-o", archive).exit_code == 0
    assert run("unpack", archive, "-o", tmp_path / "out.zarr").exit_code == 0
    plain = b"".join(p.read_bytes() for p in labels.rglob("*") if p.is_file())
    shared = archive.read_bytes() + b"".join(p.read_bytes() for p in (tmp_path / "out.zarr").rglob("*") if p.is_file())
    words = [secret[:8], b"1970-01-01", b"projectX", str(tmp_path).encode(), socket.gethostname().encode()]
    words += [b"imagesTr", b".nii", getpass.getuser().encode() if getpass.getuser() != "root" else b"/root"]
    for word in words:
        assert word not in plain, word
        assert word not in shared, word
    assert b"mrn4701" in plain
    assert b"mrn47" not in shared
    names = (root / "geols/names.csv").read_text().splitlines()
    assert names[0] == "case,name"
    assert sorted(line.split(",")[1] for line in names[1:]) == list(LabelStore.open(archive).cases)


@pytest.mark.parametrize("value", [["geols-labels"], {}, "x" * 5000, None])
def test_a_format_that_is_none_is_one_line(store, value):
    path = store.path / "zarr.json"
    document = json.loads(path.read_bytes())
    document["attributes"]["geols"]["format"] = value
    path.write_text(json.dumps(document))
    result = run("finalize", store.path)
    assert result.exit_code == 2
    assert "is not one of geols-labels, geols-volumes" in result.output
    assert len(result.output) < 500
