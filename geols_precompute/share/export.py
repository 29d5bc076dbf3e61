"""What an export of one case needs beside the label store: its prepared volume, and what its files declare."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from geols_precompute.arrays import Float32Array
from geols_precompute.data.formats.transforms import Transforms
from geols_precompute.data.geometry import Geometry
from geols_precompute.errors import GeolsError, InputError, StoreError
from geols_precompute.formatting import readable
from geols_precompute.memory import free_memory
from geols_precompute.softlabel import Normalize
from geols_precompute.store.layout import MAPS, METADATA, VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import require_same_data


def soft_label_of(
    labels: LabelStore, volumes: VolumeStore, case: str, *, alpha: float, normalize: Normalize
) -> Float32Array:
    """Return the GeoLS soft label of a case, float32 [class,z,y,x], background first.

    Raises:
        InputError: no such case, or α outside [0, 1].
        StoreError: the case is damaged, or its maps were made from other data than its volume.
    """
    require_same_data(labels, volumes, case)
    return labels.soft_label(case, volumes.label(case), alpha=alpha, normalize=normalize)


def geometry_of(labels: LabelStore, volumes: Path | None, case: str) -> tuple[Geometry, str]:
    """Return (the grid of a case's maps, note); with the transforms of its source, where its volume has them.

    Args:
        labels: the label store.
        volumes: the store of prepared volumes; None is the one beside the label store, if there is one.
        case: id.

    Raises:
        InputError: no such case.
        StoreError: the metadata of its maps is damaged.
    """
    geometry = labels.metadata(case).geometry
    if volumes is None and not (labels.path.parent / VOLUMES).is_dir():
        return geometry, ""
    try:
        opened = VolumeStore.open(volumes) if volumes else volumes_beside(labels)
        require_same_data(labels, opened, case)
    except GeolsError as error:
        return geometry, f"the file has the grid of the maps, and no other transform of their source ({error})"
    document = opened.metadata(case).geols.get("transforms")
    return replace(geometry, transforms=document and Transforms.from_json(document)), ""


def file_of(store: LabelStore | VolumeStore, case: str) -> Path:
    """Return a file that whoever may read a case of a store may read: in the case's folder, or the archive."""
    return store.path / case / METADATA if store.path.is_dir() else store.path


def require_memory(labels: LabelStore, case: str, *, soft: bool, channels: int) -> None:
    """Refuse an export for which this machine has too little memory: a small file may hold a large case.

    Args:
        labels: the store.
        case: id.
        soft: whether it is of the soft label.
        channels: of the volume that is written.

    Raises:
        InputError: no such case, or too little memory.
        StoreError: its metadata is missing or damaged.
    """
    shape = labels.metadata(case).shapes[MAPS.name]
    n_classes = len(labels.classes)
    # as stored; g of every class, and what a soft label is made of; what is written, twice on its way to the file
    per_voxel = shape[0] + 4 * n_classes * (6 if soft else 1) + 8 * channels
    need, free = math.prod(shape[1:]) * per_voxel, free_memory()
    if free is not None and need > free:
        raise InputError(
            f"{labels.files.location}/{case}: an export of it needs about {readable(need)} of memory, and "
            f"{readable(free)} are free here; export it on a larger machine"
        )


def volumes_beside(labels: LabelStore) -> VolumeStore:
    """Open the prepared volumes beside a label store.

    Raises:
        StoreError: there are none.
    """
    path = labels.path.parent / VOLUMES
    if not path.is_dir():
        raise StoreError(
            f"no {path}: a soft label needs the label map, which a label store does not hold; run geols-precompute "
            "--reuse on your data, or name its volumes with --volumes"
        )
    return VolumeStore.open(path)
