"""Export: the maps or the soft label of one case as a volume that any viewer shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geols_precompute import softlabel
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.parameters import ClassLabel
from geols_precompute.softlabel import Float32Array, Normalize
from geols_precompute.store.layout import VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import require_same_data


def maps_of(labels: LabelStore, case: str) -> Float32Array:
    """Return the maps g of all classes, [c,z,y,x] float32, background first.

    Raises:
        InputError: no such case.
        StoreError: the case is damaged.
    """
    return softlabel.class_maps(
        labels.maps(case), channels=labels.channels, present=labels.present(case), n_classes=len(labels.classes)
    )


def soft_label_of(
    labels: LabelStore, volumes: VolumeStore, case: str, *, alpha: float, normalize: Normalize
) -> Float32Array:
    """Return the GeoLS soft label of a case, [c,z,y,x] float32, background first.

    Raises:
        InputError: no such case, or α outside [0, 1].
        StoreError: the case is damaged, or its maps were made from other data than its volume.
    """
    require_same_data(labels, volumes, case)
    return softlabel.geols(volumes.label(case), maps_of(labels, case), alpha=alpha, normalize=normalize)


def volumes_beside(labels: LabelStore) -> VolumeStore:
    """Open the prepared volumes beside a label store.

    Raises:
        StoreError: there are none.
    """
    path = Path(labels.path).parent / VOLUMES
    if not path.is_dir():
        raise StoreError(
            f"no {path}: a soft label needs the label map, which a label store does not hold; run geols-precompute "
            "--reuse on your data, or name its volumes with --volumes"
        )
    return VolumeStore.open(path)


def class_index(classes: Sequence[ClassLabel], wanted: str) -> int:
    """Return the index of the class with this name or file value.

    Raises:
        InputError: there is none.
    """
    for index, label in enumerate(classes):
        if wanted in (label.name, str(label.value)):
            return index
    raise InputError(f"no class {wanted!r}; there are {', '.join(f'{c.value} {c.name}' for c in classes)}")
