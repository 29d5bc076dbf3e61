"""Cases of a report: maps from the label store, image and label from the volumes beside it or from a data folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.arrays import Float32Array, UInt8Array
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.formats.transforms import Transforms
from geols_precompute.data.layouts import discover
from geols_precompute.data.orientation import orientation_of
from geols_precompute.errors import StoreError
from geols_precompute.share.compare import cases_of_data
from geols_precompute.share.export import file_of
from geols_precompute.store.layout import METADATA, VOLUMES
from geols_precompute.store.reader import LabelStore, VolumeStore
from geols_precompute.store.verify import require_same_data


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
        orientation: towards where its axes x,y,z run, as `orientation_of` says.
        placed, raters: as `CaseVolumes` has them.
        seeds: class index to {count, fallbacks}.
    """

    id: str
    image: Float32Array
    label: UInt8Array
    maps: UInt8Array
    channels: tuple[int, ...]
    present: tuple[int, ...]
    spacing: tuple[float, float, float]
    orientation: str
    placed: bool
    seeds: Mapping[int, Mapping[str, int]]
    raters: Mapping[str, UInt8Array]


@dataclass(frozen=True, kw_only=True)
class CaseVolumes:
    """What a report shows of a case beside its maps.

    Attributes:
        image: prepared intensities [modality,z,y,x] float32.
        label: class indices [z,y,x] uint8, 255 where ignored.
        raters: class indices [z,y,x] uint8 of every rater by name, where several were kept.
        placed: whether the files say where the body's right and left, front and back are.
    """

    image: Float32Array
    label: UInt8Array
    raters: Mapping[str, UInt8Array]
    placed: bool


#: Reads the volumes of a case of the store.
ReadVolumes = Callable[[str], CaseVolumes]


def volumes_of(labels: LabelStore, data: Path | None) -> ReadVolumes:
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

    def read(case: str) -> CaseVolumes:
        require_same_data(labels, volumes, case)
        transforms = volumes.metadata(case).geols.get("transforms")
        return CaseVolumes(
            image=volumes.intensities(case),
            label=volumes.label(case),
            raters=volumes.raters(case) if volumes.preprocessing.keep_raters else {},
            placed=_declares_place(transforms and Transforms.from_json(transforms)),
        )

    return read


def files_of(labels: LabelStore, data: Path | None) -> list[Path]:
    """Return files that whoever may read the cases of a report may read; `data` is that of `volumes_of`.

    Raises:
        InputError: the data folder is not one.
    """
    files = [file_of(labels, case) for case in labels.cases]
    if data is None:
        beside = labels.path.parent / VOLUMES
        return [*files, *(path for case in labels.cases if (path := beside / case / METADATA).exists())]
    dataset, used = discover(data, modalities=labels.preprocessing.modalities), set(labels.cases)
    return [*files, *(path for case in dataset.cases if case.id in used for path in source_files(case))]


def read_case(labels: LabelStore, read_volumes: ReadVolumes, case: str) -> ReportCase:
    """Read everything of a case.

    Raises:
        InputError, StoreError: it is missing or damaged, or its maps were made from other data.
    """
    volumes = read_volumes(case)
    metadata = labels.metadata(case)
    return ReportCase(
        id=case,
        image=volumes.image,
        label=volumes.label,
        maps=labels.maps(case),
        channels=labels.channels,
        present=labels.present(case),
        spacing=metadata.geometry.spacing_zyx,
        orientation=orientation_of(metadata.geometry),
        placed=volumes.placed,
        raters=volumes.raters,
        seeds={labels.classes.index_of(int(value)): found for value, found in metadata.geols["seeds"].items()},
    )


def _from_data(labels: LabelStore, data: Path) -> ReadVolumes:
    prepared_case = cases_of_data(labels, data, labels.preprocessing)

    def read(case: str) -> CaseVolumes:
        prepared = prepared_case(case)
        names = [rater["name"] for rater in prepared.source.get("raters", ())]
        return CaseVolumes(
            image=prepared.image,
            label=prepared.label,
            raters={} if prepared.raters is None else dict(zip(names, prepared.raters, strict=True)),
            placed=_declares_place(prepared.geometry.transforms),
        )

    return read


def _declares_place(transforms: Transforms | None) -> bool:
    return transforms is None or transforms.affine is not None
