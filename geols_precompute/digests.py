"""Canonical JSON and SHA-256: how GeoLS writes and names what it hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def canonical_json(document: Any) -> bytes:
    """Return `document` as UTF-8 JSON with sorted keys, no blanks and the shortest floats that round-trip.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_hex(content: bytes | memoryview) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_sha256(array: NDArray[Any]) -> str:
    """Return the SHA-256 over an array's elements, little-endian, C order."""
    return sha256_hex(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
