"""What the files of a case say of themselves, without reading a voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.dicom import series_geometry
from geols_precompute.data.formats.itk import open_header
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.grid import Grid, common_grid, grid_of
from geols_precompute.data.preprocessed import read_preprocessed_header
from geols_precompute.data.volumes import require_modalities, require_one_channel
from geols_precompute.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Header:
    """The grid of a file, and how many volumes it holds on it."""

    grid: Grid
    channels: int

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie."""
        return self.grid.geometry


def read_case_header(case: Case, *, modalities: int) -> Geometry:
    """Return the grid of a case whose files agree on it.

    Raises:
        InputError: a header cannot be read, is not of a 3-D volume, or the files do not fit together.
        MissingExtraError: nnU-Net has preprocessed the case, and is not installed.
    """
    if case.plans is not None:
        return read_preprocessed_header(case, modalities=modalities)
    headers = [read_header(path) for path in case.images]
    require_modalities(case.images[0], sum(header.channels for header in headers), modalities)
    for label in case.labels:
        headers.append(read_header(label))
        require_one_channel(label, headers[-1].channels)
    geometry, _ = common_grid(case.files, [header.grid for header in headers])
    return geometry


def read_header(path: Path) -> Header:
    """Return the header of an image file.

    Raises:
        InputError: it cannot be read, or is not that of a 3-D volume.
    """
    if path.is_dir():
        geometry, channels = series_geometry(path)
        return Header(grid=Grid(geometry=geometry), channels=channels)
    reader = open_header(path)
    size = reader.GetSize()
    if len(size) not in (3, 4) or (len(size) == 3 and size[2] == 1) or min(size) < 1:
        raise InputError(f"{path}: {len(size)}-D with size {size}; 3-D volumes are supported")
    return Header(grid=grid_of(reader, path), channels=math.prod(size[3:]) * reader.GetNumberOfComponents())
