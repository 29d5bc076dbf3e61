"""The store's bytes against readers that are not ours, and its guards against damage."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import pickle
import shutil
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from stores import CLASSES, RECIPE, SOURCE, geometry, label_store, maps_array, reseal, rewrite

from geols_precompute.atomic import TEMPORARY_PREFIX, remove_abandoned
from geols_precompute.data.prepare import to_int16
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import GeolsError, InputError, StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import (
    MapParameters,
    Preprocessing,
    ResolvedRecipe,
    TrainingHints,
    channel_parts,
)
from geols_precompute.softlabel import class_maps, soft_label
from geols_precompute.store import shard
from geols_precompute.store.layout import IMAGE, LABEL, MAPS, array_metadata, root_metadata
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import open_store, strange_entries, verify_case
from geols_precompute.store.writer import (
    amend_manifest,
    commit_case,
    committed_cases,
    create_store,
    remove_case,
    write_manifest,
)


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return label_store(tmp_path / "labels.zarr")


@pytest.mark.parametrize(
    ("n", "parts", "inner"),
    [(1, 1, 1), (40, 1, 40), (59, 1, 59), (60, 2, 30), (61, 2, 31), (112, 3, 38), (160, 4, 40), (208, 5, 42)],
)
def test_axes_are_cut_into_equal_parts_near_40(n, parts, inner):
    grid = MAPS.grid((3, n, 10, 10))
    assert (grid.parts[1], grid.inner[1]) == (parts, inner)
    assert grid.shard[1] >= n


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 70, 130), (64, 64, 64), (33, 97, 161)])
def test_plain_zarr_and_tensorstore_read_what_we_write(tmp_path, shape):
    import tensorstore

    store = label_store(tmp_path / "s.zarr", cases=("one",), shape=shape)
    expected = maps_array(0, shape)
    np.testing.assert_array_equal(store.maps("one"), expected)
    array = zarr.open_group(store.path, mode="r")["one/maps"]
    np.testing.assert_array_equal(array[:], expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / "one" / "maps")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), expected)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_windows_equal_plain_zarr(tmp_path_factory, data):
    store = label_store(tmp_path_factory.mktemp("w") / "s.zarr", cases=("one",), shape=(9, 70, 130))
    window = []
    for n in (9, 70, 130):
        start = data.draw(st.integers(0, n - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, n))))
    expected = zarr.open_group(store.path, mode="r")["one/maps"][(slice(None), *window)]
    np.testing.assert_array_equal(store.maps("one", tuple(window)), expected)


@pytest.mark.parametrize("channels", [1, 4, 5, 6, 13])
def test_channels_may_come_some_at_a_time(tmp_path, channels):
    """Chunks hold at most four; plain zarr and tensorstore read them, and every window of ours is theirs."""
    import tensorstore

    array = np.random.default_rng(channels).integers(0, 256, (channels, 9, 70, 45)).astype(np.uint8)

    class Stream:
        shape = array.shape

        def __iter__(self):
            return (array[part] for part in channel_parts(channels))

    file = io.BytesIO()
    assert shard.write_shard(file, Stream(), MAPS) == hashlib.sha256(array.tobytes()).hexdigest()
    assert file.getvalue() == shard.encode_shard(array, MAPS)
    grid = MAPS.grid(array.shape)
    assert grid.inner[0] <= 4
    assert grid.inner[0] * grid.parts[0] >= channels
    path = tmp_path / MAPS.shard_path
    path.parent.mkdir(parents=True)
    path.write_bytes(file.getvalue())
    (tmp_path / MAPS.metadata_path).write_bytes(canonical_json(array_metadata(MAPS, array.shape)))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "maps", mode="r")[:], array)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "maps")}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array)
    window = (slice(2, 8), slice(30, 61), slice(0, 44))
    content = file.getvalue()
    read = shard.decode_window(lambda at, n: content[at : at + n], len(content), MAPS, array.shape, window, "x")
    np.testing.assert_array_equal(read, array[(slice(None), *window)])


def test_too_few_channels_are_noticed():
    class Cut:
        shape = (6, 3, 4, 5)

        def __iter__(self):
            yield np.zeros((3, 3, 4, 5), np.uint8)

    with pytest.raises(ValueError, match=r"1 chunks of .* 2 expected"):
        shard.write_shard(io.BytesIO(), Cut(), MAPS)


def test_our_metadata_is_what_zarr_would_write(tmp_path, store):
    """Zarr-python, asked for the same array, writes the same fields."""
    ours = json.loads((store.path / "one/maps/zarr.json").read_text())
    grid = MAPS.grid((2, 9, 70, 130))
    array = zarr.create_array(
        tmp_path / "z.zarr",
        shape=(2, 9, 70, 130),
        chunks=grid.inner,
        shards=grid.shard,
        dtype="uint8",
        fill_value=0,
        compressors=[
            zarr.codecs.BloscCodec(cname="lz4", clevel=9, shuffle="noshuffle", typesize=1),
            zarr.codecs.Crc32cCodec(),
        ],
        dimension_names=["c", "z", "y", "x"],
    )
    theirs = json.loads((tmp_path / "z.zarr/zarr.json").read_text())
    ours["codecs"][0]["configuration"]["index_location"] = "end"
    theirs = {key: value for key, value in theirs.items() if key in ours}
    assert ours == theirs
    assert array.shape == (2, 9, 70, 130)


def test_every_case_is_an_ome_ngff_image(store):
    from ome_zarr_models.v05.image import Image

    group = zarr.open_group(store.path / "one", mode="r")
    image = Image.from_zarr(group)
    scale = image.attributes.ome.multiscales[0].datasets[0].coordinateTransformations[0].scale
    assert scale == [1.0, 2.0, 1.5, 1.0]


def test_incompressible_constant_and_single_voxel_arrays_survive():
    rng = np.random.default_rng(0)
    for kind, array in (
        (MAPS, rng.integers(0, 256, (3, 70, 5, 6)).astype(np.uint8)),
        (MAPS, np.zeros((1, 1, 1, 1), np.uint8)),
        (IMAGE, rng.integers(-32768, 32767, (2, 7, 100, 6)).astype(np.int16)),
        (LABEL, np.full((130, 3, 4), 255, np.uint8)),
    ):
        content = shard.encode_shard(array, kind)
        assert content == shard.encode_shard(np.asfortranarray(array), kind)
        window = tuple(slice(0, n) for n in array.shape[-3:])

        def pread(offset, length, content=content):
            return content[offset : offset + length]

        decoded = shard.decode_window(pread, len(content), kind, array.shape, window, "x")
        np.testing.assert_array_equal(decoded, array)


def test_a_case_has_three_files_and_the_digests_chain(store):
    files = sorted(p.relative_to(store.path / "one").as_posix() for p in (store.path / "one").rglob("*") if p.is_file())
    assert files == ["maps/c/0/0/0/0", "maps/zarr.json", "zarr.json"]
    manifest = (store.path / "manifest.json").read_bytes()
    document = json.loads(manifest)
    assert manifest == canonical_json(document)
    assert store.digest == sha256_hex(manifest)
    assert document["root"] == sha256_hex((store.path / "zarr.json").read_bytes())
    assert document["cases"]["one"] == sha256_hex((store.path / "one/zarr.json").read_bytes())
    root = json.loads((store.path / "zarr.json").read_text())["attributes"]["geols"]
    assert root["recipe_id"] == document["recipe_id"] == sha256_hex(canonical_json(root["recipe"]))
    assert root["classes"] == [
        {"name": "background", "value": 0},
        {"name": "a", "value": 1},
        {"name": "b", "value": 5},
    ]


def test_equal_stores_have_equal_digests_whatever_the_order(tmp_path):
    assert label_store(tmp_path / "a.zarr").digest == label_store(tmp_path / "b.zarr").digest
    one = label_store(tmp_path / "c.zarr", cases=("one",)).digest
    assert one != label_store(tmp_path / "d.zarr").digest


def test_int16_is_exact_for_whole_numbers_and_close_otherwise():
    rng = np.random.default_rng(0)
    for image, bound in (
        (rng.integers(-1024, 3000, (1, 4, 5, 6)), 0),
        (rng.integers(0, 65535, (1, 4, 5, 6)), 0),
        (rng.normal(size=(1, 4, 5, 6)), 1.1 / 131070),
        (1e6 * rng.random((1, 4, 5, 6)), 1.1 / 131070),
        (np.full((1, 2, 2, 2), 0.3), 1e-7),
    ):
        image = image.astype(np.float32)
        stored, scale, offset = to_int16(image)
        decoded = stored.astype(np.float64) * scale[0] + offset[0]
        assert np.abs(decoded - image).max() <= bound * max(float(np.ptp(image)), 1)


def test_a_case_committed_twice_must_be_equal(store):
    shape = (9, 70, 130)
    document = {"source": SOURCE, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
    commit_case(store.path, "one", {"maps": maps_array(0, shape)}, geometry(shape), document)
    with pytest.raises(StoreError, match="committed with other content"):
        commit_case(store.path, "one", {"maps": maps_array(1, shape)}, geometry(shape), document)
    assert write_manifest(store.path) == store.digest
    assert not list(store.path.glob(f"{TEMPORARY_PREFIX}*"))


def test_a_store_of_another_recipe_names_what_differs(store):
    other = {**RECIPE.as_json(), "maps": {**RECIPE.as_json()["maps"], "iterations": 8}}
    with pytest.raises(StoreError, match=r"recipe\.maps\.iterations: 8, store has 4.*--name"):
        create_store(store.path, root_metadata("geols-labels", other, RECIPE.classes, {}))
    classes = ClassTable.from_names({1: "a", 5: "c"})
    with pytest.raises(StoreError, match=r"classes"):
        create_store(store.path, root_metadata("geols-labels", RECIPE.as_json(), classes, {}))
    with pytest.raises(StoreError, match="format"):
        create_store(store.path, root_metadata("geols-volumes", RECIPE.as_json(), RECIPE.classes, {}))


def test_temporary_folders_of_the_dead_go_and_of_the_living_stay(store):
    import fcntl
    import os

    dead, living = store.path / f"{TEMPORARY_PREFIX}{0:032x}", store.path / f"{TEMPORARY_PREFIX}{1:032x}"
    for folder in (dead, living):
        (folder / "maps").mkdir(parents=True)
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_abandoned(store.path)
    assert not dead.exists()
    assert living.exists()
    os.close(descriptor)
    remove_abandoned(store.path)
    assert not living.exists()


def test_a_case_without_all_its_bytes_is_not_committed(store):
    path = store.path / "one/maps/c/0/0/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    assert list(committed_cases(store.path)) == ["two"]
    remove_case(store.path, "one")
    assert not (store.path / "one").exists()


def edit(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


SHARDING = ("codecs", 0, "configuration")


GEOLS = ("attributes", "geols")


@pytest.mark.parametrize(
    "change",
    [
        edit("shape", value=[2, 2**30, 2**30, 2**30]),
        edit("shape", value=[2, 9, 70, 131]),
        edit("shape", value=[9, 70, 130]),
        edit("data_type", value="object"),
        edit("data_type", value="float64"),
        edit("codecs", value=[{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]),
        edit(*SHARDING, "codecs", 1, "configuration", "cname", value="zstd"),
        edit(*SHARDING, "codecs", value=[{"name": "bytes"}]),
        edit(*SHARDING, "chunk_shape", value=[2, 9, 70, 130]),
        edit("fill_value", value=7),
        edit("fill_value", value=False),
        edit("more", value=None),
        edit("node_type", value="group"),
        edit("zarr_format", value=2),
        edit("chunk_grid", "configuration", "chunk_shape", value=[1, 1, 1, 1]),
        edit("extra", value=1),
        edit("storage_transformers", value=[{"name": "x"}]),
    ],
)
def test_an_array_that_is_not_as_prescribed_is_refused(store, change):
    forged = rewrite(store, "one/maps/zarr.json", change)
    with pytest.raises(StoreError, match="prescribes"):
        forged.maps("one")
    np.testing.assert_array_equal(forged.maps("two"), maps_array(1, (9, 70, 130)))


@pytest.mark.parametrize(
    "change",
    [
        edit(*GEOLS, "geometry", "size", value=[130, 70, 2**31]),
        edit(*GEOLS, "geometry", "size", value=[2**15] * 3),
        edit(*GEOLS, "geometry", "size", value=[0, 70, 9]),
        edit(*GEOLS, "geometry", "size", value="abc"),
        edit(*GEOLS, "geometry", "size", value=[1e400, 1, 1]),
        edit(*GEOLS, "geometry", "spacing", value=[0, 1, 1]),
        edit(*GEOLS, "geometry", "spacing", value=[1e-300, 1, 1]),
        edit(*GEOLS, "geometry", "spacing", value=[1, 1e37, 1]),
        edit(*GEOLS, "geometry", "direction", value=[0] * 9),
        edit(*GEOLS, "geometry", "direction", value=[1, 0, 0, 1, 0, 0, 0, 0, 1]),
        edit(*GEOLS, "geometry", "direction", value=[1e30] * 9),
        edit(*GEOLS, "geometry", value=None),
        edit(*GEOLS, "files", "../../x", value={"bytes": 1, "sha256": "0" * 64}),
        edit(*GEOLS, "files", value={}),
        edit("node_type", value="array"),
        edit("attributes", value={}),
        edit(*GEOLS, "geometry", "direction", value=[1]),
        edit(*GEOLS, "geometry", "size", value=[130, 70, 9.5]),
        edit(*GEOLS, "geometry", "spacing", value="111"),
        edit(*GEOLS, "geometry", "origin", value=[1e999, 0, 0]),
        edit(*GEOLS, "present", value=[1, 1, 5]),
        edit(*GEOLS, "present", value=[5, 1]),
        edit(*GEOLS, "present", value=[1, 1.0]),
        edit(*GEOLS, "present", value=[True]),
        edit(*GEOLS, "present", value=[1, 2]),
        edit(*GEOLS, "present", value=None),
        edit(*GEOLS, "channels", value=[5, 1]),
        edit(*GEOLS, "channels", value=[1]),
        edit(*GEOLS, "source", value={}),
        edit(*GEOLS, "source", "label_sha256", value="x"),
        edit(*GEOLS, "source", "image_sha256", value=[]),
        edit(*GEOLS, "seeds", value={"1": {"count": "3", "fallbacks": 0}}),
        edit(*GEOLS, "seeds", value=[1]),
        edit(*GEOLS, "stats", value={"1": 5}),
        edit(*GEOLS, "files", "maps/zarr.json", "bytes", value=10**13),
        edit(*GEOLS, "files", "maps/zarr.json", "bytes", value=-5),
        edit(*GEOLS, "files", "maps/c/0/0/0/0", "bytes", value="12"),
        edit(*GEOLS, "files", "maps/c/0/0/0/0", "bytes", value=10**30),
    ],
)
def test_case_metadata_out_of_bounds_is_refused(store, change):
    path = store.path / "one/zarr.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["cases"]["one"] = sha256_hex(path.read_bytes())
    (store.path / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(StoreError, match="one"):
        LabelStore.open(store.path).maps("one")
    assert "one" in findings(store.path)[0]


@pytest.mark.parametrize(
    "change",
    [
        edit(*GEOLS, "recipe", value=[]),
        edit(*GEOLS, "recipe", value="x"),
        edit(*GEOLS, "recipe", value=None),
        edit(*GEOLS, "recipe", "maps", value=5),
        edit(*GEOLS, "recipe", "maps", "metric", value="riemannian"),
        edit(*GEOLS, "recipe", "preprocessing", "modalities", value="ct"),
        edit(*GEOLS, "recipe_id", value="0" * 64),
        edit(*GEOLS, "recipe_id", value=True),
        edit(*GEOLS, "version", value=True),
        edit(*GEOLS, "classes", value=[]),
        edit(*GEOLS, "classes", 1, "value", value=True),
        edit(*GEOLS, "classes", 1, "value", value=9),
        edit(*GEOLS, "classes", 1, "name", value="b"),
        edit(*GEOLS, "classes", 1, "name", value="\x1b[31mred"),
        edit(*GEOLS, "classes", 1, "name", value="\ud800"),
        edit(*GEOLS, "classes", 0, "value", value=-1),
    ],
)
def test_root_metadata_that_is_not_sound_is_refused(store, change):
    path = store.path / "zarr.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["root"] = sha256_hex(path.read_bytes())
    (store.path / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(StoreError, match=r"zarr\.json"):
        LabelStore.open(store.path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 50_000, "not valid JSON"),
        (b'{"format":"x","format":"y"}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b'{"format":"geols-volumes"}', "format"),
        (b'{"format":"geols-labels","version":3}', "version 3 of the format; this software reads versions 1 and 2"),
        (b'{"format":"geols-labels","version":2,"cases":{},"root":"x","recipe_id":"y"}', "SHA-256"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_hostile_manifests_are_refused(store, content, says):
    (store.path / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=says):
        LabelStore.open(store.path)


@pytest.mark.parametrize("name", ["../one", "/etc", "a/b", "", ".hidden", "x" * 200, "ONE"])
def test_case_names_that_are_paths_or_collide_are_refused(store, name):
    path = store.path / "manifest.json"
    document = json.loads(path.read_text())
    document["cases"][name] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"manifest\.json"):
        LabelStore.open(store.path)


def test_oversized_files_are_refused_before_they_are_parsed(store):
    with (store.path / "one/zarr.json").open("ab") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(StoreError, match="more than 1048576 bytes"):
        store.maps("one")
    with (store.path / "manifest.json").open("ab") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(StoreError, match="more than"):
        LabelStore.open(store.path)


@pytest.mark.parametrize("relative", ["one/maps/c/0/0/0/0", "one/zarr.json", "one/maps", "one", "zarr.json"])
def test_links_are_not_followed(store, tmp_path, relative):
    path = store.path / relative
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(StoreError, match="is a link"):
        LabelStore.open(store.path).maps("one")


def test_a_fifo_does_not_hang_the_reader(store):
    import os

    path = store.path / "one/maps/c/0/0/0/0"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        store.maps("one")


def forge_shard(store: LabelStore, change) -> LabelStore:
    path = store.path / "one/maps/c/0/0/0/0"
    content = bytearray(path.read_bytes())
    grid = MAPS.grid((2, 9, 70, 130))
    index = np.frombuffer(content[: 16 * grid.count], "<u8").reshape(-1, 2).copy()
    change(content, index)
    packed = index.tobytes()
    content[: len(packed)] = packed
    content[len(packed) : len(packed) + 4] = struct.pack("<I", google_crc32c.value(packed))
    path.write_bytes(content)
    return reseal(store)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((0, 0, 2**63), "outside"),
        ((0, 1, 2**64 - 30), "outside"),
        ((0, 0, 3), "outside"),
        ((1, 0, 40), "outside|overlap"),
        ((0, 1, 5), "shorter"),
        ((0, slice(None), 2**64 - 1), "never written"),
    ],
)
def test_a_forged_index_is_refused(store, value, says):
    row, column, number = value

    def change(content, index):
        index[row, column] = number

    forged = forge_shard(store, change)
    with pytest.raises(StoreError, match=says):
        forged.maps("one")


def test_overlapping_chunks_are_refused(store):
    def change(content, index):
        index[1] = index[0]

    with pytest.raises(StoreError, match="overlap"):
        forge_shard(store, change).maps("one")


@pytest.mark.parametrize("field", ["nbytes", "cbytes", "blocksize", "typesize", "codec"])
def test_a_blosc_header_that_lies_is_refused(store, field):
    def change(content, index):
        offset, length = (int(v) for v in index[0])
        header = list(shard.BLOSC_HEADER.unpack(content[offset : offset + 16]))
        place = {"codec": 2, "typesize": 3, "nbytes": 4, "blocksize": 5, "cbytes": 6}[field]
        header[place] = {"codec": header[2] & 31 | 4 << 5, "nbytes": 2**31 - 1, "blocksize": 2**31 - 1}.get(
            field, header[place] + 1
        )
        content[offset : offset + 16] = shard.BLOSC_HEADER.pack(*header)
        body = bytes(content[offset : offset + length - 4])
        content[offset + length - 4 : offset + length] = struct.pack("<I", google_crc32c.value(body))

    with pytest.raises(StoreError, match="header declares"):
        forge_shard(store, change).maps("one")


def test_a_small_shard_cannot_claim_a_huge_array(store):
    """624 bytes of metadata must not allocate gigabytes: the shape is held against the shard's size first."""
    forged = store.path / "one/zarr.json"
    document = json.loads(forged.read_text())
    document["attributes"]["geols"]["geometry"]["size"] = [2000, 2000, 2000]
    forged.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="not plausible"):
        reseal(store).maps("one")


def test_a_missing_manifest_and_a_missing_store(store, tmp_path):
    (store.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="run geols-store finalize"):
        LabelStore.open(store.path)
    with pytest.raises(StoreError, match="no such store"):
        LabelStore.open(tmp_path / "none.zarr")


def test_windows_and_cases_that_do_not_exist(store):
    with pytest.raises(InputError, match="no case 'three'"):
        store.maps("three")
    for window in (
        (slice(0, 10), slice(0, 70), slice(0, 130)),
        (slice(3, 3), slice(0, 1), slice(0, 1)),
        (slice(0, 1),),
    ):
        with pytest.raises(InputError, match="window"):
            store.maps("one", window)


def test_a_store_survives_pickling_and_other_formats_are_told_apart(store, tmp_path):
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.maps("one"), store.maps("one"))
    with pytest.raises(StoreError, match="expected 'geols-volumes'"):
        VolumeStore.open(store.path)
    assert isinstance(open_store(store.path), LabelStore)


def volume_store(root: Path, images: dict[str, np.ndarray], labels: dict[str, np.ndarray], **hints) -> VolumeStore:
    modalities = [f"m{number}" for number in range(len(next(iter(images.values()))))]
    recipe = ResolvedRecipe(classes=CLASSES, preprocessing=Preprocessing(modalities=tuple(modalities)))
    document = root_metadata("geols-volumes", recipe.preprocessing_json(), CLASSES, hints)
    create_store(root, document)
    for case, image in images.items():
        stored, scale, offset = to_int16(image)
        source = SOURCE | {"image_sha256": ["0" * 64] * len(image)}
        document = {"source": source, "image": {"scale": scale, "offset": offset}}
        arrays = {"image": stored, "label": labels[case]}
        commit_case(root, case, arrays, geometry(image.shape[1:]), document)
    write_manifest(root)
    return VolumeStore.open(root)


WINDOW = (slice(1, 4), slice(2, 5), slice(0, 7))


def test_a_store_is_a_collection_of_case_ids(tmp_path):
    store = label_store(tmp_path / "labels.zarr", cases=("two", "one", "three"), shape=(2, 3, 4))
    assert len(store) == 3
    assert list(store) == list(store.cases) == ["one", "three", "two"]
    assert "one" in store
    for absent in ("four", "One", "", 1, None):
        assert absent not in store
    expected = f"LabelStore('{tmp_path / 'labels.zarr'}', 3 cases, classes 0 background, 1 a, 5 b)"
    assert repr(store) == expected
    assert repr(LabelStore.open(str(store.path))) == expected
    assert store.path == tmp_path / "labels.zarr"


def test_an_empty_store_is_one_too(tmp_path):
    store = label_store(tmp_path / "labels.zarr", cases=())
    assert (len(store), list(store), "one" in store) == (0, [], False)


@pytest.mark.parametrize("ignore", [None, 9])
def test_what_a_store_says_of_its_recipe(tmp_path, ignore):
    recipe = ResolvedRecipe(
        classes=ClassTable.from_names({1: "a", 5: "b"}, ignore=ignore),
        preprocessing=Preprocessing(modalities=("t1", "t2"), spacing=(2.0, 1.0, 1.0), clip=(1.0, 99.0)),
        hints=TrainingHints(regions={"both": (1, 5)}, crop=(8, 16, 16), skull_stripped=True),
    )
    hints = {"training": recipe.hints.as_json()}
    create_store(tmp_path / "l", root_metadata("geols-labels", recipe.as_json(), recipe.classes, {}))
    create_store(tmp_path / "v", root_metadata("geols-volumes", recipe.preprocessing_json(), recipe.classes, hints))
    for name in "lv":
        write_manifest(tmp_path / name)
    labels, volumes = LabelStore.open(tmp_path / "l"), VolumeStore.open(tmp_path / "v")
    for store in (labels, volumes):
        assert store.classes == recipe.classes
        assert store.preprocessing == recipe.preprocessing
    assert labels.recipe == recipe.as_json()
    assert labels.channels == (1, 2)
    assert volumes.recipe == recipe.preprocessing_json()
    assert volumes.modalities == ("t1", "t2")
    assert volumes.hints == recipe.hints


@pytest.mark.parametrize("background", ["complement", "seeds"])
def test_class_maps_and_soft_labels_by_hand(tmp_path, background):
    shape = (5, 6, 8)
    rng = np.random.default_rng(3)
    recipe = ResolvedRecipe(
        classes=CLASSES,
        preprocessing=Preprocessing(modalities=("ct",)),
        maps=MapParameters(background=background),
    )
    create_store(tmp_path / "s", root_metadata("geols-labels", recipe.as_json(), CLASSES, {}))
    channels = [0, 1, 5] if background == "seeds" else [1, 5]
    presents = {"all": [0, 1, 5], "one": [0, 5], "none": [0]}
    stored = {case: rng.integers(0, 256, (len(channels), *shape)).astype(np.uint8) for case in presents}
    for case, present in presents.items():
        document = {"source": SOURCE, "present": present, "channels": channels, "seeds": {}, "stats": {}}
        commit_case(tmp_path / "s", case, {"maps": stored[case]}, geometry(shape), document)
    write_manifest(tmp_path / "s")
    store = LabelStore.open(tmp_path / "s")
    label = rng.integers(0, 3, shape).astype(np.uint8)
    label[0, 0, 0] = 255
    for case, present in presents.items():
        g = stored[case].astype(np.float64) / 255
        expected = np.zeros((3, *shape))
        for channel, value in enumerate(channels):
            if value in present:
                expected[CLASSES.index_of(value)] = g[channel]
        if background == "complement":
            foreground = [expected[CLASSES.index_of(value)] for value in present if value]
            expected[0] = 1 - np.mean(foreground, axis=0) if foreground else 1
        maps = store.class_maps(case)
        assert (maps.dtype, maps.shape) == (np.float32, (3, *shape))
        np.testing.assert_allclose(maps, expected, atol=1e-6)
        # the whole volume decides which classes are there, not the window
        np.testing.assert_array_equal(store.class_maps(case, WINDOW), maps[(slice(None), *WINDOW)])
        assert store.present(case) == tuple(CLASSES.index_of(value) for value in present)

        total = expected.sum(axis=0)
        shares = {"sum": expected / np.where(total > 0, total, 1), "none": expected}
        hard = np.stack([label == index for index in range(3)]).astype(np.float64)
        for normalize, share in shares.items():
            by_hand = np.where(total > 0, 0.7 * hard + 0.3 * share, hard) * (label < 3)
            soft = store.soft_label(case, label, alpha=0.3, normalize=normalize)
            assert soft.dtype == np.float32
            np.testing.assert_allclose(soft, by_hand, atol=1e-6)
            part = store.soft_label(case, label[WINDOW], alpha=0.3, normalize=normalize, window=WINDOW)
            np.testing.assert_array_equal(part, soft[(slice(None), *WINDOW)])
        np.testing.assert_array_equal(store.soft_label(case, label), soft_label(label, maps, alpha=0.1))


def test_soft_labels_are_refused_as_maps_are(store):
    label = np.zeros((9, 70, 130), np.uint8)
    with pytest.raises(InputError, match="no case 'three'"):
        store.soft_label("three", label)
    with pytest.raises(InputError, match="window"):
        store.soft_label("one", label, window=(slice(0, 10), slice(0, 70), slice(0, 130)))
    with pytest.raises(InputError, match="do not fit a label of shape"):
        store.soft_label("one", label[1:])
    with pytest.raises(InputError, match="do not fit a label of shape"):
        store.soft_label("one", label, window=WINDOW)
    with pytest.raises(InputError, match=r"alpha must be in \[0, 1\]"):
        store.soft_label("one", label, alpha=1.5)
    path = store.path / "one/maps/c/0/0/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    for read in (store.class_maps, lambda case: store.soft_label(case, label)):
        with pytest.raises(StoreError, match="one/maps"):
            read("one")


def test_the_maps_of_a_store_give_what_its_arrays_give(store):
    maps = class_maps(store.maps("two"), channels=(1, 2), present=(0, 1, 2), n_classes=3)
    np.testing.assert_array_equal(store.class_maps("two"), maps)


def test_intensities_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    shape = (5, 6, 8)
    whole = np.stack([rng.integers(-1024, 3000, shape), rng.integers(0, 65535, shape)]).astype(np.float32)
    images = {
        "whole": whole,
        "fractions": np.stack([rng.normal(size=shape), 1e6 * rng.random(shape)]).astype(np.float32),
        "constant": np.stack([np.full(shape, 0.3), np.full(shape, -7)]).astype(np.float32),
    }
    labels = {case: rng.integers(0, 3, shape).astype(np.uint8) for case in images}
    store = volume_store(tmp_path / "volumes.zarr", images, labels)
    np.testing.assert_array_equal(store.intensities("whole"), whole)
    for case, image in images.items():
        found = store.intensities(case)
        assert (found.dtype, found.shape) == (np.float32, image.shape)
        for modality, expected in zip(found, image, strict=True):
            assert np.abs(modality - expected).max() <= 1.1 / 131070 * max(np.ptp(expected), 1)
        scale, offset = (values[:, None, None, None] for values in store.scale_offset(case))
        np.testing.assert_array_equal(found, store.image(case) * scale + offset)
        np.testing.assert_array_equal(store.intensities(case, WINDOW), found[(slice(None), *WINDOW)])
        np.testing.assert_array_equal(store.label(case), labels[case])
    with pytest.raises(InputError, match="no case 'other'"):
        store.intensities("other")
    with pytest.raises(InputError, match="window"):
        store.intensities("whole", (slice(0, 6), slice(0, 6), slice(0, 8)))
    assert store.hints == TrainingHints()


def findings(path: Path) -> list[str]:
    store = open_store(path)
    return [f.problem for f in (*(verify_case(store, c) for c in store.cases), *strange_entries(store)) if f]


def test_verify_finds_nothing_in_a_whole_store(store):
    assert findings(store.path) == []


def test_verify_names_strange_files(store):
    (store.path / "one/extra.txt").write_text("x")
    (store.path / "three").mkdir()
    assert sorted(f.split(": ")[1] for f in findings(store.path)) == [
        "is not in the manifest; run geols-store finalize, or remove it",
        "is not part of the case; remove it",
    ]


def injections(root: Path, rng: np.random.Generator, rounds: int):
    """Yield (file, kind, damaged bytes or None for a deleted file) over every file of a store."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content = path.read_bytes()
        yield path, "delete", None
        yield path, "empty", b""
        for part in rng.uniform(0.01, 0.999, rounds):
            yield path, f"truncate to {part:.3f}", content[: int(part * len(content))]
        for _ in range(rounds):
            flipped = bytearray(content)
            flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            yield path, "flip a bit", bytes(flipped)
        if path.name == "zarr.json" and b'"shape"' in content:
            yield path, "edit a shape", content.replace(b'"shape":[2,', b'"shape":[3,')
        others = [p for p in root.rglob(path.name) if p.is_file() and p.read_bytes() != content]
        if others:
            yield path, "swap", others[0].read_bytes()


def assert_no_damage_goes_unseen(store: LabelStore, rounds: int) -> int:
    good = {case: store.maps(case) for case in store.cases}
    count = 0
    for path, kind, content in injections(store.path, np.random.default_rng(0), rounds):
        original = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        try:
            problems = findings(store.path)
        except GeolsError as error:
            problems = [str(error)]
        assert problems, f"{kind} of {path} went unseen"
        # a flipped digest in the manifest is seen as a file that "differs from its digest in the manifest"
        named = path.relative_to(store.path).parts[0].removesuffix(".json")
        assert any(named in problem for problem in problems), (kind, path, problems)
        for case, expected in good.items():
            try:
                found = LabelStore.open(store.path).maps(case)
            except GeolsError:
                continue
            np.testing.assert_array_equal(found, expected)
        path.write_bytes(original)
        count += 1
    assert findings(store.path) == []
    return count


def test_no_damage_goes_unseen(tmp_path):
    assert assert_no_damage_goes_unseen(label_store(tmp_path / "s.zarr", shape=(5, 20, 70)), rounds=2) >= 40


@pytest.mark.slow
def test_no_damage_goes_unseen_at_length(tmp_path):
    assert assert_no_damage_goes_unseen(label_store(tmp_path / "s.zarr"), rounds=25) >= 300


def test_swapped_shards_are_found(store):
    one, two = (store.path / case / "maps/c/0/0/0/0" for case in ("one", "two"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert len(findings(store.path)) == 2


def test_the_format_document_is_enough_to_write_a_reader(store):
    """Reads a map as docs/store-format.md describes it, with json, struct, numcodecs and numpy alone."""
    case = json.loads((store.path / "one/zarr.json").read_text())["attributes"]["geols"]
    array = json.loads((store.path / "one/maps/zarr.json").read_text())
    inner = array["codecs"][0]["configuration"]["chunk_shape"]
    outer = array["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [o // i for o, i in zip(outer, inner, strict=True)]
    content = (store.path / "one/maps/c/0/0/0/0").read_bytes()
    maps = np.zeros(outer, np.uint8)
    for number, place in enumerate(np.ndindex(*counts)):
        offset, length = struct.unpack_from("<QQ", content, 16 * number)
        chunk = np.frombuffer(blosc.decompress(content[offset : offset + length - 4]), np.uint8).reshape(inner)
        maps[tuple(slice(p * n, (p + 1) * n) for p, n in zip(place, inner, strict=True))] = chunk
    x, y, z = case["geometry"]["size"]
    np.testing.assert_array_equal(maps[:, :z, :y, :x], maps_array(0, (9, 70, 130)))


def test_reading_inside_a_running_event_loop_works(store):
    async def read():
        return store.maps("one")

    np.testing.assert_array_equal(asyncio.run(read()), store.maps("one"))


def test_a_damaged_manifest_is_not_amended_to_an_empty_one(store):
    path = store.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:-5])
    amend_manifest(store.path)
    with pytest.raises(StoreError, match=r"manifest\.json: not valid JSON"):
        LabelStore.open(store.path)
