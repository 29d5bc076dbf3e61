"""What a search for data sets and a loader of machine learning ask of a label store: Croissant 1.0, in JSON-LD."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geols_precompute.digests import file_sha256
from geols_precompute.formatting import plural
from geols_precompute.store.layout import MANIFEST, MAPS
from geols_precompute.store.reader import LabelStore

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
#: By which a file is recognised that was written here.
_KEYWORD = "GeoLS"
#: The names that the format asks for, as its specification lists them.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}


def croissant(store: LabelStore, beside: Path, *, url: str = "", creator: str = "", published: str = "") -> bytes:
    """Return a croissant.json for a label store, a folder or an archive; every byte of an archive is read.

    It holds the SHA-256 of the archive and of the manifest, which is the store's digest, licence and citation where the
    store states them, and the class table.

    Args:
        store: to describe.
        beside: the folder of the croissant.json, from which the store is reached if there is no address.
        url: of the folder on the web in which store and croissant.json lie.
        creator: who made the store.
        published: the date, as 2026-01-31.
    """
    cases, classes = len(store), store.classes
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": store.path.name,
        "description": (
            f"Geodesic maps of {plural(cases, 'case')}, of which soft labels for 3D segmentation are made; no images. "
            f"Classes: {', '.join(classes.names)}. A label store of GeoLS, version {store.root.version} of the format; "
            f"store digest {store.digest}, recipe {store.manifest.recipe_id}."
        ),
        "identifier": f"sha256:{store.digest}",
        "keywords": [_KEYWORD, "segmentation", "soft labels", "medical imaging"],
        "distribution": _files(store, beside, url),
        "recordSet": [_class_table(store)],
    }
    optional = {
        "license": store.geols.get("licence"),
        "citeAs": store.geols.get("citation"),
        "url": url,
        "creator": creator and {"@type": "sc:Organization", "name": creator},
        "datePublished": published,
    }
    document |= {key: value for key, value in optional.items() if value}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


#: What the specification asks of every data set, and how a store comes to have it.
REQUIRED: Mapping[str, str] = {
    "license": "dataset.json states none",
    "url": "--url",
    "creator": "--creator",
    "datePublished": "--published",
}


def lacking(content: bytes) -> list[str]:
    """Return what the specification asks for and a croissant.json lacks, each with what gives it."""
    document = json.loads(content)
    return [f"{key} ({remedy})" for key, remedy in REQUIRED.items() if key not in document]


def is_croissant(path: Path) -> bool:
    """Whether a file is a croissant.json that was written here."""
    try:
        document = json.loads(path.read_bytes())
        return document["conformsTo"] == CONFORMS_TO and _KEYWORD in document["keywords"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _files(store: LabelStore, beside: Path, url: str) -> list[dict[str, Any]]:
    path = store.path
    place = f"{url.rstrip('/')}/{path.name}" if url else os.path.relpath(path.absolute(), beside.absolute())
    manifest = {
        "@type": "cr:FileObject",
        "@id": "manifest",
        "name": MANIFEST,
        "description": "The digests of all cases; its own is the store digest.",
        "encodingFormat": "application/json",
        "sha256": store.digest,
    }
    if path.is_dir():
        return [manifest | {"contentUrl": f"{place}/{MANIFEST}"}]
    archive = {
        "@type": "cr:FileObject",
        "@id": "store",
        "name": path.name,
        "contentUrl": place,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/zip",
        "sha256": file_sha256(path),
    }
    maps = {
        "@type": "cr:FileSet",
        "@id": "maps",
        "name": "maps",
        "description": "The maps of a case: uint8, channel,z,y,x, in a Zarr v3 shard.",
        "containedIn": {"@id": "store"},
        "encodingFormat": "application/octet-stream",
        "includes": f"*/{MAPS.shard_path}",
    }
    return [archive, manifest | {"contentUrl": MANIFEST, "containedIn": {"@id": "store"}}, maps]


def _class_table(store: LabelStore) -> dict[str, Any]:
    fields = (("value", "sc:Integer", "In label files."), ("name", "sc:Text", "Of the class."))
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The class table, background first; the index of a class is its place.",
        "key": {"@id": "classes/value"},
        "field": [
            {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "description": text, "dataType": kind}
            for name, kind, text in fields
        ],
        "data": [{"classes/value": label.value, "classes/name": label.name} for label in store.classes],
    }
