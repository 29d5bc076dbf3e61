"""Packed stores: the same bytes for the same store, read by our reader and by others, and safe to open."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
from sharing import packed
from stores import contents, label_store, maps_array, reseal

from geols_precompute.errors import GeolsError, StoreError
from geols_precompute.share.pack import hashed_names, private_names
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.verify import open_store, strange_entries, verify_case

SHAPE = (9, 70, 130)


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return label_store(tmp_path / "labels.zarr", ("two", "one", "one-b", "x.y"))


@pytest.fixture
def archive(store, tmp_path):
    return packed(store, tmp_path / "labels.zarr.zip")


def test_a_packed_store_reads_as_its_folder(store, archive):
    opened = LabelStore.open(archive)
    assert opened.digest == store.digest
    assert opened.cases == store.cases
    window = (slice(1, 5), slice(20, 66), slice(64, 130))
    for case in store.cases:
        np.testing.assert_array_equal(opened.maps(case), store.maps(case))
        np.testing.assert_array_equal(opened.maps(case, window), store.maps(case)[(..., *window)])
        assert verify_case(opened, case) is None
    assert strange_entries(opened) == []
    assert open_store(archive).digest == store.digest
    assert pickle.loads(pickle.dumps(opened)).maps("one").shape == (2, *SHAPE)


def test_the_bytes_depend_on_the_store_alone(store, archive, tmp_path):
    again = label_store(tmp_path / "elsewhere" / "other.zarr", ("two", "one", "one-b", "x.y"))
    for path in again.path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert packed(again, tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    # an archive of an archive's store is that archive
    assert packed(LabelStore.open(archive), tmp_path / "third.zip").read_bytes() == archive.read_bytes()


def test_the_layout_is_the_one_that_the_format_document_promises(store, archive):
    """Read the archive with struct alone: members one after another, stored, in Zip64, in one order, no times."""
    content = archive.read_bytes()
    at, names = 0, []
    while content[at : at + 4] == b"PK\3\4":
        version, flags, method, time, date, _crc, stored, size, name_bytes, extra_bytes = struct.unpack(
            "<5H3I2H", content[at + 4 : at + 30]
        )
        assert (version, flags, method, time, date, extra_bytes) == (45, 0, 0, 0, 0x21, 20)
        assert stored == size == 0xFFFFFFFF
        name = content[at + 30 : at + 30 + name_bytes].decode("ascii")
        extra, length, size, stored = struct.unpack("<2H2Q", content[at + 30 + name_bytes :][:20])
        assert (extra, length, stored) == (1, 16, size)
        body = content[at + 50 + name_bytes :][:size]
        assert body == (store.path / name).read_bytes()
        names.append(name)
        at += 50 + name_bytes + size
    cases = sorted(store.cases)
    assert names == [
        "zarr.json",
        *(f"{case}/zarr.json" for case in cases),
        *(f"{case}/maps/zarr.json" for case in cases),
        "manifest.json",
        *(f"{case}/maps/c/0/0/0/0" for case in cases),
    ]
    assert set(names) == {p.relative_to(store.path).as_posix() for p in store.path.rglob("*") if p.is_file()}
    assert content[at : at + 4] == b"PK\1\2"
    assert zipfile.ZipFile(archive).namelist() == names


def test_the_comment_is_that_of_rfc_9(archive):
    comment = zipfile.ZipFile(archive).comment
    assert archive.read_bytes().endswith(comment)
    expected = {"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}}
    assert json.loads(comment.decode()) == expected


def test_archives_of_the_earlier_order_are_read(store, tmp_path):
    path = tmp_path / "earlier.zarr.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(contents(store.path).items()):
            archive.writestr(zipfile.ZipInfo(name), content)
    opened = LabelStore.open(path)
    assert opened.digest == store.digest
    assert [verify_case(opened, case) for case in opened] == [None] * 4


def test_zip_of_another_tool_is_read_if_it_is_stored(store, tmp_path):
    path = tmp_path / "by-hand.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in store.path.rglob("*"):
            if file.is_file():
                info = zipfile.ZipInfo.from_file(file, file.relative_to(store.path))
                info.extra = b"UT\5\0\1\0\0\0\0"
                archive.writestr(info, file.read_bytes(), zipfile.ZIP_STORED)
            else:
                archive.write(file, file.relative_to(store.path))
    assert LabelStore.open(path).digest == store.digest
    assert all(verify_case(LabelStore.open(path), case) is None for case in store.cases)


def test_a_damaged_store_is_never_packed(store, tmp_path):
    path = store.path / "one/maps/c/0/0/0/0"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    target = tmp_path / "out" / "labels.zarr.zip"
    with pytest.raises(StoreError, match=r"one/maps/c/0/0/0/0: differs from its digest"):
        packed(store, target)
    assert list(target.parent.iterdir()) == []


def test_renamed_cases_tell_nothing_and_stay_the_same_between_releases(store, tmp_path):
    names = private_names(tmp_path, store.cases)
    assert private_names(tmp_path, store.cases) == names
    for file in ("names.salt", "names.csv"):
        assert (tmp_path / file).stat().st_mode & 0o077 == 0
    path = packed(store, tmp_path / "r.zarr.zip", names)
    renamed = LabelStore.open(path)
    assert set(renamed.cases) == set(names.values())
    assert all(verify_case(renamed, case) is None for case in renamed.cases)
    content = path.read_bytes()
    assert not [case for case in ("two", "one-b", "x.y") if case.encode() in content]
    np.testing.assert_array_equal(renamed.maps(names["two"]), maps_array(0, SHAPE))
    zipped = zipfile.ZipFile(path)
    document = json.loads(zipped.read(f"{names['two']}/zarr.json"))
    assert document["attributes"]["ome"]["multiscales"][0]["name"] == names["two"]
    assert hashed_names(store.cases, b"another") != names


def test_the_table_of_names_grows_and_is_never_lost(tmp_path):
    one, two = private_names(tmp_path, ["a", "b"]), private_names(tmp_path, ["b", "c"])
    assert one["b"] == two["b"]
    rows = (tmp_path / "names.csv").read_text().splitlines()
    assert rows == ["case,name", *(f"{case},{name}" for case, name in sorted((one | two).items()))]
    (tmp_path / "names.salt").unlink()
    with pytest.raises(StoreError, match=r"names\.csv: is there without names\.salt"):
        private_names(tmp_path, ["a"])
    assert (tmp_path / "names.csv").read_text().splitlines() == rows


@pytest.mark.parametrize(("file", "says"), [("names.salt", "64 hexadecimal digits"), ("names.csv", "does not begin")])
def test_files_that_are_something_else_are_refused(tmp_path, file, says):
    (tmp_path / file).write_text("mine\n")
    with pytest.raises(StoreError, match=says):
        private_names(tmp_path, ["a"])
    assert (tmp_path / file).read_text() == "mine\n"
    assert not (tmp_path / "names.csv").exists() or file == "names.csv"


def rewritten(archive, tmp_path, change):
    """The same members, written again by `change(zip, name, content)`."""
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            change(target, name, source.read(name))
    return path


def test_compressed_and_repeated_members_are_refused(archive, tmp_path):
    path = rewritten(archive, tmp_path, lambda z, name, c: z.writestr(name, c, zipfile.ZIP_DEFLATED))
    with pytest.raises(StoreError, match="is compressed or encrypted"):
        LabelStore.open(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rewritten(archive, tmp_path, lambda z, name, c: [z.writestr(name, c) for _ in range(1 + (name < "o"))])
    with pytest.raises(StoreError, match="is in it twice"):
        LabelStore.open(path)


def test_what_is_no_archive_or_not_all_of_one(archive, tmp_path):
    content = archive.read_bytes()
    for length in (0, 10, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "short.zip").write_bytes(content[:length])
        with pytest.raises(StoreError, match="is not a whole zip archive"):
            LabelStore.open(tmp_path / "short.zip")
    (tmp_path / "longer.zip").write_bytes(content + b"\0")
    with pytest.raises(StoreError, match="it does not end where it should"):
        LabelStore.open(tmp_path / "longer.zip")
    (tmp_path / "empty.zip").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(StoreError, match=r"manifest\.json: is missing"):
        LabelStore.open(tmp_path / "empty.zip")


def test_members_that_are_missing_or_strange_are_named(archive, tmp_path):
    path = rewritten(archive, tmp_path, lambda z, n, c: None if n == "two/maps/c/0/0/0/0" else z.writestr(n, c))
    opened = LabelStore.open(path)
    assert "two/maps/c/0/0/0/0: is missing" in verify_case(opened, "two").problem
    with zipfile.ZipFile(path, "a") as zipped:
        for name in ("one/extra", "../../escape", "more"):
            zipped.writestr(name, b"")
    opened = LabelStore.open(path)
    assert "one/extra: is not part of the case" in verify_case(opened, "one").problem
    assert len(strange_entries(opened)) == 2


def test_a_directory_of_gigabytes_is_refused_before_it_is_read(archive, tmp_path):
    content = archive.read_bytes()
    path = tmp_path / "huge.zip"
    with path.open("wb") as file:
        file.truncate(2**31)
        file.seek(0, os.SEEK_END)
        end = bytearray(content[content.rindex(b"PK\5\6") :])
        struct.pack_into("<II", end, 12, 2**31 - 1000, 1000)
        file.write(end)
    with pytest.raises(StoreError, match="directory has more than"):
        LabelStore.open(path)


def test_mutated_archives_give_an_error_or_the_data(store, archive, tmp_path):
    rng = random.Random(0)
    content = archive.read_bytes()
    directory = content.index(b"PK\1\2")
    good = {case: store.maps(case) for case in store.cases}
    path = tmp_path / "mutated.zip"
    refused = 0
    for round_ in range(1500):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 4])):
            at = rng.randrange(len(content)) if round_ % 3 else rng.randrange(directory, len(content))
            changed[at] = rng.choice([0, 255, changed[at] ^ (1 << rng.randrange(8))])
        if round_ % 7 == 0:
            start = rng.randrange(len(changed))
            del changed[start : start + rng.choice([1, 30, 5000])]
        path.write_bytes(changed)
        try:
            opened = LabelStore.open(path)
            for case in opened.cases:
                np.testing.assert_array_equal(opened.maps(case), good[case])
        except GeolsError:
            refused += 1
    assert refused > 500


def test_resealed_archives_are_read_like_folders(store, tmp_path):
    """An attacker who controls the digests gains nothing by packing."""
    path = store.path / "one/maps/c/0/0/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    target = tmp_path / "forged.zip"
    with zipfile.ZipFile(target, "w") as archive:
        reseal(store)
        for file in store.path.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(store.path))
    with pytest.raises(StoreError):
        LabelStore.open(target).maps("one")
