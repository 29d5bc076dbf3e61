"""Memory: what a case needs, how many workers of this machine that allows, and what a process has used."""

from __future__ import annotations

import math
import os
import re
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.data.cases import Case
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.headers import read_case_header
from geols_precompute.data.prepare import prepared_size
from geols_precompute.errors import ClusterError, InputError
from geols_precompute.formatting import readable
from geols_precompute.recipe.parameters import CHANNELS_AT_ONCE, CONSENSUS, ResolvedRecipe

#: Headers that are read to find the largest case among those with the largest files.
CANDIDATES = 16
#: Room that an estimate leaves, as cases differ in more than their size.
MARGIN = 1.25


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers of this machine.

    Attributes:
        count: how many.
        memory: for each, in bytes.
        note: why there are fewer than were asked for; empty if there are not.
    """

    count: int
    memory: int
    note: str = ""


def case_bytes(geometry: Geometry, recipe: ResolvedRecipe, *, raters: int = 0) -> int:
    """Return about how much memory a worker needs for a case on this grid, with label maps of so many raters."""
    source, prepared = math.prod(geometry.size), math.prod(prepared_size(geometry, recipe.preprocessing))
    return needed_bytes(source, prepared, recipe, raters=raters)


def largest_need(cases: Iterable[Case], recipe: ResolvedRecipe) -> int:
    """Return about how much memory the largest case needs; 0 if no header can be read."""

    def file_bytes(case: Case) -> int:
        with suppress(OSError):
            return sum(map(plain_bytes, source_files(case)))
        return 0

    needs = [0]
    for case in sorted(cases, key=file_bytes, reverse=True)[:CANDIDATES]:
        with suppress(InputError):
            geometry = read_case_header(case, modalities=len(recipe.preprocessing.modalities))
            needs.append(case_bytes(geometry, recipe, raters=len(case.raters)))
    return max(needs)


def plain_bytes(path: Path) -> int:
    """Return the size of a file, uncompressed if it is a .gz: its last four bytes say that, modulo 4 GiB.

    Raises:
        OSError: it cannot be read.
    """
    if path.name.endswith(".gz") and path.stat().st_size > 4:
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            return int.from_bytes(file.read(4), "little")
    return path.stat().st_size


def workers_for(need: int, wanted: int | None) -> Workers:
    """Return as many workers as are wanted (None: one per core), or as many as memory allows.

    Raises:
        ClusterError: memory is too small for one.
    """
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    count = wanted or CPU_COUNT
    room = max(1, math.floor(MEMORY_LIMIT / (MARGIN * need))) if need else count
    if need > MEMORY_LIMIT:
        raise ClusterError(
            f"the largest case needs about {readable(need)}, and this machine has {readable(MEMORY_LIMIT)}; use a "
            "larger one, resample with a recipe's spacing, or try --workers 0"
        )
    fitting = min(count, room)
    note = f"there is memory for {fitting} of {count} workers" if fitting < count else ""
    return Workers(count=fitting, memory=math.floor(MEMORY_LIMIT / fitting), note=note)


_PROCESS_BYTES = 290_000_000  # Python, its libraries and compiled kernels
_FLOAT = 4
_PADDED = 1.1  # voxels of a skewed or padded volume for each of the volume
_TEMPORARY = 5  # a class and what its skeleton is made of
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Begin to measure the peak anew, where the system can (Linux)."""
    with suppress(OSError):
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """Return the largest resident memory of this process since `forget_peak`, or else since its start."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def needed_bytes(source_voxels: int, prepared_voxels: int, recipe: ResolvedRecipe, *, raters: int = 0) -> int:
    """Return about how much memory a worker needs for a case: the larger of reading it and of computing its maps.

    Every term is what the step holds, in bytes per voxel. Maps are written a few channels at a time, so that their
    number does not count. Raters are all read where they are kept or a consensus is made of them.
    """
    modalities, at_once = len(recipe.preprocessing.modalities), min(len(recipe.channels), CHANNELS_AT_ONCE)
    is_averaged = recipe.maps.modalities == "average" and modalities > 1
    images = modalities if recipe.maps.modalities == "joint" else 1
    distances = 1 if recipe.maps.iterations == "exact" else at_once
    is_changed = recipe.preprocessing.clip is not None or prepared_voxels != source_voxels
    read_raters = raters if recipe.preprocessing.keep_raters or recipe.preprocessing.rater in CONSENSUS else 0
    read = source_voxels * _FLOAT * (modalities + 1 + read_raters)  # and label values
    changed = _FLOAT * (modalities + read_raters) if is_changed else 0
    prepared = prepared_voxels * (1 + read_raters + changed)
    workspace = _FLOAT * _PADDED * (images + distances)
    per_class = _FLOAT * (2 if is_averaged else 1) + 2  # floats, seeds, and what is stored
    computing = prepared_voxels * (at_once * per_class + workspace + _TEMPORARY)
    return math.ceil(_PROCESS_BYTES + read + max(prepared + computing, source_voxels * _FLOAT * modalities))
