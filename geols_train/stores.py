"""Stores: finds the two stores of a data folder, and refuses labels that do not fit the volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.errors import StoreError
from geols_precompute.formatting import plural, some
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, TrainingHints, recipe_differences
from geols_precompute.run.followed import followed
from geols_precompute.store.layout import METADATA, VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import require_same_data

PACKED = ".zarr.zip"


@dataclass(frozen=True, kw_only=True)
class Stores:
    """The prepared volumes, and the geodesic maps over them (None if the method needs none and there are none)."""

    volumes: VolumeStore
    labels: LabelStore | None

    @property
    def cases(self) -> tuple[str, ...]:
        """Ids of the cases that every store here has, sorted."""
        if self.labels is None:
            return self.volumes.cases
        return tuple(case for case in self.volumes if case in self.labels)

    def files(self, cases: Sequence[str]) -> list[Path]:
        """Return for each case a file that whoever may read its volume may read."""
        return [self.volumes.path / case / METADATA for case in cases]

    @property
    def classes(self) -> ClassTable:
        """The class table, background first."""
        return self.volumes.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """What turned source files into the prepared volumes."""
        return self.volumes.preprocessing

    @property
    def hints(self) -> TrainingHints:
        """Regions, crop and skull-stripping, as the recipe of the volumes gave them."""
        return self.volumes.hints


def open_stores(data: Path, labels: str, *, maps_needed: bool) -> Stores:
    """Open DATA/geols/volumes.zarr and the label store of that name; DATA may itself be the folder of the stores.

    A label store that is there is opened even if its maps are not needed, so that every method draws its split from
    the same cases.

    Args:
        data: a data folder, or an output folder of geols-precompute.
        labels: name of a label store beside the volumes, or the path of one; a folder, or packed in one file.
        maps_needed: refuse to go on without a label store.

    Raises:
        StoreError: a store is not there or not whole, or the two differ in recipe or classes.
    """
    folder = next((f for f in (data / "geols", data) if (f / VOLUMES).is_dir()), None)
    if folder is None:
        raise StoreError(
            f"no {VOLUMES} in {data / 'geols'} or {data}; run geols-precompute {data} first, or name the folder "
            "that it wrote"
        )
    path = _label_path(folder, labels)
    if not path.exists():
        if maps_needed:
            raise StoreError(f"no label store {path}; {_names_beside(folder)}")
        return Stores(volumes=VolumeStore.open(folder / VOLUMES), labels=None)
    stores = Stores(volumes=VolumeStore.open(folder / VOLUMES), labels=LabelStore.open(path))
    _require_same_recipe(stores)
    return stores


def notes_of_data(stores: Stores) -> list[str]:
    """Return what to say, in a line each, where the stores have not followed their data; see `followed`."""
    labels, out = stores.labels, stores.volumes.path.parent
    beside = labels is not None and labels.path.parent == out and labels.path.suffix == ".zarr"
    found = followed(
        out,
        labels.path.stem if labels is not None and beside else None,
        {case: stores.volumes.metadata(case).geols["source"] for case in stores.cases},
    )
    kinds = (
        (found.failed, "no maps, as geols-precompute failed or was ended", "failures.jsonl says why"),
        (found.changed, "files changed since the maps were made", "run geols-precompute again"),
        (found.gone, "no longer in the data", "geols-precompute --prune drops what is gone"),
    )
    return [f"{what}: {plural(len(cases), 'case')} ({some(cases)}); {remedy}" for cases, what, remedy in kinds if cases]


def require_fit(stores: Stores, cases: Sequence[str]) -> None:
    """Compare the fingerprints of `cases` in both stores, which also reads and checks their metadata.

    Raises:
        StoreError: a case's maps were made from other source files than its volume, or a case is damaged.
    """
    if stores.labels is None:
        return
    for case in cases:
        require_same_data(stores.labels, stores.volumes, case)


def _require_same_recipe(stores: Stores) -> None:
    volumes, labels = stores.volumes, stores.labels
    assert labels is not None
    if found := recipe_differences(volumes.recipe, labels.recipe["preprocessing"], "preprocessing."):
        raise StoreError(
            f"{labels.path} does not fit {volumes.path}: {'; '.join(found)}; compute one of them again with the "
            "other's recipe"
        )
    if volumes.classes != labels.classes:
        raise StoreError(
            f"{labels.path} has the classes {labels.classes}, but {volumes.path} has {volumes.classes}; use one class "
            "table"
        )


def _label_path(folder: Path, labels: str) -> Path:
    """Return where a label store is: at a path, or beside the volumes under a name, as a folder or packed."""
    if "/" in labels:
        return Path(labels)
    name = labels.removesuffix(PACKED).removesuffix(".zarr")
    packed = folder / f"{name}{PACKED}"
    return packed if packed.is_file() and not (folder / f"{name}.zarr").is_dir() else folder / f"{name}.zarr"


def _names_beside(folder: Path) -> str:
    found = [*folder.glob("*.zarr"), *folder.glob(f"*{PACKED}")]
    names = sorted({path.name.removesuffix(PACKED).removesuffix(".zarr") for path in found if path.name != VOLUMES})
    if names:
        return f"--labels takes one of {', '.join(names)}, or a path"
    return "run geols-precompute first, or give a path with --labels"


def require_same_stores(where: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on with a run whose stores have changed.

    Raises:
        StoreError: a digest differs; the message names the store.
    """
    for name, digest in now.items():
        if before.get(name) != digest:
            raise StoreError(
                f"{where}: the {name} store has changed since (digest {digest[:12]}, was "
                f"{str(before.get(name))[:12]}); start a new run with another --out"
            )
