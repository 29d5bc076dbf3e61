"""Stores, archives, servers and texts from anywhere: what is read is what the digest names, memory and messages have
an end, and nothing reaches a terminal as it came.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr
from reports import document_of
from sharing import make_store, packed, run
from stores import RECIPE, SOURCE, geometry, label_store, rewrite
from train_fixtures import make_stores

from geols_precompute.cli import options
from geols_precompute.errors import OutputError, RecipeError, StoreError
from geols_precompute.formatting import MAX_LINE, printable, printable_lines, without_secrets
from geols_precompute.geodesic import jit
from geols_precompute.progress import TerminalProgress
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters, Preprocessing, ResolvedRecipe, TrainingHints
from geols_precompute.report import page
from geols_precompute.share import copy as share
from geols_precompute.share import export, remote
from geols_precompute.store import archive as archives
from geols_precompute.store import files, guards, reader
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.writer import commit_case, create_store, write_manifest

EVIL = "\x1b]0;PWNED\x07\x1b[31m\x9b2J\u202e"
SHARD = "maps/c/0/0/0/0"


# --- the digest is that of what is read ----------------------------------------------------------------------------


def swapped(store: LabelStore) -> LabelStore:
    """The store with the shards of its two cases, which are equally large, in each other's place."""
    one, two = (store.path / case / SHARD for case in ("one", "two"))
    assert one.stat().st_size == two.stat().st_size
    one.rename(store.path / "kept")
    two.rename(one)
    (store.path / "kept").rename(two)
    return LabelStore.open(store.path)


def test_a_whole_array_is_that_of_the_digest(tmp_path):
    root, rng = tmp_path / "labels.zarr", np.random.default_rng(0)
    create_store(root, root_metadata("geols-labels", RECIPE.as_json(), RECIPE.classes, {}))
    for case in ("one", "two"):
        document = {"source": SOURCE, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
        # random bytes cannot be compressed, so that both shards are equally large
        maps = rng.integers(0, 256, (2, 8, 9, 10), np.uint8)
        commit_case(root, case, {"maps": maps}, geometry((8, 9, 10)), document)
    write_manifest(root)
    store = LabelStore.open(root)
    right = zarr.open_group(store.path, mode="r")["one/maps"][:]
    np.testing.assert_array_equal(store.maps("one"), right)
    false = swapped(store)
    archive = tmp_path / "false.zarr.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(path for path in store.path.rglob("*") if path.is_file()):
            opened.writestr(path.relative_to(store.path).as_posix(), path.read_bytes())
    for opened in (false, LabelStore.open(archive)):
        assert opened.digest == store.digest
        for read in (opened.maps, opened.class_maps):
            with pytest.raises(StoreError, match="one/maps/c/0/0/0/0: differs from its digest"):
                read("one")
    for path in (store.path, archive):
        result = run("export", path, "--case", "one", "-o", tmp_path / "x.nii.gz")
        assert result.exit_code == 2
        assert "differs from its digest" in result.output
        assert not (tmp_path / "x.nii.gz").exists()


def test_a_report_refuses_false_maps(tmp_path):
    out = make_stores(tmp_path / "stores", cases=2)
    one, two = (path / SHARD for path in sorted((out / "labels.zarr").iterdir()) if path.is_dir())
    content = one.read_bytes()
    one.write_bytes((two.read_bytes() + bytes(len(content)))[: len(content)])
    result = run("report", out / "labels.zarr", "-o", tmp_path / "r.html")
    assert result.exit_code == 2
    assert "differs from its digest" in result.output


def test_a_shard_larger_than_its_array_is_refused_before_it_is_read(tmp_path):
    store = label_store(tmp_path / "labels.zarr", ("one",), shape=(8, 9, 10))
    huge = {"bytes": 2**33, "sha256": "0" * 64}
    document = json.loads((store.path / "one/zarr.json").read_text())
    document["attributes"]["geols"]["files"][SHARD] = huge
    with pytest.raises(StoreError, match="not plausible for 8589934592 bytes"):
        guards.checked_case(document, "one/zarr.json", store.root)


def test_metadata_of_many_cases_are_not_all_kept(tmp_path, monkeypatch):
    store = label_store(tmp_path / "labels.zarr", ("one", "two"), shape=(4, 5, 6))
    monkeypatch.setattr(reader, "MAX_KEPT_BYTES", (store.path / "one/zarr.json").stat().st_size)
    first, second = store.metadata("one"), store.metadata("two")
    assert store.metadata("one") is first
    assert store.metadata("two") == second
    assert store.metadata("two") is not second


# --- archives --------------------------------------------------------------------------------------------------------


def test_members_that_share_bytes_are_refused(tmp_path):
    store = label_store(tmp_path / "labels.zarr", ("one",), shape=(8, 9, 10))
    bomb = tmp_path / "bomb.zarr.zip"
    with zipfile.ZipFile(bomb, "w") as opened:
        opened.writestr("one/maps/zarr.json", bytes(100))
        first = opened.getinfo("one/maps/zarr.json")
        again = zipfile.ZipInfo("two/maps/zarr.json")
        again.header_offset, again.CRC = first.header_offset, first.CRC
        again.file_size = again.compress_size = first.file_size
        opened.filelist.append(again)
    with pytest.raises(StoreError, match="overlaps another file"):
        LabelStore.open(bomb)
    # and one whose local header says that its bytes begin among those of the next
    shifted = packed(store, tmp_path / "shifted.zarr.zip")
    content = bytearray(shifted.read_bytes())
    struct.pack_into("<H", content, content.index(b"PK\3\4") + 28, 500)
    shifted.write_bytes(content)
    opened = archives.Archive(files.Folder(tmp_path), shifted.name)
    with pytest.raises(StoreError, match="is damaged"), opened.open("zarr.json"):
        pass


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a\\b", f"c/{EVIL}", "x" * 501])
def test_odd_names_in_an_archive_are_refused_in_one_line(tmp_path, name):
    path, encoded = tmp_path / "x.zarr.zip", name.encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0x800, 0, 0, 33, 0, 0, 0, len(encoded), 0) + encoded
    entry = (
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0x800, 0, 0, 33, 0, 0, 0, len(encoded), 0, 0, 0, 0, 0, 0)
        + encoded
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)
    path.write_bytes(local + entry + end)
    result = run("info", path)
    assert result.exit_code == 2
    assert "which no store has" in result.output
    assert "unexpected" not in result.output
    assert result.output.count("\n") == 1
    assert "\x1b" not in result.output


def test_a_directory_of_too_many_members_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    store = label_store(tmp_path / "labels.zarr", ("one", "two"), shape=(4, 5, 6))
    path = packed(store, tmp_path / "labels.zarr.zip")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 8)
    assert LabelStore.open(path).digest == store.digest
    monkeypatch.setattr(archives, "MAX_MEMBERS", 7)
    with pytest.raises(StoreError, match="more than 7 files"):
        LabelStore.open(path)


# --- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'{"cases":[' + b"[]," * 400_000 + b"[]]}",
        b'{"cases":{' + b'"":{},' * 200_000 + b'"":{}}}',
        b'{"cases":{' + b",".join(b'"%x":0' % n for n in range(150_000)) + b"}}",
    ],
)
def test_a_manifest_that_would_take_much_memory_is_not_parsed(content, monkeypatch):
    monkeypatch.setattr(guards, "parse_json", lambda content, where: pytest.fail("was parsed"))
    with pytest.raises(StoreError, match="not written as the format prescribes"):
        guards.checked_manifest(content, "manifest.json", "geols-labels")


def test_commands_do_not_parse_such_a_manifest_either(tmp_path):
    store = label_store(tmp_path / "labels.zarr", ("one",), shape=(4, 5, 6))
    (store.path / "manifest.json").write_bytes(b'{"format":[' + b"[]," * 400_000 + b"[]]}")
    result = run("info", store.path)
    assert result.exit_code == 2
    assert "not written as the format prescribes" in result.output


def test_documents_of_many_levels_are_refused():
    def nested(levels):
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert files.parse_json(nested(files.MAX_DEPTH), "x") is not None
    with pytest.raises(StoreError, match="more than 32 levels"):
        files.parse_json(nested(files.MAX_DEPTH + 1), "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda geols: geols["recipe"].update({f"p{n}": n for n in range(50_000)}),
        lambda geols: geols["recipe"].update(x="A" * 900_000),
        lambda geols: geols.update(licence=EVIL * 90_000),
        lambda geols: geols["classes"][1].update(value=10**4299),
        lambda geols: geols["classes"][1].update(name=f"a{EVIL}"),
        lambda geols: geols.update(version=10**4299),
        lambda geols: geols.update(format="A" * 900_000),
        lambda geols: geols.update(training={"regions": {EVIL: [1]}}),
        lambda geols: geols["recipe"].update(maps=[]),
    ],
)
def test_hostile_metadata_give_few_bounded_lines(tmp_path, change):
    store = label_store(tmp_path / "labels.zarr", ("one",), shape=(4, 5, 6))

    def changed(document):
        change(document["attributes"]["geols"])
        geols = document["attributes"]["geols"]
        geols["recipe_id"] = guards.sha256_hex(guards.canonical_json(geols["recipe"]))

    with suppress(StoreError):
        rewrite(store, "zarr.json", changed)
    document = json.loads((store.path / "zarr.json").read_text())
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest |= {
        "root": guards.sha256_hex((store.path / "zarr.json").read_bytes()),
        "recipe_id": document["attributes"]["geols"]["recipe_id"],
    }
    (store.path / "manifest.json").write_bytes(guards.canonical_json(manifest))
    for command in (["info"], ["verify"], ["export", "--case", "one", "-o", tmp_path / "x.nii"]):
        result = run(command[0], store.path, *command[1:])
        assert "unexpected" not in result.output
        assert result.output.count("\n") < 300
        assert all(len(line) <= MAX_LINE + 100 for line in result.output.splitlines())
        assert re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", result.output) is None


# --- names that a store can hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["left\u00a0kidney", "left\tkidney", "k" * 201, EVIL, "\ud800", "", "a\nb"])
def test_names_that_no_store_holds_are_refused_at_once(name):
    with pytest.raises(RecipeError, match="class names must be different") as raised:
        ClassTable.from_names({1: name})
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300
    with pytest.raises(RecipeError, match="modalities must be different names"):
        Preprocessing(modalities=(name,))
    with pytest.raises(RecipeError, match="names of regions"):
        ResolvedRecipe(
            classes=ClassTable.from_names({1: "a"}),
            preprocessing=Preprocessing(modalities=("ct",)),
            hints=TrainingHints(regions={name: (1,)}),
        )


@pytest.mark.parametrize("name", ["k" * 200, "Leber (rechts), Größe ≥ 1", "左腎"])
def test_other_names_survive_a_round_trip(tmp_path, name):
    recipe = ResolvedRecipe(
        classes=ClassTable.from_names({1: name, 5: "x"}), preprocessing=Preprocessing(modalities=(name,))
    )
    store = make_store(tmp_path / "labels.zarr", ["a"], recipe=recipe)
    assert store.classes.names == ("background", name, "x")
    assert zarr.open_group(store.path, mode="r").attrs["geols"]["classes"][1]["name"] == name
    assert name in run("info", store.path).output


# --- what reaches a terminal -----------------------------------------------------------------------------------------


def test_nothing_reaches_a_terminal_as_it_came(capsys, monkeypatch):
    assert printable(f"a{EVIL}b").isprintable()
    assert printable("a\tb\nc") == "a b c"
    long = printable("x" * 60_000_000)
    assert len(long) < MAX_LINE + 100
    assert "59995000 characters" in long
    assert printable_lines(f"  at {EVIL}\n  there") == "  at " + printable(EVIL) + "\n  there"
    TerminalProgress().say(f"classes {EVIL}\nnote")
    options.say(EVIL, f"{EVIL}\n", err=True)
    monkeypatch.setattr(warnings, "showwarning", options._show_warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"file {EVIL}", UserWarning, stacklevel=1)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "PWNED" in text
        assert all(line.isprintable() for line in text.splitlines())
    assert captured.out.count("\n") == 2


def test_addresses_are_shown_without_secrets():
    for address in (
        "https://user:SECRET@host/l.zarr?X-Amz-Signature=SECRET&a=b",
        "https:/user:SE@CRET@host/l.zarr",
        "Max retries exceeded with url: /l.zarr?X-Amz-Signature=SECRET (Caused by x)",
        "s3://SECRET:SECRET@bucket/x#token=SECRET'",
    ):
        assert "SECRET" not in without_secrets(address)
    assert without_secrets("https://host:80/a/b.zarr: no") == "https://host:80/a/b.zarr: no"
    assert without_secrets("File /a/b.py, line 3, in f? (x=3)") == "File /a/b.py, line 3, in f? (x=3)"


def test_debug_shows_no_secrets(tmp_path):
    url = "http://user:SECRETPW@127.0.0.1:9/l.zarr?X-Amz-Signature=SECRETQ"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from geols_precompute.cli.store import store; store()",
            "pull",
            "--debug",
            url,
            "-o",
            "o",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "SECRET" not in done.stderr + done.stdout


def test_too_little_memory_is_one_plain_line():
    @options.reports_errors(extra="train")
    def hungry(debug: bool) -> int:
        raise MemoryError("Unable to allocate 9 TiB")

    from click import command
    from click.testing import CliRunner

    result = CliRunner().invoke(command(hungry), [])
    assert result.exit_code == 2
    assert result.output == "error: not enough memory (Unable to allocate 9 TiB); use a machine that has more\n"


def test_an_export_that_memory_is_too_small_for_is_refused_before_it_reads(tmp_path, monkeypatch):
    store = label_store(tmp_path / "labels.zarr", ("one",), shape=(8, 9, 10))
    monkeypatch.setattr(export, "free_memory", lambda: 8 * 9 * 10 * (2 + 4 * 3 + 8 * 3) - 1)
    monkeypatch.setattr(LabelStore, "maps", lambda *_: pytest.fail("was read"))
    result = run("export", store.path, "--case", "one", "-o", tmp_path / "x.nii.gz")
    assert result.exit_code == 2
    assert "an export of it needs about 27.4 kB of memory, and 27.4 kB are free here" in result.output


# --- pull ------------------------------------------------------------------------------------------------------------


def test_pull_of_a_digest_leaves_that_store_or_says_why_not(tmp_path):
    old = make_store(tmp_path / "v1.zarr", ("a", "b", "withdrawn"))
    new, out = make_store(tmp_path / "v2.zarr", ("a", "b")), tmp_path / "out.zarr"
    assert run("pull", old.path, "-o", out).exit_code == 0
    result = run("pull", new.path, "--digest", new.digest, "-o", out)
    assert result.exit_code == 2
    assert "has 1 case that the store of this digest has not (withdrawn)" in result.output
    assert LabelStore.open(out).digest == old.digest
    shutil.move(out / "withdrawn", tmp_path)
    assert run("pull", new.path, "--digest", new.digest, "-o", out).exit_code == 0
    assert LabelStore.open(out).digest == new.digest


def test_a_folder_that_is_being_filled_takes_no_other_store(tmp_path):
    other = ResolvedRecipe(classes=RECIPE.classes, preprocessing=RECIPE.preprocessing, maps=MapParameters(lam=0.25))
    one, two = make_store(tmp_path / "1.zarr", "ab"), make_store(tmp_path / "2.zarr", "cd", recipe=other)
    out = tmp_path / "out.zarr"
    with share.filling(out, one.root_content) as check:
        result = run("pull", two.path, "-o", out)
        assert result.exit_code == 2
        assert "is being filled with another store (recipe.maps.lam: 0.25, store has 1.0" in result.output
        # the same store may be pulled twice at once
        assert run("pull", one.path, "--cases", "a", "-o", out).exit_code == 0
        check()
    assert LabelStore.open(out).cases == ("a",)


def test_no_case_is_committed_to_a_folder_that_has_become_another_store(tmp_path):
    other = ResolvedRecipe(classes=RECIPE.classes, preprocessing=RECIPE.preprocessing, maps=MapParameters(lam=0.25))
    one, two = make_store(tmp_path / "1.zarr", "ab"), make_store(tmp_path / "2.zarr", "cd", recipe=other)
    out = tmp_path / "out.zarr"
    with share.filling(out, one.root_content) as check:
        (out / "zarr.json").write_bytes(two.root_content)  # as where a file system has no locks
        summary = share.copy_cases(one, out, one.cases, lambda case, error: None, check=check)
    assert set(summary.failures) == {"a", "b"}
    assert "has become another store" in summary.failures["a"]
    assert [path.name for path in out.iterdir()] == ["zarr.json"]


# --- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def answering(answer):
    """A server whose every answer to GET is what a function writes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(OSError):
                answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def endless(first, **headers):
    def answer(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(first)
        while True:
            handler.wfile.write(bytes(2**20))

    return answer


def test_an_archive_without_end_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(share, "MAX_UNSIZED_BYTES", 10_000_000)
    for first, says in ((b"PK\3\4", "sends more than 10 MB and has not said"), (b"<html>", "is no zip archive")):
        with answering(endless(first)) as url:
            result = run("pull", f"{url}/x.zarr.zip", "-o", tmp_path / "o/s.zarr")
        assert result.exit_code == 2
        assert says in result.output
        assert list((tmp_path / "o").iterdir()) == []


def test_an_archive_larger_than_the_disk_is_refused_before_it_is_fetched(tmp_path):
    with answering(endless(b"PK\3\4", Content_Length=str(2**60))) as url:
        result = run("pull", f"{url}/x.zarr.zip", "-o", tmp_path / "o/s.zarr")
    assert result.exit_code == 2
    assert "has 1.15e+06 TB, the server does not send parts of files" in result.output


def test_a_compressed_answer_is_refused(tmp_path):
    with answering(endless(b"\x1f\x8b", Content_Encoding="gzip")) as url:
        result = run("pull", f"{url}/x.zarr", "-o", tmp_path / "s.zarr")
    assert result.exit_code == 2
    assert "sends it compressed, unasked" in result.output


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}, {"Content-Length": str(2**40)}])
def test_the_body_of_an_answer_that_leads_elsewhere_is_not_read(tmp_path, headers):
    piece, sent = gzip.compress(bytes(2**20)), []

    def leading(handler):
        leads = not handler.path.startswith("/moved")
        handler.send_response(302 if leads else 404)
        handler.send_header("Location", f"/moved{handler.path}")
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        # compressed, and a thousand times as much where it is expanded
        while leads and sum(sent) < 2**28:
            sent.append(handler.wfile.write(piece))

    with answering(leading) as url:
        result = run("pull", f"{url}/labels.zarr", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "the server answers 404 Not Found; is the address right?" in result.output
    assert sum(sent) < 2**26


@pytest.mark.parametrize("digits", [31, 5000])
def test_sizes_that_no_file_has_are_none(tmp_path, digits):
    def answer(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-0/{'9' * digits}")
        handler.send_header("Content-Length", "1")
        handler.end_headers()
        handler.wfile.write(b"P")

    with answering(answer) as url:
        result = run("pull", f"{url}/x.zarr.zip", "-o", tmp_path / "s.zarr")
    assert result.exit_code == 2
    assert "is not a whole zip archive" in result.output
    assert len(result.output) < 500


def test_a_reason_without_end_is_cut(tmp_path):
    with answering(lambda handler: handler.wfile.write(b"HTTP/1.1 404 \x1b[31m" + b"A" * 50_000 + b"\r\n\r\n")) as url:
        result = run("pull", f"{url}/x.zarr", "-o", tmp_path / "s.zarr")
    assert result.exit_code == 2
    assert len(result.output) < 1000
    assert "\x1b" not in result.output


def test_a_server_that_sends_more_than_was_asked_for_is_cut_off(tmp_path):
    sent = []

    def more(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 5-9/10")
        handler.end_headers()
        for _ in range(500):
            handler.wfile.write(bytes(2**20))
            sent.append(1)

    with answering(more) as url:
        file = remote.RemoteFile(files=remote.WebFiles(urlsplit(url)), relative="x")
        assert b"".join(file.stream(5, 10)) == bytes(5)
    assert len(sent) < 100


def test_an_answer_of_a_bucket_is_read_as_far_as_it_was_asked_for():
    class Body:
        taken, closed = 0, False

        async def read(self, size):
            piece = bytes(min(size, 1000))
            self.taken += len(piece)
            return piece

        def close(self):
            self.closed = True

    body = Body()
    assert asyncio.run(remote._read_at_most(body, 2500)) == bytes(2500)
    assert (body.taken, body.closed) == (2500, True)


def test_https_never_leads_to_http():
    files_there = remote.WebFiles(urlsplit("https://example.org/labels.zarr"))

    class Redirecting(type(files_there._session.adapters["https://"])):
        def send(self, request, **kwargs):
            import requests

            response = requests.Response()
            response.status_code, response.request, response.url = 302, request, request.url
            response.headers["Location"] = "http://example.org/elsewhere"
            response.raw = SimpleNamespace(close=lambda: None, release_conn=lambda: None, read=lambda *a, **k: b"")
            return response

    files_there._session.mount("https://", Redirecting())
    with pytest.raises(StoreError, match="leads from https to what is not safe"):
        list(files_there.request("manifest.json", 0, 10))


# --- the report of many cases ----------------------------------------------------------------------------------------


def test_the_report_of_many_cases_has_an_end_and_shows_some(tmp_path, monkeypatch):
    out = make_stores(tmp_path / "stores", cases=12, vary=True)
    labels = LabelStore.open(out / "labels.zarr")
    monkeypatch.setattr(page, "MOST_RANKED", 5)
    monkeypatch.setattr(page, "MOST_NAMED", 2)
    path = tmp_path / "r.html"
    assert run("report", labels.path, "-o", path, "--cases", labels.cases[-1]).exit_code == 0
    document = document_of(path)
    assert document["cases_in_all"] == 12
    assert 5 <= len(document["ranking"]) <= 6
    assert labels.cases[-1] in [entry["id"] for entry in document["ranking"]]
    for flag in document["flags"]:
        assert len(flag["cases"]) == min(flag["count"], 3)
        assert flag["count"] <= 2 or flag["cases"][2] == f"and {flag['count'] - 2} more"
    # the histograms are of all cases
    for channel in range(len(labels.channels)):
        counts = sum(np.bincount(labels.maps(case)[channel].ravel(), minlength=256) for case in labels.cases)
        share_of_bins = counts.reshape(32, 8).sum(axis=1) / counts.sum()
        np.testing.assert_allclose(document["dataset"][channel + 1]["histogram"], share_of_bins, atol=1e-6)


def test_a_case_too_large_for_the_page_makes_room_for_the_others(tmp_path, monkeypatch):
    out = make_stores(tmp_path / "stores", cases=3, vary=True)
    large = LabelStore.open(out / "labels.zarr").cases[0]

    def slices(case, most_bytes):
        # too large even with the fewest slices
        return {"id": case.id, "x": "y" * (31_000_000 if case.id == large else 10)}

    monkeypatch.setattr(page, "case_slices", slices)
    assert run("report", out / "labels.zarr", "-o", tmp_path / "r.html").output.count("2 shown") == 1
    assert (tmp_path / "r.html").stat().st_size < page.MOST_BYTES


# --- machine code of others ------------------------------------------------------------------------------------------


def test_machine_code_is_taken_from_folders_of_our_own_only(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    folder = jit._cache_folder.__wrapped__()
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert jit.untrusted(folder) == ""
    (folder / "x.nbi").touch()
    assert jit.untrusted(folder) == ""
    tmp_path.chmod(0o777)
    assert "other users can write to" in jit.untrusted(folder)
    with pytest.warns(UserWarning, match="compiled anew"):
        assert jit._cache_folder.__wrapped__() is None
    tmp_path.chmod(0o1777)  # as /tmp
    assert jit.untrusted(folder) == ""
    folder.chmod(0o755)
    (folder / "x.nbi").chmod(0o666)
    assert "x.nbi belongs to another user, or others can write to it" in jit.untrusted(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_machine_code_of_another_user_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    folder = jit._cache_folder.__wrapped__()
    (folder / "x.nbi").touch()
    os.chown(folder / "x.nbi", 12345, -1)
    assert "x.nbi belongs to another user" in jit.untrusted(folder)
    os.chown(folder, 12345, -1)
    assert f"{folder} belongs to another user" in jit.untrusted(folder)


def test_outputs_of_pull_are_never_larger_than_the_disk_says(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    error = remote.WholeFilesOnlyError("x", 6)

    class Refusing:
        location = "http://x"

        def open(self, name):
            raise error

    with pytest.raises(OutputError, match=r"has 0\.006 kB"), share._remote_archive(Refusing(), "a.zip", tmp_path):
        pass
