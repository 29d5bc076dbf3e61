"""Checkpoints: what a network is and what it has learnt, in one file that is written whole or not at all.

The file is a ZIP archive of torch.save. Its archive comment is the SHA-256 of all bytes before the comment, so that a
damaged byte is found wherever it lies; files of before, without a comment, are checked by the archive's own CRC-32.
Numbers that are not finite are neither written nor read.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from geols_precompute.atomic import new_file
from geols_precompute.errors import GeolsError, StoreError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import Preprocessing, preprocessing_json
from geols_train.config import Size, TrainConfig
from geols_train.unet import UNet3D

VERSION = 1
#: What ends a ZIP archive: this signature, 16 bytes, the length of the comment, and the comment.
_END, _END_BYTES = b"PK\5\6", 22
_COMMENT = re.compile(rb"sha256:[0-9a-f]{64}")
_COMMENT_BYTES = 71
_PIECE = 2**20


class TrainingError(GeolsError, RuntimeError):
    """Training cannot go on; the message says what was found, and in which cases."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What a network takes and gives: with its weights, everything that prediction needs.

    Attributes:
        features: channels per level.
        classes: the class table; output channel c is its class c.
        preprocessing: what source files go through first; names the input modalities.
        skull_stripped: z-score over non-zero voxels only.
        window: (z,y,x) voxels at which the network was trained, and predicts.
        overlap: of neighbouring windows in prediction.
        regions: name to class values, for evaluation.
    """

    features: tuple[int, ...]
    classes: ClassTable
    preprocessing: Preprocessing
    skull_stripped: bool
    window: Size
    overlap: float
    regions: Mapping[str, tuple[int, ...]]

    def network(self) -> UNet3D:
        """Return the network with fresh weights, drawn from torch's global generator."""
        return UNet3D(len(self.preprocessing.modalities), len(self.classes), self.features)

    def as_json(self) -> dict[str, Any]:
        """Return the document that a checkpoint keeps."""
        return {
            "features": list(self.features),
            "classes": self.classes.as_json(),
            "preprocessing": preprocessing_json(self.preprocessing, self.classes),
            "skull_stripped": self.skull_stripped,
            "window": list(self.window),
            "overlap": self.overlap,
            "regions": {name: list(values) for name, values in self.regions.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the specification of a checkpoint."""
        z, y, x = document["window"]
        preprocessing = document["preprocessing"]
        return cls(
            features=tuple(document["features"]),
            classes=ClassTable.from_json(document["classes"], ignore=preprocessing["ignore"]),
            preprocessing=Preprocessing.from_json(preprocessing),
            skull_stripped=document["skull_stripped"],
            window=(z, y, x),
            overlap=document["overlap"],
            regions={name: tuple(values) for name, values in document["regions"].items()},
        )


def save_checkpoint(path: Path, spec: NetworkSpec, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values beside the specification; a crash leaves the file that was there before.

    Raises:
        TrainingError: a number is not finite; nothing is written.
        OSError: the file cannot be written.
    """
    if name := _not_finite(content):
        raise TrainingError(
            f"{path}: not saved, as {name} is not finite; what was saved before is whole. Train again with a lower "
            "--lr, or with --precision float32 if it was not"
        )
    with new_file(path) as temporary:
        _save({"version": VERSION, "spec": spec.as_json(), **content}, temporary)
        _append_digest(temporary)


def _save(content: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch speaks of its archive where the disk is full
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(path: Path, device: torch.device | None = None) -> tuple[NetworkSpec, dict[str, Any]]:
    """Return (specification, content); only tensors and plain values are ever unpickled.

    Raises:
        StoreError: it is missing, damaged, of another version, or holds numbers that are not finite.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such checkpoint; is this the folder of a run, and has it ended an epoch?")
    try:
        _require_whole(path)
        content: dict[str, Any] = torch.load(path, map_location=device or "cpu", weights_only=True)
        if content["version"] != VERSION:
            raise StoreError(f"{path}: version {content['version']} of a checkpoint; this software reads {VERSION}")
        _require_plausible_size(path, content)
        if name := _not_finite(content):
            raise StoreError(
                f"{path}: {name} is not finite, so the training had failed; train again, with --precision float32"
            )
        return _checked_spec(content["spec"]), content
    except StoreError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # torch has no one error for a damaged file
        reason = str(error) if isinstance(error, GeolsError) else type(error).__name__
        raise StoreError(f"{path}: not a whole checkpoint ({reason}); restore it or train again") from error


def load_network(path: Path, device: torch.device) -> tuple[NetworkSpec, UNet3D]:
    """Return the specification of a checkpoint, and its network with the weights, ready to predict.

    Raises:
        StoreError: as `load_checkpoint`, or the weights do not fit the specification.
    """
    spec, content = load_checkpoint(path, device)
    # without weights of its own: a specification may ask for more than there is memory
    with torch.device("meta"):
        network = spec.network()
    try:
        network.load_state_dict(content["model"], assign=True)
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: its weights do not fit its specification; train again") from error
    return spec, network.to(device, torch.float32).eval()


# --- damage -----------------------------------------------------------------------------------------------------------


def _append_digest(path: Path) -> None:
    """Give an archive without a comment the digest of its bytes as one."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", _COMMENT_BYTES))
    digest = _sha256(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(f"sha256:{digest}".encode())


def _require_whole(path: Path) -> None:
    """Refuse a file that is not as it was written.

    Raises:
        StoreError: a byte differs.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES))
        tail = file.read()
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise StoreError(f"{path}: not a checkpoint of this software (compressed); train again")
        if tail.startswith(_END) and len(tail) == _END_BYTES + _COMMENT_BYTES:
            comment = tail[_END_BYTES:]
            whole = _COMMENT.fullmatch(comment) and comment[7:].decode() == _sha256(path, size - _COMMENT_BYTES)
        else:
            # of before there were comments
            whole = not archive.comment and tail[-_END_BYTES:].startswith(_END) and archive.testzip() is None
    if not whole:
        raise StoreError(
            f"{path}: damaged, its bytes are not those that were written; restore it from a copy, or train again"
        )


def _sha256(path: Path, stop: int) -> str:
    """Return the SHA-256 of the bytes before `stop`."""
    digest, left = hashlib.sha256(), stop
    with path.open("rb") as file:
        while piece := file.read(min(_PIECE, left)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _require_plausible_size(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse tensors that are larger than the file they come from: views of one number, that would fill the memory."""
    declared = sum(value.numel() * value.element_size() for _, value in _numbers(content) if torch.is_tensor(value))
    if declared > path.stat().st_size:
        raise StoreError(f"{path}: its tensors are larger than the file; it is no checkpoint of this software")


def _checked_spec(document: Mapping[str, Any]) -> NetworkSpec:
    """Return a specification whose numbers are as a training would have them."""
    spec = NetworkSpec.from_json(document)
    TrainConfig(features=spec.features, window=spec.window, overlap=spec.overlap)
    return spec


def _not_finite(content: Mapping[str, Any]) -> str:
    """Return the name of a number or tensor that holds NaN or infinity, or an empty text."""
    tensors = {}
    for name, value in _numbers(content):
        if isinstance(value, float):
            if not math.isfinite(value):
                return name
        elif torch.is_tensor(value) and value.is_floating_point():
            tensors[name] = value
    # the sum of a tensor's absolute values would overflow, its largest does not; asked for all at once
    largest = [value.detach().abs().amax() for value in tensors.values() if value.numel()]
    if not largest or torch.stack([value.to(largest[0].device, torch.float32) for value in largest]).isfinite().all():
        return ""
    return next(name for name, value in tensors.items() if not value.isfinite().all())


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of all that lies in mappings and lists."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from _numbers(value, f"{name}[{place}]")
    else:
        yield name, content
