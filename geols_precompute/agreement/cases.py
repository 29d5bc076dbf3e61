"""Cases of an agreement: the label that was softened, the raters that were not, and the image they all saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geols_precompute.arrays import BoolArray, Float32Array, UInt8Array
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.classes import IGNORE_INDEX
from geols_precompute.recipe.parameters import CONSENSUS, Preprocessing
from geols_precompute.share.compare import cases_of_data
from geols_precompute.store.layout import VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import require_same_data


@dataclass(frozen=True, kw_only=True)
class RatedCase:
    """One case.

    Attributes:
        id: of the case.
        image: prepared intensities [modality,z,y,x] float32.
        label: class indices [z,y,x] of the rater whose label was softened, 255 where ignored.
        others: those of the other raters [rater,z,y,x]; there may be none.
        names: of the other raters.
        spacing: (z,y,x) in mm.
    """

    id: str
    image: Float32Array
    label: UInt8Array
    others: UInt8Array
    names: tuple[str, ...]
    spacing: tuple[float, float, float]

    @property
    def valid(self) -> BoolArray:
        """The voxels that nobody ignores."""
        valid: BoolArray = (self.label != IGNORE_INDEX) & (self.others != IGNORE_INDEX).all(axis=0)
        return valid


#: Returns a case of a label store.
ReadRated = Callable[[str], RatedCase]


def chosen_rater(preprocessing: Preprocessing, where: object) -> str:
    """Return the rater whose label was softened.

    Raises:
        InputError: there was one label map only, or a consensus, to which no rater is another.
    """
    rater = preprocessing.rater
    if rater is None:
        raise InputError(f"{where}: was made of one label map per case; agreement needs several: see --rater")
    if rater in CONSENSUS:
        raise InputError(f"{where}: softens a consensus ({rater}), of which every rater is part; take --rater 1")
    return rater


def rated_cases(labels: LabelStore, data: Path | None) -> ReadRated:
    """Return what reads the cases of a label store: from `data`, else from the volumes beside the store.

    Raises:
        StoreError: there are no volumes beside the store, and no data folder is given.
        InputError: they keep no raters, or one label map was all there was.
    """
    rater = chosen_rater(labels.preprocessing, labels.path)
    if data is not None:
        return _from_data(labels, data, rater)
    path = labels.path.parent / VOLUMES
    if not path.is_dir():
        raise StoreError(f"no {path}: other raters are needed; name your copy of the data with --data")
    volumes = VolumeStore.open(path)
    if not volumes.preprocessing.keep_raters:
        raise InputError(f"{path}: keeps no raters; name the data with --data, or run geols-precompute --keep-raters")

    def read(case: str) -> RatedCase:
        require_same_data(labels, volumes, case)
        return from_volumes(volumes, case)

    return read


def from_volumes(volumes: VolumeStore, case: str) -> RatedCase:
    """Read a case of a volume store that keeps raters.

    Raises:
        InputError, StoreError: it is missing or damaged.
    """
    rater, raters = chosen_rater(volumes.preprocessing, volumes.path), volumes.raters(case)
    label = volumes.label(case)
    others = {name: other for name, other in raters.items() if name != rater}
    return RatedCase(
        id=case,
        image=volumes.intensities(case),
        label=label,
        others=np.stack([*others.values()]) if others else np.empty((0, *label.shape), np.uint8),
        names=tuple(others),
        spacing=volumes.metadata(case).geometry.spacing_zyx,
    )


def _from_data(labels: LabelStore, data: Path, rater: str) -> ReadRated:
    prepared_case = cases_of_data(labels, data, replace(labels.preprocessing, keep_raters=True))

    def read(case: str) -> RatedCase:
        prepared = prepared_case(case)
        assert prepared.raters is not None
        names = [entry["name"] for entry in prepared.source["raters"]]
        others = [place for place, name in enumerate(names) if name != rater]
        return RatedCase(
            id=case,
            image=prepared.image,
            label=prepared.label,
            others=prepared.raters[others],
            names=tuple(names[place] for place in others),
            spacing=prepared.geometry.spacing_zyx,
        )

    return read
