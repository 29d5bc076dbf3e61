"""Label stores of random maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, ResolvedRecipe
from geols_precompute.store.layout import MAPS, root_metadata
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.shard import write_shard
from geols_precompute.store.writer import (
    commit_case,
    create_store,
    write_manifest,
)

CLASSES = ClassTable.from_names({1: "a", 5: "b"})


RECIPE = ResolvedRecipe(classes=CLASSES, preprocessing=Preprocessing(modalities=("ct",)))


SOURCE = {"image_sha256": ["0" * 64], "label_sha256": "1" * 64, "geometry_sha256": "2" * 64}


def geometry(shape):
    z, y, x = shape
    return Geometry(size=(x, y, z), spacing=(1, 1.5, 2), origin=(-3, 4, 5), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))


def maps_array(seed, shape):
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.add.outer(np.arange(shape[0]), np.arange(shape[1])), np.arange(shape[2]))
    return np.stack([(smooth * 3 + rng.integers(0, 4, shape)) % 256, rng.integers(0, 256, shape)]).astype(np.uint8)


def label_store(root: Path, cases=("one", "two"), shape=(9, 70, 130)) -> LabelStore:
    create_store(root, root_metadata("geols-labels", RECIPE.as_json(), RECIPE.classes, {}))
    for number, case in enumerate(cases):
        document = {"source": SOURCE, "present": [0, 1, 5], "channels": [1, 5], "seeds": {}, "stats": {}}
        commit_case(root, case, {"maps": maps_array(number, shape)}, geometry(shape), document)
    write_manifest(root)
    return LabelStore.open(root)


def reseal(store: LabelStore) -> LabelStore:
    manifest = json.loads((store.path / "manifest.json").read_text())
    for case in manifest["cases"]:
        case_path = store.path / case / "zarr.json"
        document = json.loads(case_path.read_text())
        files = document["attributes"]["geols"]["files"]
        for relative in files:
            content = (store.path / case / relative).read_bytes()
            files[relative] = {"bytes": len(content), "sha256": sha256_hex(content)}
        case_path.write_text(json.dumps(document))
        manifest["cases"][case] = sha256_hex(case_path.read_bytes())
    manifest["root"] = sha256_hex((store.path / "zarr.json").read_bytes())
    (store.path / "manifest.json").write_bytes(canonical_json(manifest))
    return LabelStore.open(store.path)


def rewrite(store: LabelStore, relative: str, change) -> LabelStore:
    """Edit a JSON file of the store and make all digests above it fit again, as an attacker would."""
    path = store.path / relative
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return reseal(store)


def alter_voxel(path, case, index):
    """Change one voxel of a store's maps by 1 and make every digest fit again; (before, after)."""
    opened = LabelStore.open(path)
    maps = opened.maps(case).copy()
    before = int(maps[index])
    maps[index] = before ^ 1
    with (path / case / MAPS.shard_path).open("wb") as file:
        sha256 = write_shard(file, maps, MAPS)
    metadata = path / case / "zarr.json"
    document = json.loads(metadata.read_text())
    document["attributes"]["geols"]["maps_sha256"] = sha256
    metadata.write_bytes(canonical_json(document))
    reseal(opened)
    return before, before ^ 1


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: its name from there, and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
