"""The names in a store and its metadata documents, in both versions; docs/store-format.md says it in prose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import channel_parts

#: What is written. Version 1 is read, and never written.
VERSION = 2
VERSIONS = (1, 2)
#: Of OME-NGFF.
OME_VERSION = "0.5"
#: The folder of the volume store, beside which label stores lie.
VOLUMES = "volumes.zarr"
MANIFEST = "manifest.json"
METADATA = "zarr.json"

Format = Literal["geols-labels", "geols-volumes"]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How the elements of an array become the bytes of chunks; workflows/benchmarks/packing.py compares choices.

    Attributes:
        compressor: of Blosc.
        level: of the compressor.
        shuffle: how Blosc sorts the bytes, or bits, of all elements before it compresses them.
        part: length in voxels near which spatial axes are cut.
        channels: whether the axis of channels is cut, too, see `channel_parts`.
    """

    compressor: Literal["lz4", "lz4hc", "zstd"]
    level: int
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"]
    part: int
    channels: bool = True


@dataclass(frozen=True, kw_only=True)
class ArrayKind:
    """How one array of a case is stored: its name, element type, axes, and packing."""

    name: str
    dtype: Literal["uint8", "int16"]
    axes: tuple[str, ...]
    packing: Packing

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 2 if self.dtype == "int16" else 1

    @property
    def shard_path(self) -> str:
        """The one shard of the array, relative to the case."""
        return "/".join((self.name, "c", *("0" for _ in self.axes)))

    @property
    def metadata_path(self) -> str:
        """The array's zarr.json, relative to the case."""
        return f"{self.name}/{METADATA}"

    def grid(self, shape: Sequence[int]) -> ChunkGrid:
        """Return how an array of this kind and shape is cut into chunks."""
        return ChunkGrid.of(shape, self.packing)


_PLAIN = Packing(compressor="lz4", level=9, shuffle="noshuffle", part=40)
MAPS = ArrayKind(name="maps", dtype="uint8", axes=("c", "z", "y", "x"), packing=_PLAIN)
IMAGE = ArrayKind(name="image", dtype="int16", axes=("c", "z", "y", "x"), packing=replace(_PLAIN, shuffle="shuffle"))
LABEL = ArrayKind(name="label", dtype="uint8", axes=("z", "y", "x"), packing=_PLAIN)

#: Only where the recipe says `keep_raters`.
RATERS = ArrayKind(name="raters", dtype="uint8", axes=("rater", "z", "y", "x"), packing=_PLAIN)

ARRAYS: dict[Format, tuple[ArrayKind, ...]] = {"geols-labels": (MAPS,), "geols-volumes": (IMAGE, LABEL)}
_VERSION_1 = {"compressor": "lz4hc", "level": 5, "part": 64, "channels": False}


def arrays_of(format_: Format, version: int, *, keep_raters: bool = False) -> dict[str, ArrayKind]:
    """Return, by name, the arrays that a case of a store has; `keep_raters` is what its preprocessing says."""
    changes: dict[str, Any] = _VERSION_1 if version == 1 else {}
    kinds = (*ARRAYS[format_], *((RATERS,) if keep_raters and format_ == "geols-volumes" else ()))
    return {kind.name: replace(kind, packing=replace(kind.packing, **changes)) for kind in kinds}


@dataclass(frozen=True)
class ChunkGrid:
    """How an array is cut into the inner chunks of its one shard.

    Every axis is cut into equal parts: spatial axes near a length, that of channels as `channel_parts` says.

    Attributes:
        shape: of the array.
        inner: shape of an inner chunk.
        parts: inner chunks along each axis.
    """

    shape: tuple[int, ...]
    inner: tuple[int, ...]
    parts: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], packing: Packing) -> ChunkGrid:
        """Return the grid of an array [z,y,x] or [channel,z,y,x]."""
        channels, spatial = tuple(shape[:-3]), tuple(shape[-3:])
        parts = (
            *(len(channel_parts(n)) if packing.channels else 1 for n in channels),
            *(max(1, round(n / packing.part)) for n in spatial),
        )
        inner = tuple(math.ceil(n / p) for n, p in zip(shape, parts, strict=True))
        return cls(shape=(*channels, *spatial), inner=inner, parts=parts)

    @property
    def shard(self) -> tuple[int, ...]:
        """Shape of the shard: inner × parts, at least the array's shape."""
        return tuple(i * p for i, p in zip(self.inner, self.parts, strict=True))

    @property
    def count(self) -> int:
        """Number of inner chunks."""
        return math.prod(self.parts)


def array_metadata(kind: ArrayKind, shape: Sequence[int]) -> dict[str, Any]:
    """Return the zarr.json of an array; nothing in it can be chosen but the shape."""
    grid, packing = kind.grid(shape), kind.packing
    blosc = {
        "cname": packing.compressor,
        "clevel": packing.level,
        "shuffle": packing.shuffle,
        "typesize": kind.itemsize,
        "blocksize": 0,
    }
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": kind.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid.shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(grid.inner),
                    "codecs": [
                        little if kind.itemsize > 1 else {"name": "bytes"},
                        {"name": "blosc", "configuration": blosc},
                        {"name": "crc32c"},
                    ],
                    "index_codecs": [little, {"name": "crc32c"}],
                    "index_location": "start",
                },
            }
        ],
        "attributes": {},
        "dimension_names": list(kind.axes),
    }


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_metadata(
    format_: Format, recipe: Mapping[str, Any], classes: ClassTable, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the zarr.json of a store's root; `extra` holds licence, citation or training hints where known."""
    geols = {
        "format": format_,
        "version": VERSION,
        "recipe": dict(recipe),
        "recipe_id": sha256_hex(canonical_json(recipe)),
        "classes": classes.as_json(),
        **extra,
    }
    return group_metadata({"geols": geols})


def ome_metadata(case_id: str, kind: ArrayKind, geometry: Geometry) -> dict[str, Any]:
    """Return the OME-NGFF 0.5 attributes of a case: one resolution, axes c,z,y,x, millimetres.

    OME-NGFF 0.5 has no rotations, so the direction is in the GeoLS attributes only.
    """
    z, y, x = geometry.spacing_zyx
    return {
        "version": OME_VERSION,
        "multiscales": [
            {
                "name": case_id,
                "axes": [
                    {"name": "c", "type": "channel"},
                    *({"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"),
                ],
                "datasets": [
                    {
                        "path": kind.name,
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [1.0, z, y, x]},
                            {"type": "translation", "translation": [0.0, *geometry.origin[::-1]]},
                        ],
                    }
                ],
            }
        ],
    }


def manifest(
    format_: Format, recipe_id: str, root_sha256: str, cases: Mapping[str, str], version: int = VERSION
) -> dict[str, Any]:
    """Return the manifest: the digests of the root's and of every case's zarr.json."""
    return {
        "format": format_,
        "version": version,
        "recipe_id": recipe_id,
        "root": root_sha256,
        "cases": dict(cases),
    }
