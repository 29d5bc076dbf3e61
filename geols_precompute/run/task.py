"""One case, from its source files to its commits in both stores. This is what a worker runs."""

from __future__ import annotations

import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from geols_precompute.arrays import UInt8Array
from geols_precompute.atomic import readers_of, writing_to
from geols_precompute.data.cases import Case
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.orientation import orientation_of
from geols_precompute.data.prepare import PreparedCase, prepare_source, read_source, to_int16
from geols_precompute.data.volumes import Volume
from geols_precompute.errors import GeolsError, InputError, OutputError, StoreError
from geols_precompute.formatting import readable
from geols_precompute.maps.case import MapFacts, MapStream
from geols_precompute.recipe.parameters import ResolvedRecipe
from geols_precompute.run import memory, state
from geols_precompute.run.reuse import Reuse
from geols_precompute.store.guards import MAX_ARRAY_BYTES, MAX_AXIS
from geols_precompute.store.verify import compare_source
from geols_precompute.store.writer import commit_case, committed_case, require_recipe

#: How often a case is read whose files change meanwhile.
READINGS = 2

Status = Literal["computed", "reused", "unchanged", "failed", "unwritable"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One case to compute; everything a worker needs to know.

    Attributes:
        case: its files.
        recipe: for every case.
        volumes: the store of prepared volumes.
        labels: the label store.
        reuse: a label store that may have its maps already.
    """

    case: Case
    recipe: ResolvedRecipe
    volumes: Path
    labels: Path
    reuse: Reuse | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task.

    Attributes:
        case: id.
        status: computed, reused (another store's maps were taken), unchanged (the sources were touched but hold the
            same voxels), failed, or unwritable (the output, so that going on with other cases is of no use).
        error: why it failed, in one line.
        trace: where it failed, for --debug.
        sources: the files as they were read.
        source: digest of their fingerprints.
        notes: what a person should know about the case.
        orientation: towards where the axes of its files run.
        seconds: per step.
        peak_memory: of the process meanwhile, in bytes.
        worker: host and process.
    """

    case: str
    status: Status
    error: str = ""
    trace: str = ""
    sources: tuple[state.SourceStamp, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    orientation: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    worker: str = ""

    def as_record(self, store: str, run: int = 0) -> dict[str, Any]:
        """Return what the state says of this case in the label store of that name, after the run of that number."""
        record = {
            "case": self.case,
            "store": store,
            "run": run,
            "status": self.status,
            "seconds": {step: round(value, 4) for step, value in self.seconds.items()},
            "peak_memory": self.peak_memory,
            "worker": self.worker,
            "at": time.time(),
        }
        if self.status == "failed":
            return record | {"failed": self.error}
        return record | {"sources": [*self.sources], "source": self.source}


def run_case(task: Task) -> Outcome:
    """Compute and commit one case; whatever goes wrong becomes an outcome, so that no other case suffers."""
    memory.forget_peak()
    outcome = _outcome_of(task)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return replace(outcome, peak_memory=memory.peak_bytes(), worker=worker)


def _outcome_of(task: Task) -> Outcome:
    try:
        return _run_case(task)
    except Exception as error:
        status: Status = "unwritable" if isinstance(error, OutputError) else "failed"
        return Outcome(case=task.case.id, status=status, error=_reason(error), trace=traceback.format_exc())


def _reason(error: Exception) -> str:
    """Return why a case failed, in one line."""
    if isinstance(error, GeolsError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; use fewer --workers, so that each has more"
    # a bug of ours or a library's must not cost the other cases either
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


class _SourcesChangedError(InputError):
    """A file of the case is not the one any more that was read."""


def _run_case(task: Task) -> Outcome:
    for _ in range(READINGS - 1):
        # what was read first may be old by now: another run may have computed the case from the new files already
        with suppress(_SourcesChangedError):
            return _read_and_commit(task)
    return _read_and_commit(task)


def _read_and_commit(task: Task) -> Outcome:
    case, recipe, clock = task.case, task.recipe, _Clock()
    stamps = _stamps(case)
    volume, source = read_source(case, recipe.preprocessing, recipe.classes)
    _require_unchanged(case, stamps, "read")
    clock.lap("read")
    status, notes = _store_case(task, stamps, volume, source, clock)
    return Outcome(
        case=case.id,
        status=status,
        sources=stamps,
        source=state.source_digest(source),
        notes=notes,
        orientation=orientation_of(volume.geometry),
        seconds=clock.seconds,
    )


def _store_case(
    task: Task, stamps: tuple[state.SourceStamp, ...], volume: Volume, source: dict[str, Any], clock: _Clock
) -> tuple[Status, tuple[str, ...]]:
    """Commit to both stores what they lack of a case; (status, notes).

    A run may be suspended for hours between reading and commit, so both the recipe of the stores and the files of the
    case are looked at once more just before.
    """
    case, recipe = task.case, task.recipe
    classes = recipe.classes.as_json()

    def check_volumes() -> None:
        require_recipe(task.volumes, {"recipe": recipe.preprocessing_json(), "classes": classes})
        _require_unchanged(case, stamps, "computed")

    def check_labels() -> None:
        require_recipe(task.labels, {"recipe": recipe.as_json(), "classes": classes})
        _require_unchanged(case, stamps, "computed")

    readers = _readers(task)
    volume_is_there = _is_committed(task.volumes, case.id, source)
    if volume_is_there and _is_committed(task.labels, case.id, source):
        return "unchanged", volume.notes
    prepared = prepare_source(case, volume, source, recipe.preprocessing, recipe.classes)
    _require_storable(case, prepared, channels=len(recipe.channels))
    clock.lap("prepare")
    with writing_to(task.labels.parent):
        if not volume_is_there:
            _commit_volume(task, prepared, check_volumes, readers)
            clock.lap("commit volume")
        reused, notes = _reuse_maps(task, prepared, check_labels, readers)
    if reused:
        clock.lap("reuse")
        return "reused", (*prepared.notes, *notes)
    maps = MapStream(
        prepared.image,
        prepared.label,
        prepared.geometry.spacing_zyx,
        parameters=recipe.maps,
        classes=recipe.classes,
        modalities=recipe.preprocessing.modalities,
        case=case.id,
    )
    with writing_to(task.labels.parent):
        commit_case(
            task.labels,
            case.id,
            {"maps": _Timed(maps, clock, "maps")},
            prepared.geometry,
            lambda: label_document(maps.facts, source),
            check=check_labels,
            readers=readers,
        )
    clock.lap("commit maps")
    return "computed", (*prepared.notes, *notes, *maps.facts.notes)


def _require_storable(case: Case, prepared: PreparedCase, *, channels: int) -> None:
    """Refuse, before its maps are computed, a case whose maps are larger than a reader of the store takes."""
    shape = prepared.geometry.shape_zyx
    if (size := channels * math.prod(shape)) > MAX_ARRAY_BYTES or max(shape) > MAX_AXIS:
        raise InputError(
            f"{case.label}: maps of {channels} classes on {shape} voxels (z,y,x) are {readable(size)}; at most "
            f"{readable(MAX_ARRAY_BYTES)} per case and {MAX_AXIS} voxels per axis are stored; give a coarser spacing"
        )


def _reuse_maps(
    task: Task, prepared: PreparedCase, check: Callable[[], None], readers: int
) -> tuple[bool, tuple[str, ...]]:
    """Take the maps of a case from another store, if it has them; (whether it had, notes)."""
    if task.reuse is None:
        return False, ()
    try:
        taken = task.reuse.take(
            task.case.id, prepared.source, prepared.geometry, task.labels, check=check, readers=readers
        )
        return taken, ()
    except StoreError as error:
        return False, (f"its maps could not be taken and were computed: {error}",)


def _commit_volume(task: Task, prepared: PreparedCase, check: Callable[[], None], readers: int) -> None:
    stored, scale, offset = to_int16(prepared.image)
    document: dict[str, Any] = {
        "source": prepared.source,
        "source_geometry": prepared.source_geometry.as_json(),
        "image": {"scale": scale, "offset": offset},
    }
    if prepared.geometry.transforms is not None:
        document["transforms"] = prepared.geometry.transforms.as_json()
    arrays: dict[str, NDArray[Any]] = {"image": stored, "label": prepared.label}
    if task.recipe.preprocessing.keep_raters:
        assert prepared.raters is not None
        arrays["raters"] = prepared.raters
    commit_case(
        task.volumes,
        task.case.id,
        arrays,
        prepared.geometry,
        document,
        check=check,
        readers=readers,
    )


def label_document(maps: MapFacts, source: dict[str, Any]) -> dict[str, Any]:
    """Return what a label store keeps of a case beside its maps, with the values of label files for classes."""
    values = maps.classes.values
    return {
        "source": source,
        "present": [values[index] for index in maps.present],
        "channels": [values[index] for index in maps.channels],
        "seeds": {str(values[i]): {"count": s.count, "fallbacks": s.fallbacks} for i, s in maps.seeds.items()},
        "stats": {
            str(values[i]): {"mean_distance": s.mean, "min": s.low, "max": s.high} for i, s in maps.statistics.items()
        },
    }


def _stamps(case: Case) -> tuple[state.SourceStamp, ...]:
    try:
        return state.source_stamps(source_files(case))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read here: {error.strerror}") from error


def _require_unchanged(case: Case, stamps: tuple[state.SourceStamp, ...], what: str) -> None:
    if stamps != _stamps(case):
        raise _SourcesChangedError(f"{case.files[0].parent}: a file of the case changed while it was {what}; run again")


def _readers(task: Task) -> int:
    """Return the permission bits that copies of a case may have."""
    try:
        return readers_of(source_files(task.case), task.labels.parent)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read here: {error.strerror}") from error


def _is_committed(root: Path, case: str, source: dict[str, Any]) -> bool:
    found = committed_case(root, case)
    return found is not None and compare_source(found["source"], source) == "same"


class _Clock:
    """Seconds per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Book the time since the last lap under `step`."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True)
class _Timed:
    """Maps that book the time that they take to compute; what follows them is the commit of maps."""

    maps: MapStream
    clock: _Clock
    step: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.maps.shape

    def __iter__(self) -> Iterator[UInt8Array]:
        self.clock.lap("commit maps")
        for part in self.maps:
            self.clock.lap(self.step)
            yield part
            self.clock.lap("commit maps")
