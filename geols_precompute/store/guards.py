"""What a reader checks before it believes what a store's documents say. A store may come from anywhere."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geols_precompute.data.cases import is_case_id
from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.recipe.classes import MAX_CLASSES, ClassTable, problem_of_names
from geols_precompute.recipe.parameters import CONSENSUS, Preprocessing, TrainingHints, stored_channels
from geols_precompute.store.files import MAX_METADATA_BYTES, parse_json
from geols_precompute.store.layout import (
    IMAGE,
    MAPS,
    RATERS,
    VERSIONS,
    ArrayKind,
    Format,
    array_metadata,
    arrays_of,
    manifest,
)

MAX_AXIS = 2**15
MAX_ARRAY_BYTES = 2**34
MAX_NUMBER = 3e38
#: Beyond what any microscope or scanner has; smaller or larger ones leave the range of what is computed with them.
MIN_SPACING_MM, MAX_SPACING_MM = 1e-12, 1e12
MIN_VOLUME = 1e-6
#: As many label maps as classes: a chunk of them is no larger than one of maps.
MAX_RATERS = 255
#: Larger than any label value or count of voxels.
MAX_INTEGER = 2**48
#: In version 1 chunks hold all channels of at most 95 voxels per axis: 254 classes take 218 MB.
MAX_CHUNK_BYTES = 256 * 2**20
#: LZ4 packs no better than 255 to 1, so a shard of n bytes cannot hold more than about 255·n.
MAX_LZ4_RATIO = 256
#: What an inner chunk that cannot be compressed takes beyond its bytes: entry in the index, Blosc's header, checksum.
MAX_CHUNK_OVERHEAD = 16 + 16 + 4
CRC_BYTES = 4
#: Texts of a root that a data set may state.
TERMS = ("licence", "citation")
#: Of a root: the SHA-256 that the maps of the check case had where the store was finished.
CHECK = "check_sha256"
_SHA256_DIGITS = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest.json; `digest` is the store's."""

    format: Format
    version: int
    recipe_id: str
    root_sha256: str
    cases: Mapping[str, str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Root:
    """A checked zarr.json of a root.

    Attributes:
        format: labels or volumes.
        version: of the format.
        arrays: that every case has, by name.
        recipe_id: digest of the recipe.
        recipe: the document as it stands; of volumes it is the preprocessing only.
        classes: the class table.
        preprocessing: what turned source files into prepared volumes.
        channels: the class index of each channel of the maps; of volumes those that maps would have by default.
        hints: what training should know; none in a label store.
        geols: all attributes as they stand.
    """

    format: Format
    version: int
    arrays: Mapping[str, ArrayKind]
    recipe_id: str
    recipe: Mapping[str, Any]
    classes: ClassTable
    preprocessing: Preprocessing
    channels: tuple[int, ...]
    hints: TrainingHints
    geols: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CaseMetadata:
    """A checked zarr.json of a case; `geols` is the document as it stands.

    Attributes:
        geometry: of the arrays.
        shapes: array name to shape.
        files: relative path to (bytes, sha256).
    """

    geometry: Geometry
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, tuple[int, str]]
    geols: Mapping[str, Any]


def checked_manifest(content: bytes, where: str | Path, expected: Format) -> Manifest:
    """Check a manifest.json.

    Raises:
        StoreError: another format or version, or an entry that is not as the version has it.
    """
    require_plain_manifest(content, where)
    document = parse_json(content, where)
    require_format(document, where, expected)
    cases = document.get("cases")
    digests = [document.get("recipe_id"), document.get("root"), *(cases.values() if isinstance(cases, dict) else [0])]
    if not all(map(_is_sha256, digests)):
        raise StoreError(f"{where}: recipe_id, root or an entry of cases is not a SHA-256")
    assert isinstance(cases, dict)
    if bad := [name for name in cases if not is_case_id(name)]:
        raise StoreError(f"{where}: {reprlib.repr(bad[0])} is not a case id")
    if len({name.lower() for name in cases}) < len(cases):
        raise StoreError(f"{where}: two cases have one id, letter case aside")
    known = manifest(expected, document["recipe_id"], document["root"], cases, document["version"])
    if canonical_json(known) != content:
        raise StoreError(f"{where}: is not written as the format prescribes; run geols-store finalize")
    return Manifest(
        format=expected,
        version=document["version"],
        recipe_id=document["recipe_id"],
        root_sha256=document["root"],
        cases=cases,
        digest=sha256_hex(content),
    )


def require_plain_manifest(content: bytes, where: str | Path) -> None:
    """Refuse, before it is parsed, what would take far more memory than a manifest of so many bytes.

    A manifest is two objects, and every case in it a name and 64 digits. Empty arrays would take thirty times as much.

    Raises:
        StoreError: it cannot be a manifest.
    """
    if len(content) < MAX_METADATA_BYTES:
        return
    if content.count(b"{") > 2 or b"[" in content or content.count(b":") * _SHA256_DIGITS > len(content) + 1000:
        raise StoreError(f"{where}: is not written as the format prescribes; get the store again")


def require_format(document: Mapping[str, Any], where: str | Path, expected: Format) -> None:
    """Refuse a manifest or root of another format or version.

    Raises:
        StoreError: naming what was found.
    """
    if document.get("format") != expected:
        raise StoreError(f"{where}: format is {reprlib.repr(document.get('format'))}, expected {expected!r}")
    if document.get("version") not in VERSIONS or not _is_int(document["version"]):
        raise StoreError(
            f"{where}: version {reprlib.repr(document.get('version'))} of the format; this software reads versions "
            f"{' and '.join(map(str, VERSIONS))}, install the release of geols that wrote the store"
        )


def group_attributes(document: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Return the geols attributes of a group's zarr.json.

    Raises:
        StoreError: it is no Zarr v3 group, or has none.
    """
    attributes = document.get("attributes")
    geols = attributes.get("geols") if isinstance(attributes, dict) else None
    if document.get("zarr_format") != 3 or document.get("node_type") != "group" or not isinstance(geols, dict):
        raise StoreError(f"{where}: not a Zarr v3 group with geols attributes")
    return geols


def checked_root(document: Mapping[str, Any], where: str | Path, expected: Format) -> Root:
    """Check the zarr.json of a root: format, recipe and its digest, class table, preprocessing, training hints.

    Raises:
        StoreError: one of them is not as the format has it.
    """
    geols = group_attributes(document, where)
    require_format(geols, where, expected)
    try:
        recipe, recipe_id = geols["recipe"], geols["recipe_id"]
        preprocessing = recipe if expected == "geols-volumes" else recipe["preprocessing"]
        background = "complement" if expected == "geols-volumes" else recipe["maps"]["background"]
        well_formed = (
            recipe_id == sha256_hex(canonical_json(recipe))
            and isinstance(preprocessing["modalities"], list)
            and not problem_of_names(preprocessing["modalities"])
            and background in ("complement", "seeds")
            and all(isinstance(geols.get(key, ""), str) for key in TERMS)
            and (CHECK not in geols or _is_sha256(geols[CHECK]))
        )
        if not well_formed:
            raise ValueError(
                f"recipe_id is not the recipe's digest, or modalities, background, {CHECK} or licence malformed"
            )
        classes = _checked_classes(geols["classes"], preprocessing["ignore"])
        prepared = Preprocessing.from_json(preprocessing)
        if prepared.keep_raters and geols["version"] == 1:
            raise ValueError("version 1 keeps no raters")
        hints = TrainingHints.from_json(geols.get("training", {}))
        if hints.regions and (problem := problem_of_names(list(hints.regions))):
            raise ValueError(f"names of regions: {problem}")
        return Root(
            format=expected,
            version=geols["version"],
            arrays=arrays_of(expected, geols["version"], keep_raters=prepared.keep_raters),
            recipe_id=recipe_id,
            recipe=recipe,
            classes=classes,
            preprocessing=prepared,
            channels=stored_channels(len(classes), background_is_stored=background == "seeds"),
            hints=hints,
            geols=geols,
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(
            f"{where}: the recipe, the class table or the training hints are not as the format has them ({error})"
        ) from error


def _checked_classes(document: Any, ignore: int | None) -> ClassTable:
    """Return the class table of a root; every other error than ValueError is left to the caller."""
    values, names = [entry["value"] for entry in document], [entry["name"] for entry in document]
    if (
        not 2 <= len(values) <= MAX_CLASSES
        or not all(map(_is_int, values))
        or values != sorted(set(values))
        or values[0] != 0
        or values[-1] > MAX_INTEGER
        or problem_of_names(names)
    ):
        raise ValueError(f"the class table must hold 2 to {MAX_CLASSES} ascending values, background 0 first")
    return ClassTable.from_json(document, ignore=ignore)


def checked_case(document: Mapping[str, Any], where: str | Path, root: Root) -> CaseMetadata:
    """Check a case's zarr.json: geometry, sources, classes, and one zarr.json and one shard per array, nothing else.

    Raises:
        StoreError: something is missing, of a wrong type, or beyond the limits.
    """
    geols = group_attributes(document, where)
    try:
        geometry = Geometry.from_json(geols["geometry"])
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in geols["files"].items()}
        problem = (
            _problem_of_geometry(geols["geometry"])
            or _problem_of_source(geols["source"], root.preprocessing)
            or (_problem_of_maps(geols, root) if root.format == "geols-labels" else _problem_of_image(geols, root))
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(f"{where}: not as the format has it ({error!r})") from error
    if problem:
        raise StoreError(f"{where}: {problem}")
    kinds = root.arrays.values()
    if set(files) != {path for kind in kinds for path in (kind.metadata_path, kind.shard_path)}:
        raise StoreError(
            f"{where}: lists the files {reprlib.repr(sorted(files))}, not those that a case of {root.format} "
            "consists of"
        )
    if not all(_is_int(n) and 0 < n <= MAX_ARRAY_BYTES and _is_sha256(digest) for n, digest in files.values()):
        raise StoreError(f"{where}: a file's size or digest is malformed")
    channels = len(root.channels) if root.format == "geols-labels" else len(root.preprocessing.modalities)
    first = {MAPS.name: (channels,), IMAGE.name: (channels,), RATERS.name: (len(geols["source"].get("raters", ())),)}
    shapes = {kind.name: (*first.get(kind.name, ()), *geometry.shape_zyx) for kind in kinds}
    for kind in kinds:
        _require_plausible_size(kind, shapes[kind.name], files[kind.shard_path][0], where)
    return CaseMetadata(geometry=geometry, shapes=shapes, files=files, geols=geols)


def require_array_metadata(content: bytes, kind: ArrayKind, shape: tuple[int, ...], where: str | Path) -> None:
    """Refuse an array whose zarr.json is not exactly what its version prescribes: type, chunks and codecs.

    Raises:
        StoreError: naming the first key that differs.
    """
    found, expected = parse_json(content, where), array_metadata(kind, shape)
    for key in {**expected, **found}:
        if key not in found or key not in expected or canonical_json(found[key]) != canonical_json(expected[key]):
            raise StoreError(f"{where}: {key} is not what the format prescribes for {kind.name} {shape}")


def _require_plausible_size(kind: ArrayKind, shape: tuple[int, ...], shard_bytes: int, where: str | Path) -> None:
    """Refuse, before anything is allocated, an array too large in itself or for its shard."""
    grid = kind.grid(shape)
    decoded, chunk = (math.prod(s) * kind.itemsize for s in (shape, grid.inner))
    most = grid.count * (chunk + MAX_CHUNK_OVERHEAD) + CRC_BYTES
    if decoded > MAX_ARRAY_BYTES or chunk > MAX_CHUNK_BYTES or not decoded / MAX_LZ4_RATIO <= shard_bytes <= most:
        raise StoreError(f"{where}: {kind.name} of shape {shape} is not plausible for {shard_bytes} bytes")


def _problem_of_geometry(geometry: Mapping[str, Any]) -> str:
    lengths = {"size": 3, "spacing": 3, "origin": 3, "direction": 9}
    if any(not _are_numbers(geometry[key], length) for key, length in lengths.items()):
        return "size, spacing, origin and direction must be 3, 3, 3 and 9 finite numbers"
    if not all(_is_int(n) and 0 < n <= MAX_AXIS for n in geometry["size"]):
        return f"size {reprlib.repr(geometry['size'])} is out of bounds"
    if not all(MIN_SPACING_MM <= s <= MAX_SPACING_MM for s in geometry["spacing"]):
        return f"spacing {geometry['spacing']} is out of bounds"
    # axes are of length 1: they span nearly no volume only if two of them are nearly one
    volume = abs(np.linalg.det(np.reshape(geometry["direction"], (3, 3))))
    return "" if MIN_VOLUME <= volume <= 1 / MIN_VOLUME else f"direction {geometry['direction']} is none of three axes"


def _problem_of_source(source: Mapping[str, Any], preprocessing: Preprocessing) -> str:
    digests = [*source["image_sha256"], source["label_sha256"], source["geometry_sha256"]]
    listed = isinstance(source["image_sha256"], list) and len(source["image_sha256"]) == len(preprocessing.modalities)
    if not listed or not all(map(_is_sha256, digests)):
        return "source is not a SHA-256 per modality, label and geometry"
    read = preprocessing.keep_raters or preprocessing.rater in CONSENSUS
    raters = source.get("raters")
    if not read and raters is None:
        return ""
    names = [rater["name"] for rater in raters or ()]
    well_formed = (
        read
        and isinstance(raters, list)
        and len(raters) <= MAX_RATERS
        and not problem_of_names(names)
        and all(rater.keys() == {"name", "sha256"} and _is_sha256(rater["sha256"]) for rater in raters)
    )
    return "" if well_formed else "raters of source are not a name and a SHA-256 each, where the recipe reads several"


def _problem_of_maps(geols: Mapping[str, Any], root: Root) -> str:
    values = root.classes.values
    present, channels = geols["present"], geols["channels"]
    if not all(map(_is_int, present)) or present != sorted(set(present) & set(values)):
        return f"present {reprlib.repr(present)} is not an ascending list of class values"
    if not all(map(_is_int, channels)) or channels != [values[index] for index in root.channels]:
        return f"channels {reprlib.repr(channels)} are not those of the root's recipe and class table"
    for value, seeds in geols["seeds"].items():
        if value not in map(str, values) or not all(_is_count(seeds[key]) for key in ("count", "fallbacks")):
            return "seeds are not a count and fallbacks per class value"
    for value, stats in geols["stats"].items():
        if value not in map(str, values) or not _are_numbers([stats[k] for k in ("mean_distance", "min", "max")], 3):
            return "stats are not three numbers per class value"
    return ""


def _problem_of_image(geols: Mapping[str, Any], root: Root) -> str:
    scale, offset = geols["image"]["scale"], geols["image"]["offset"]
    well_formed = all(_are_numbers(v, len(root.preprocessing.modalities)) for v in (scale, offset)) and all(
        s > 0 for s in scale
    )
    if not well_formed:
        return "image scale and offset are not one number per modality, scale above 0"
    return _problem_of_transforms(geols["transforms"]) if "transforms" in geols else ""


def _problem_of_transforms(transforms: Mapping[str, Any]) -> str:
    codes, lengths = ("sform_code", "qform_code", "units"), {"pixdim": 4, "quaternion": 6, "srow": 12}
    well_formed = (
        isinstance(transforms, dict)
        and transforms.keys() == {*codes, *lengths}
        and all(_is_int(transforms[code]) and 0 <= transforms[code] < 2**15 for code in codes)
        and transforms["units"] < 8
        and all(_are_numbers(transforms[key], length) for key, length in lengths.items())
    )
    return "" if well_formed else "transforms are not the codes, unit, pixdim, quaternion and srow of a NIfTI header"


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _are_numbers(values: Any, length: int) -> bool:
    """Whether `values` is a list of so many finite numbers that float32 can hold."""
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(v) in (int, float) and abs(v) <= MAX_NUMBER for v in values)
    )
