"""What an export of one case needs beside the label store: the volumes, from which a soft label is made."""

from __future__ import annotations

from geols_precompute.arrays import Float32Array
from geols_precompute.errors import StoreError
from geols_precompute.softlabel import Normalize
from geols_precompute.store.layout import VOLUMES
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
