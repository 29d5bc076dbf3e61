"""Cases of a report: maps from the label store, image and label from the volumes beside it or from a data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geols_precompute.data.cases import Case
from geols_precompute.data.layouts import discover
from geols_precompute.data.prepare import class_indices, prepare
from geols_precompute.data.volumes import fingerprint, read_volume
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.parameters import Preprocessing
from geols_precompute.softlabel import Float32Array
from geols_precompute.store.layout import VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import compare_source, require_same_data


@dataclass(frozen=True, kw_only=True)
class ReportCase:
    """Everything that is looked at of a case.

    Attributes:
        id: of the case.
        image: prepared intensities [modality,z,y,x] float32.
        label: class indices [z,y,x] uint8, 255 where ignored.
        maps: as stored [channel,z,y,x] uint8.
        channels: the class index of each channel.
        present: class indices that have a map.
        spacing: (z,y,x) in mm.
        seeds: class index to {count, fallbacks}.
    """

    id: str
    image: Float32Array
    label: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.uint8]
    channels: tuple[int, ...]
    present: tuple[int, ...]
    spacing: tuple[float, float, float]
    seeds: Mapping[int, Mapping[str, int]]


#: Returns image [modality,z,y,x] float32 and label [z,y,x] of a case of the store.
ReadVolume = Callable[[str], tuple[Float32Array, npt.NDArray[np.uint8]]]


def volumes_of(labels: LabelStore, data: Path | None) -> ReadVolume:
    """Return what reads image and label of the store's cases: from `data`, else from the volumes beside the store.

    Raises:
        StoreError: there are no volumes beside the store, and no data folder is given.
        InputError: the data folder is not one.
    """
    if data is not None:
        return _from_data(labels, data)
    path = Path(labels.path).parent / VOLUMES
    if not path.is_dir():
        raise StoreError(f"no {path}: a report needs images and labels; name your copy of the data with --data")
    volumes = VolumeStore.open(path)

    def read(case: str) -> tuple[Float32Array, npt.NDArray[np.uint8]]:
        require_same_data(labels, volumes, case)
        scale, offset = (a[:, None, None, None] for a in volumes.scale_offset(case))
        return (volumes.image(case) * scale + offset).astype(np.float32), volumes.label(case)

    return read


def read_case(labels: LabelStore, read_volume_of: ReadVolume, case: str) -> ReportCase:
    """Read everything of a case.

    Raises:
        InputError, StoreError: it is missing or damaged, or its maps were made from other data.
    """
    image, label = read_volume_of(case)
    metadata = labels.metadata(case)
    index = {str(c.value): i for i, c in enumerate(labels.classes)}
    return ReportCase(
        id=case, image=image, label=label, maps=labels.maps(case), channels=labels.channels,
        present=labels.present(case), spacing=metadata.geometry.spacing_zyx,
        seeds={index[value]: found for value, found in metadata.geols["seeds"].items()},
    )  # fmt: skip


def _from_data(labels: LabelStore, data: Path) -> ReadVolume:
    preprocessing = Preprocessing.from_json(labels.recipe["preprocessing"])
    dataset = discover(data, modalities=preprocessing.modalities)
    files: dict[str, Case] = {case.id: case for case in dataset.cases}
    values = [label.value for label in labels.classes]

    def read(case: str) -> tuple[Float32Array, npt.NDArray[np.uint8]]:
        if case not in files:
            raise InputError(f"{data}: has no case {case!r}")
        volume = read_volume(files[case].images, files[case].label, modalities=len(preprocessing.modalities))
        source: dict[str, Any] = fingerprint(volume).as_json()
        if (status := compare_source(labels.metadata(case).geols["source"], source)) != "same":
            raise StoreError(f"{labels.path}/{case}: its maps were made from other data than that in {data} ({status})")
        prepared = prepare(volume, spacing=preprocessing.spacing, clip=preprocessing.clip)
        assert prepared.label is not None
        return prepared.image, class_indices(prepared.label, values, ignore=preprocessing.ignore)

    return read
