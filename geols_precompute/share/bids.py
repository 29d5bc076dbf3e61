"""A store's cases as a data set of BIDS derivatives: soft labels as `_probseg`, label maps as `_dseg`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import UInt8Array
from geols_precompute.atomic import readers_of, refuse_foreign, replace_file
from geols_precompute.data.formats.nifti import is_written_here, write_image
from geols_precompute.errors import GeolsError, InputError, OutputError
from geols_precompute.progress import OnCase
from geols_precompute.recipe.classes import IGNORE_INDEX, ClassTable
from geols_precompute.share.export import file_of, geometry_of, require_memory, soft_label_of
from geols_precompute.softlabel import Normalize
from geols_precompute.store.reader import LabelStore, VolumeStore

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
_GENERATOR = "GeoLS"
_BIDS_NAME = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?")


def export_bids(
    labels: LabelStore,
    volumes: VolumeStore,
    cases: Sequence[str],
    out: Path,
    *,
    alpha: float,
    normalize: Normalize,
    on_case: OnCase,
) -> dict[str, str]:
    """Write cases to a folder of BIDS derivatives and return why those failed that did.

    Args:
        labels: the label store.
        volumes: the prepared volumes, which hold the label maps.
        cases: ids.
        out: the folder: new, empty, or one that was written here.
        alpha: share of the geodesic part of the soft labels.
        normalize: as `soft_label` takes it.
        on_case: called after each.

    Raises:
        InputError: two cases would be one subject.
        OutputError: the folder holds something else, or cannot be written.
    """
    names = subject_names(cases)
    _require_own(out)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / DESCRIPTION, _json(_description(labels, volumes)))
    replace_file(out / "README", _README.encode())
    replace_file(out / "dseg.tsv", _class_table(labels.classes).encode())
    segmentation = {"Description": "Label maps; dseg.tsv names the values.", "SpatialReference": "orig"}
    replace_file(out / "dseg.json", _json(segmentation))
    soft = {
        "Description": f"Soft labels, alpha {alpha:g}, normalize {normalize}; recipe {labels.manifest.recipe_id}.",
        "LabelMap": list(labels.classes.names),
        "SpatialReference": "orig",
    }
    replace_file(out / "probseg.json", _json(soft))
    failures: dict[str, str] = {}
    for case in cases:
        try:
            _write_case(labels, volumes, case, out, names[case], alpha=alpha, normalize=normalize)
            on_case(case, "")
        except OutputError:
            raise
        except GeolsError as error:
            failures[case] = str(error)
            on_case(case, failures[case])
    return failures


def subject_names(cases: Sequence[str]) -> dict[str, str]:
    """Return the part of file names that stands for each case: `sub-LABEL`, or `sub-LABEL_ses-LABEL`.

    A case that is named so keeps its name. Of another one the letters and digits are the label: BIDS allows no others.

    Raises:
        InputError: two cases would get one name, letter case aside.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for case in cases:
        name = case if _BIDS_NAME.fullmatch(case) else "sub-" + re.sub(r"[^A-Za-z0-9]", "", case)
        if (other := taken.setdefault(name.lower(), case)) != case:
            raise InputError(
                f"{other} and {case} would both be {name}, for BIDS allows letters and digits only; export one of them "
                "with --case to a folder of its own"
            )
        found[case] = name
    return found


def _write_case(
    labels: LabelStore,
    volumes: VolumeStore,
    case: str,
    out: Path,
    name: str,
    *,
    alpha: float,
    normalize: Normalize,
) -> None:
    require_memory(labels, case, soft=True, channels=len(labels.classes))
    folder = out.joinpath(*name.split("_"), "anat")
    paths = {kind: folder / f"{name}_{kind}.nii.gz" for kind in ("dseg", "probseg")}
    for path in paths.values():
        refuse_foreign(path, is_written_here)
    soft_CZYX = soft_label_of(labels, volumes, case, alpha=alpha, normalize=normalize)
    geometry, _ = geometry_of(labels, volumes.path, case)
    readers = readers_of([file_of(labels, case), file_of(volumes, case)], out)
    write_image(soft_CZYX, geometry, paths["probseg"], readers=readers)
    write_image(_file_values(volumes.label(case), volumes.classes), geometry, paths["dseg"], readers=readers)


def _file_values(label_ZYX: UInt8Array, classes: ClassTable) -> NDArray[Any]:
    """Return a label map [z,y,x] of class indices with the values of label files."""
    values = np.zeros(IGNORE_INDEX + 1, np.min_scalar_type(max(*classes.values, classes.ignore or 0)))
    values[: len(classes)] = classes.values
    values[IGNORE_INDEX] = classes.ignore or 0
    return values[label_ZYX]


def _require_own(out: Path) -> None:
    """Refuse a folder that holds something, unless that is an earlier export.

    Raises:
        OutputError: naming it.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; name a new folder with -o")
    if out.is_dir() and any(out.iterdir()) and not _is_description(out / DESCRIPTION):
        raise OutputError(f"{out}: holds something that was not written by geols; name a new folder with -o")


def _is_description(path: Path) -> bool:
    try:
        return any(entry["Name"] == _GENERATOR for entry in json.loads(path.read_bytes())["GeneratedBy"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _description(labels: LabelStore, volumes: VolumeStore) -> dict[str, Any]:
    try:
        release = version("geols")
    except PackageNotFoundError:
        release = "unknown"
    document = {
        "Name": f"Geodesic soft labels of {', '.join(labels.classes.foreground)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": _GENERATOR,
                "Version": release,
                "Description": f"label store of digest {labels.digest}, recipe {labels.manifest.recipe_id}",
            }
        ],
        "License": labels.geols.get("licence"),
        "HowToAcknowledge": labels.geols.get("citation"),
    }
    return {key: value for key, value in document.items() if value}


def _class_table(classes: ClassTable) -> str:
    rows = [f"{label.value}\t{label.name}" for label in classes]
    if classes.ignore is not None:
        rows.append(f"{classes.ignore}\tignored")
    return "\n".join(["index\tname", *rows, ""])


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


_README = """\
Soft labels for training segmentation networks, written by geols-store export.

_probseg   soft label, a volume per class in the order of LabelMap in probseg.json; 0 in ignored voxels
_dseg      the label map it was made from; dseg.tsv names the values

Both lie where the image lies from which they were made.
"""
