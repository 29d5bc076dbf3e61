"""The stores that a user names, sorted by what they can be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.agreement.cases import RatedCase, ReadRated, rated_cases
from geols_precompute.agreement.rivals import Rival, rivals
from geols_precompute.agreement.study import Soften
from geols_precompute.arrays import Float32Array
from geols_precompute.data.patients import read_patients
from geols_precompute.errors import InputError
from geols_precompute.store.reader import LabelStore


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Label stores of the same volumes, and what they are compared with.

    Attributes:
        name: of the folder that the stores lie in.
        stores: by the names of their soft labels.
        cases: that every store has.
        read: gives a case.
        methods: every soft label by name, rivals first.
        class_names: background first.
        patients: of each case.
    """

    name: str
    stores: Mapping[str, LabelStore]
    cases: tuple[str, ...]
    read: ReadRated
    methods: Mapping[str, Soften]
    class_names: tuple[str, ...]
    patients: Mapping[str, str]


def compare_stores(
    paths: Sequence[Path], *, data: Path | None, group: Path | None, alpha: float, sigmas: Sequence[float], against: str
) -> list[Anatomy]:
    """Open label stores; those in one folder are of one anatomy.

    Args:
        paths: of the stores.
        data: where the raters are, if not in the volumes beside the stores.
        group: CSV or JSON of cases and patients; None makes each case a patient.
        alpha: of the stores' soft labels.
        sigmas: of the Gaussians, in mm.
        against: the method that the others are compared with.

    Raises:
        InputError: stores of one folder have different classes or raters, no case in common, or `against` is none of
            the methods; or a σ is not positive.
        StoreError: a store cannot be opened.
    """
    if bad := [sigma for sigma in sigmas if not 0 < sigma < float("inf")]:
        raise InputError(f"--sigma {bad[0]}: give a positive number of mm")
    folders: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        folders.setdefault(path.resolve().parent, []).append(path)
    if data is not None and len(folders) > 1:
        raise InputError("--data is one data folder, and the stores lie in several; measure each with its own")
    return [_anatomy(folder, found, data, group, alpha, sigmas, against) for folder, found in folders.items()]


def _anatomy(
    folder: Path,
    paths: Sequence[Path],
    data: Path | None,
    group: Path | None,
    alpha: float,
    sigmas: Sequence[float],
    against: str,
) -> Anatomy:
    stores = {path.resolve().name.removesuffix(".zip").removesuffix(".zarr"): LabelStore.open(path) for path in paths}
    first = next(iter(stores.values()))
    for store in stores.values():
        if store.classes != first.classes or store.preprocessing != first.preprocessing:
            raise InputError(f"{store.path}: other classes or preparation than {first.path}; compare them one by one")
    cases = sorted(set(first.cases).intersection(*(store.cases for store in stores.values())))
    if not cases:
        raise InputError(f"{folder}: the stores have no case in common")
    n_classes = len(first.classes)
    methods: dict[str, Soften] = {
        name: _rival(rival, n_classes) for name, rival in rivals(sigmas).items() if name not in stores
    }
    methods |= {name: _stored(store, alpha) for name, store in stores.items()}
    if against not in methods:
        raise InputError(f"--against {against}: is none of {', '.join(methods)}")
    return Anatomy(
        name=folder.parent.name if folder.name == "geols" else folder.name,
        stores=stores,
        cases=tuple(cases),
        read=rated_cases(first, data),
        methods=methods,
        class_names=first.classes.names,
        patients=read_patients(group, cases),
    )


def _rival(rival: Rival, n_classes: int) -> Soften:
    def soften(case: RatedCase) -> Float32Array:
        return rival(case.label, case.spacing, n_classes)

    return soften


def _stored(store: LabelStore, alpha: float) -> Soften:
    def soften(case: RatedCase) -> Float32Array:
        return store.soft_label(case.id, case.label, alpha=alpha)

    return soften
