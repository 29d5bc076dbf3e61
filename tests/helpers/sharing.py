"""Label stores to hand on, and what is asked of a copy."""

from __future__ import annotations

from click.testing import CliRunner
from stores import RECIPE, geometry, maps_array

from geols_precompute.cli.store import store as store_command
from geols_precompute.share.pack import pack
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.verify import strange_entries, verify_case
from geols_precompute.store.writer import commit_case, create_store, write_manifest


def packed(store: LabelStore, path, names=None):
    pack(store, path, names or {}, lambda case, error: None)
    return path


CASES = ("a", "b", "c", "d")


SHAPE = (6, 20, 70)


def run(*args):
    return CliRunner().invoke(store_command, [str(a) for a in args])


def make_store(root, cases, *, recipe=RECIPE, terms=None, seed=0) -> LabelStore:
    """A label store of some cases; a case's maps depend on its name and the seed."""
    create_store(root, root_metadata("geols-labels", recipe.as_json(), recipe.classes, terms or {}))
    for case in cases:
        source = {"image_sha256": [f"{ord(case[0]):064x}"], "label_sha256": "1" * 64, "geometry_sha256": "2" * 64}
        document = {"source": source, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
        commit_case(root, case, {"maps": maps_array(ord(case[0]) + seed, SHAPE)}, geometry(SHAPE), document)
    write_manifest(root)
    return LabelStore.open(root)


def verified_store(path, digest) -> LabelStore:
    """The store at `path`, which must be whole and have this digest."""
    store = LabelStore.open(path)
    assert store.digest == digest
    assert [verify_case(store, case) for case in store.cases] == [None] * len(store.cases)
    assert strange_entries(store) == []
    assert not list(path.glob(".tmp-*"))
    return store


SHARD = "/labels.zarr/b/maps/c/0/0/0/0"
