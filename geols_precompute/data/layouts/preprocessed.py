"""nnU-Net preprocessed: DATASET/DATA_IDENTIFIER, the arrays that nnU-Net trains on, beside DATASET/plans.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geols_precompute.data.cases import CaseList, Dataset
from geols_precompute.data.layouts.modalities import find_channels
from geols_precompute.data.layouts.nnunet import channels_of, read_json, require_order, valid_description
from geols_precompute.data.layouts.regions import Labels
from geols_precompute.data.preprocessed import dataset_of
from geols_precompute.errors import InputError, MissingExtraError


def read_preprocessed_folder(root: Path, wanted: tuple[str, ...] | None) -> Dataset | None:
    """Return the cases that nnU-Net has preprocessed into `root`; None if it is no such folder.

    Raises:
        InputError: what describes the cases is not valid, or another choice of modalities is wanted.
        MissingExtraError: nnU-Net is not installed.
    """
    described = root.parent / "dataset.json"
    if not described.is_file() or (plans := _plans_of(root)) is None:
        return None
    with valid_description(described):
        description = read_json(described)
        channels, labels = channels_of(description), Labels.of(description["labels"], described)
    numbers, renaming = find_channels(channels, wanted or channels.names, described)
    require_order(numbers, channels, root)
    found = CaseList()
    for case in dataset_of(root).identifiers:
        arrays = [root / f"{case}.b2nd", root / f"{case}_seg.b2nd"]
        data, label = arrays if arrays[0].exists() else [root / f"{case}.npz"] * 2
        found.add(case, [data, root / f"{case}.pkl"], label, plans=plans)
    cases, problems = found.checked()
    return Dataset(
        layout=f"nnU-Net preprocessed, {root.name}",
        root=root,
        modalities=wanted or channels.names,
        cases=cases,
        problems=problems,
        renamed=channels.passed_over(renaming),
        classes=labels.classes,
        ignore=labels.ignore,
        regions=labels.regions,
        why_no_classes=labels.why_no_classes,
        notes=tuple(filter(None, (channels.note(described), renaming))),
    )


def _plans_of(folder: Path) -> Path | None:
    """Return the plans that a folder of preprocessed cases was made by: they stand beside it, and name it."""
    for path in sorted(folder.parent.glob("*.json")):
        try:
            configurations = read_json(path)["configurations"].values()
            if any(configuration.get("data_identifier") == folder.name for configuration in configurations):
                return path
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue
    return None


def stores_beside(folder: Path) -> Path:
    """Return the folder of the stores of preprocessed cases: beside theirs, which nnU-Net deletes to preprocess again.

    One for each data identifier, as nnU-Net's configurations may share one.
    """
    return folder.parent / "geols" / folder.name


def preprocessed_folders(dataset: str, configurations: Sequence[str], plans: str) -> list[Path]:
    """Return where nnU-Net keeps the cases that some configurations of a data set train on, each folder once.

    Args:
        dataset: its name or number, as nnU-Net takes them.
        configurations: such as 3d_fullres.
        plans: their name.

    Raises:
        InputError: nnU-Net knows no such data set, or has not planned or preprocessed it.
        MissingExtraError: nnU-Net is not installed.
    """
    try:
        from nnunetv2.paths import nnUNet_preprocessed
        from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    except ImportError as error:
        raise MissingExtraError("nnunetv2 2.6 or newer", "nnunet") from error
    if not nnUNet_preprocessed:
        raise InputError("nnUNet_preprocessed is not set; export it as for nnU-Net's own commands")
    try:
        base = Path(str(nnUNet_preprocessed)) / maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise InputError(f"--nnunet {dataset}: {' '.join(str(error).split())}") from error
    path = base / f"{plans}.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist; run nnUNetv2_plan_and_preprocess, or name other plans with -p")
    folders = []
    for name in configurations:
        try:
            folders.append(base / PlansManager(str(path)).get_configuration(name).data_identifier)
        except (RuntimeError, ValueError, LookupError) as error:
            known = ", ".join(read_json(path)["configurations"])
            raise InputError(f"-c {name}: {path} has no such configuration; it has {known}") from error
        if not folders[-1].is_dir():
            raise InputError(f"{folders[-1]} does not exist; run nnUNetv2_preprocess -d {dataset} -c {name}")
    return list(dict.fromkeys(folders))
