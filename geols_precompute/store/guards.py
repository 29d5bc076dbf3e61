"""Guards: what a reader checks before it believes anything that a store says. A store may come from anywhere."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geols_precompute.cases import CASE_ID
from geols_precompute.digests import sha256_hex
from geols_precompute.errors import StoreError
from geols_precompute.geometry import Geometry
from geols_precompute.recipe import MAX_CLASSES, ClassLabel
from geols_precompute.store.layout import ARRAYS, VERSION, ArrayKind, ChunkGrid, Format, array_metadata

MAX_MANIFEST_BYTES = 64 * 2**20
MAX_METADATA_BYTES = 2**20
MAX_AXIS = 2**15
MAX_ELEMENTS = 2**34
MAX_CHUNK_BYTES = 64 * 2**20
#: LZ4 packs no better than 255 to 1, so a shard of n bytes cannot hold more than about 255·n.
MAX_LZ4_RATIO = 256
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest.json; `digest` is the store's."""

    format: Format
    recipe_id: str
    root_sha256: str
    cases: Mapping[str, str]
    digest: str


@dataclass(frozen=True, kw_only=True)
class CaseMetadata:
    """A checked zarr.json of a case.

    Attributes:
        geometry: of the arrays.
        shapes: array name to shape.
        files: relative path to (bytes, sha256).
        geols: the document as it stands, for what needs no check before use.
    """

    geometry: Geometry
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, tuple[int, str]]
    geols: Mapping[str, Any]


def open_regular(root: Path, relative: str) -> int:
    """Open a file below `root` for reading and return its descriptor; no link on the way is followed.

    Raises:
        StoreError: it is missing, a link, or not a regular file.
    """
    path = root
    try:
        for part in relative.split("/"):
            path = path / part
            if stat.S_ISLNK(path.lstat().st_mode):
                raise StoreError(f"{path}: is a link; links are not followed inside a store")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror}); restore it or compute it again") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: is not a regular file")
    return descriptor


def read_limited(root: Path, relative: str, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes.

    Raises:
        StoreError: as `open_regular`, or the file is larger.
    """
    with os.fdopen(open_regular(root, relative), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise StoreError(f"{root / relative}: more than {limit} bytes, which no store of this version needs")
    return content


def parse_json(content: bytes, where: Path) -> dict[str, Any]:
    """Return a JSON object; repeated keys, NaN, infinities and deep nesting are refused.

    Raises:
        StoreError: it is not such an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(content, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not valid JSON ({error}); restore it or compute it again") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where}: not a JSON object")
    return document


def checked_manifest(content: bytes, where: Path, expected: Format) -> Manifest:
    """Check a manifest.json.

    Raises:
        StoreError: another format or version, or an entry that is not as version 1 has it.
    """
    document = parse_json(content, where)
    require_format(document, where, expected)
    cases = document.get("cases")
    digests = [document.get("recipe_id"), document.get("root"), *(cases.values() if isinstance(cases, dict) else [0])]
    if not all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in digests):
        raise StoreError(f"{where}: recipe_id, root or an entry of cases is not a SHA-256")
    assert isinstance(cases, dict)
    if bad := [name for name in cases if not CASE_ID.fullmatch(name)]:
        raise StoreError(f"{where}: {bad[0]!r} is not a case id")
    if len({name.lower() for name in cases}) < len(cases):
        raise StoreError(f"{where}: two cases have one id, letter case aside")
    return Manifest(
        format=expected,
        recipe_id=document["recipe_id"],
        root_sha256=document["root"],
        cases=cases,
        digest=sha256_hex(content),
    )


def require_format(document: Mapping[str, Any], where: Path, expected: Format) -> None:
    """Refuse a manifest or root of another format or version.

    Raises:
        StoreError: naming what was found.
    """
    if document.get("format") != expected:
        raise StoreError(f"{where}: format is {document.get('format')!r}, expected {expected!r}")
    if document.get("version") != VERSION:
        raise StoreError(
            f"{where}: version {document.get('version')!r} of the format; this software reads version {VERSION}, "
            "install the release of geols that wrote the store"
        )


def group_attributes(document: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Return the geols attributes of a group's zarr.json.

    Raises:
        StoreError: it is no Zarr v3 group, or has none.
    """
    attributes = document.get("attributes")
    geols = attributes.get("geols") if isinstance(attributes, dict) else None
    if document.get("zarr_format") != 3 or document.get("node_type") != "group" or not isinstance(geols, dict):
        raise StoreError(f"{where}: not a Zarr v3 group with geols attributes")
    return geols


def checked_classes(geols: Mapping[str, Any], where: Path) -> tuple[ClassLabel, ...]:
    """Return the class table of a root.

    Raises:
        StoreError: it is not 2 to 32 classes, background (0) first, with ascending values.
    """
    try:
        classes = tuple(ClassLabel(value=entry["value"], name=entry["name"]) for entry in geols["classes"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{where}: the class table is not a list of value and name") from error
    values = [label.value for label in classes]
    if (
        not 2 <= len(classes) <= MAX_CLASSES
        or not all(isinstance(v, int) and isinstance(c.name, str) for v, c in zip(values, classes, strict=True))
        or values != sorted(set(values))
        or values[0] != 0
    ):
        raise StoreError(f"{where}: the class table must hold 2 to {MAX_CLASSES} ascending values, background 0 first")
    return classes


def checked_case(document: Mapping[str, Any], where: Path, format_: Format, channels: int) -> CaseMetadata:
    """Check a case's zarr.json: geometry, and one zarr.json and one shard per array, nothing else.

    Args:
        document: the parsed file.
        where: its path, for errors.
        format_: of the store.
        channels: how many channels its 4-D array has, by the root.

    Raises:
        StoreError: something is missing, of a wrong type, or beyond the limits.
    """
    geols = group_attributes(document, where)
    try:
        geometry = Geometry.from_json(geols["geometry"])
        files = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in geols["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"{where}: geometry or files are not as version 1 has them ({error!r})") from error
    if not all(0 < n <= MAX_AXIS for n in geometry.size) or len(geometry.direction) != 9:
        raise StoreError(f"{where}: size {geometry.size} or direction is out of bounds")
    if not all(0 < s < math.inf for s in geometry.spacing):
        raise StoreError(f"{where}: spacing {geometry.spacing} is not positive")
    kinds = ARRAYS[format_]
    if set(files) != {path for kind in kinds for path in (kind.metadata_path, kind.shard_path)}:
        raise StoreError(f"{where}: lists the files {sorted(files)}, which is not what a case of {format_} consists of")
    shapes = {
        kind.name: (channels, *geometry.shape_zyx) if len(kind.axes) == 4 else geometry.shape_zyx for kind in kinds
    }
    for kind in kinds:
        _require_plausible_size(kind, shapes[kind.name], files[kind.shard_path][0], where)
    return CaseMetadata(geometry=geometry, shapes=shapes, files=files, geols=geols)


def _require_plausible_size(kind: ArrayKind, shape: tuple[int, ...], shard_bytes: int, where: Path) -> None:
    """Refuse, before anything is allocated, an array too large in itself or for its shard."""
    decoded, chunk = (math.prod(s) * kind.itemsize for s in (shape, ChunkGrid.of(shape).inner))
    if decoded > MAX_ELEMENTS or chunk > MAX_CHUNK_BYTES or decoded > MAX_LZ4_RATIO * shard_bytes:
        raise StoreError(f"{where}: {kind.name} of shape {shape} is not plausible for {shard_bytes} bytes")


def require_array_metadata(content: bytes, kind: ArrayKind, shape: tuple[int, ...], where: Path) -> None:
    """Refuse an array whose zarr.json is not exactly what version 1 prescribes: type, chunks and codecs.

    Raises:
        StoreError: naming the first key that differs.
    """
    found, expected = parse_json(content, where), array_metadata(kind, shape)
    if differs := [key for key in {**expected, **found} if found.get(key) != expected.get(key)]:
        raise StoreError(f"{where}: {differs[0]} is not what version {VERSION} prescribes for {kind.name} {shape}")
