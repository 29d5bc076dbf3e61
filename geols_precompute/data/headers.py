"""What the files of a case say of themselves, without reading a voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from geols_precompute.data.cases import Case
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.volumes import geometry_of, require_modalities, require_one_channel, require_same_grid
from geols_precompute.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Header:
    """The grid of a file, and how many volumes it holds on it."""

    geometry: Geometry
    channels: int


def read_case_header(case: Case, *, modalities: int) -> Geometry:
    """Return the grid of a case whose files agree on it.

    Raises:
        InputError: a header cannot be read, is not of a 3-D volume, or the files do not fit together.
    """
    headers = [read_header(path) for path in case.images]
    require_modalities(case.images[0], sum(header.channels for header in headers), modalities)
    if case.label:
        headers.append(read_header(case.label))
        require_one_channel(case.label, headers[-1].channels)
    first = headers[0].geometry
    for path, header in zip(case.files, headers, strict=True):
        require_same_grid(case.images[0], first, path, header.geometry)
    return first


def read_header(path: Path) -> Header:
    """Return the header of an image file.

    Raises:
        InputError: it cannot be read, or is not that of a 3-D volume.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: cannot be read as an image ({reason}); is the file damaged?") from error
    size = reader.GetSize()
    if len(size) not in (3, 4) or (len(size) == 3 and size[2] == 1) or min(size) < 1:
        raise InputError(f"{path}: {len(size)}-D with size {size}; 3-D volumes are supported")
    return Header(geometry=geometry_of(reader, path), channels=math.prod(size[3:]) * reader.GetNumberOfComponents())
