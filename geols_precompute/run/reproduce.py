"""Cases of a label store computed again from a lab's own data, and compared with what the store holds, byte by byte."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from geols_precompute.arrays import UInt8Array
from geols_precompute.data.cases import Case
from geols_precompute.data.layouts import discover
from geols_precompute.data.prepare import PreparedCase, prepare_source, read_source
from geols_precompute.digests import canonical_json
from geols_precompute.errors import GeolsError, InputError, StoreError
from geols_precompute.formatting import plural
from geols_precompute.maps.case import MapStream
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run.task import label_document
from geols_precompute.store.layout import MAPS, METADATA, VERSION, root_metadata
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.verify import compare_source
from geols_precompute.store.writer import commit_case, create_store, remove_case, write_manifest

#: Packages that take part in what a store's bytes are.
_PACKAGES = ("geols", "numpy", "numba", "scipy", "SimpleITK", "numcodecs")


def reproduce(store: LabelStore, data: Path, cases: Sequence[str], on_case: OnCase) -> dict[str, str]:
    """Compute cases of a store again and return {case: where it differs}; empty text where every byte is equal.

    Files of maps and metadata are compared; of a store of version 1, which is not written any more, decoded maps and
    metadata.

    Args:
        store: whose recipe is used.
        data: a folder with its data; a case may have another name there.
        cases: ids of the store.
        on_case: called after each.

    Raises:
        InputError: the folder has no known layout, or not the modalities of the store.
        RecipeError: this release computes other maps.
    """
    parameters = MapParameters.from_json(store.recipe["maps"])
    sources = _Sources(store, data)
    found: dict[str, str] = {}
    with TemporaryDirectory(prefix="geols-reproduce-") as scratch:
        root = Path(scratch) / "labels.zarr"
        create_store(root, root_metadata("geols-labels", store.recipe, store.classes, {}))
        for name in cases:
            try:
                source, prepared = sources.prepared(name)
                maps = MapStream(
                    prepared.image,
                    prepared.label,
                    prepared.geometry.spacing_zyx,
                    parameters=parameters,
                    classes=store.classes,
                    modalities=store.preprocessing.modalities,
                    case=source.id,
                )
                _commit(root, name, maps, prepared)
                write_manifest(root)
                found[name] = _difference(store, LabelStore.open(root), name)
            except GeolsError as error:
                found[name] = str(error)
            on_case(name, found[name])
            remove_case(root, name)
    return found


def _commit(root: Path, name: str, maps: MapStream, prepared: PreparedCase) -> None:
    commit_case(root, name, {MAPS.name: maps}, prepared.geometry, lambda: label_document(maps.facts, prepared.source))


class _Sources:
    """The cases of a data folder, found by their fingerprints where the store has other names."""

    def __init__(self, store: LabelStore, data: Path) -> None:
        self._store, self._data = store, data
        dataset = discover(data, modalities=store.preprocessing.modalities)
        self._cases = {case.id: case for case in dataset.cases}
        self._problems = {problem.case_id: problem.reason for problem in dataset.problems}
        self._fingerprints: dict[str, Mapping[str, Any]] = {}

    def prepared(self, name: str) -> tuple[Case, PreparedCase]:
        """Return the case of the data that a case of the store was made from, as it is and prepared.

        Raises:
            InputError: there is none, or it cannot be read.
            StoreError: the case of the data with this name is another, or that of the store is damaged.
        """
        wanted = self._store.metadata(name).geols["source"]
        if name in self._problems:
            raise InputError(f"{self._data}: {self._problems[name]}")
        case = self._cases[name] if name in self._cases else self._with(wanted)
        if case is None:
            raise InputError(f"{self._data}: has no case that {name} was made from")
        volume, source = read_source(case, self._store.preprocessing, self._store.classes)
        if (status := compare_source(wanted, source)) != "same":
            raise StoreError(f"{case.files[0]}: is not what {name} was made from ({status})")
        return case, prepare_source(case, volume, source, self._store.preprocessing, self._store.classes)

    def _with(self, wanted: Mapping[str, Any]) -> Case | None:
        """Return the first case with these fingerprints; every case is read once at most."""
        for case in self._cases.values():
            if case.id not in self._fingerprints:
                self._fingerprints[case.id] = {"geometry_sha256": None}
                # one that cannot be read is not the one
                with suppress(InputError):
                    self._fingerprints[case.id] = read_source(case, self._store.preprocessing, self._store.classes)[1]
            if compare_source(wanted, self._fingerprints[case.id]) == "same":
                return case
        return None


def _difference(store: LabelStore, computed: LabelStore, name: str) -> str:
    """Return where a case of a store differs from the one that was computed; empty where it does not.

    Raises:
        StoreError: the case of the store is damaged.
    """
    found = []
    theirs, ours = store.maps(name), computed.maps(name)
    if theirs.shape != ours.shape:
        return f"{name}/{MAPS.shard_path}: maps of {theirs.shape} voxels in the store, {ours.shape} computed"
    if not np.array_equal(theirs, ours):
        found.append(f"{name}/{MAPS.shard_path}: {_voxels(store, theirs, ours)}")
    (their_content, their_metadata), (our_content, our_metadata) = (s.read_metadata(name) for s in (store, computed))
    keys = {key for key in {*their_metadata.geols, *our_metadata.geols} if key not in ("files", "maps_sha256")}
    differing = [
        key
        for key in sorted(keys)
        if canonical_json(their_metadata.geols.get(key)) != canonical_json(our_metadata.geols.get(key))
    ]
    if differing:
        found.append(f"{name}/{METADATA}: {', '.join(differing)}")
    # of equal maps and metadata the files are equal too, unless something packs or writes them differently
    if not found and store.root.version == VERSION:
        files = [path for path, listed in our_metadata.files.items() if their_metadata.files[path] != listed]
        files += [METADATA] if not files and their_content != our_content else []
        found += [f"{name}/{path}: other bytes for the same maps" for path in files]
    return "; ".join(found)


def _voxels(store: LabelStore, theirs: UInt8Array, ours: UInt8Array) -> str:
    """Return how many voxels of maps [channel,z,y,x] differ, and the first with its values."""
    places = np.flatnonzero(theirs != ours)
    channel, z, y, x = (int(n) for n in np.unravel_index(places[0], theirs.shape))
    verb = "differs" if len(places) == 1 else "differ"
    return (
        f"{plural(len(places), 'voxel')} of {theirs.size} {verb}, the first in the map of "
        f"{store.classes.names[store.channels[channel]]} at z {z}, y {y}, x {x}: {theirs[channel, z, y, x]} in the "
        f"store, {ours[channel, z, y, x]} computed"
    )


def versions(engine: str) -> str:
    """Return the versions of Python and of the packages that take part in computing."""
    found = [f"Python {platform.python_version()}"]
    for package in (*_PACKAGES, *(["GeodisTK"] if engine == "geodistk" else [])):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def processor() -> str:
    """Return what processor this is: its maker's name for it where the system tells, and what kernels are made for."""
    import llvmlite.binding

    model = platform.processor() or platform.machine()
    with suppress(OSError):
        if named := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            model = named[1]
    return f"{model} ({platform.machine()}, compiled for {llvmlite.binding.get_host_cpu_name()})"
