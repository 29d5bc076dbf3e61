"""Task: one case, from its source files to its commits in both stores. This is what a worker runs."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from geols_precompute.atomic import writing_to
from geols_precompute.data.cases import Case
from geols_precompute.data.prepare import UInt8Array, class_indices, prepare, to_int16
from geols_precompute.data.volumes import Volume, fingerprint, read_volume
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import GeolsError, InputError, OutputError, StoreError
from geols_precompute.maps.case import CaseMaps, compute_maps
from geols_precompute.recipe.parameters import Recipe
from geols_precompute.run import memory
from geols_precompute.run import state as runlog
from geols_precompute.run.reuse import Reuse
from geols_precompute.run.state import SourceStamp
from geols_precompute.store.verify import compare_source
from geols_precompute.store.writer import commit_case, committed_case


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
    recipe: Recipe
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
        seconds: per step.
        peak_memory: of the process meanwhile, in bytes.
        worker: host and process.
    """

    case: str
    status: Literal["computed", "reused", "unchanged", "failed", "unwritable"]
    error: str = ""
    trace: str = ""
    sources: tuple[SourceStamp, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    worker: str = ""


def run_case(task: Task) -> Outcome:
    """Compute and commit one case; whatever goes wrong becomes an outcome, so that no other case suffers."""
    memory.forget_peak()
    outcome = _outcome_of(task)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return replace(outcome, peak_memory=memory.peak_bytes(), worker=worker)


def _outcome_of(task: Task) -> Outcome:
    status: Literal["failed", "unwritable"] = "failed"
    try:
        return _run_case(task)
    except OutputError as error:
        status, reason = "unwritable", str(error)
    except GeolsError as error:
        reason = str(error)
    except MemoryError:
        reason = "out of memory; use fewer --workers, so that each has more"
    except Exception as error:
        # a bug of ours or a library's must not cost the other cases either
        reason = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    return Outcome(case=task.case.id, status=status, error=reason, trace=traceback.format_exc())


def _run_case(task: Task) -> Outcome:
    case, recipe = task.case, task.recipe
    clock = _Clock()
    try:
        stamps = runlog.source_stamps(case.files)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read here: {error.strerror}") from error
    volume = read_volume(case.images, case.label, modalities=len(recipe.preprocessing.modalities))
    clock.lap("read")
    source = fingerprint(volume).as_json()
    if stamps != runlog.source_stamps(case.files):
        raise InputError(f"{case.files[0].parent}: a file of the case changed while it was read; run again")
    clock.lap("fingerprint")
    if _is_committed(task.volumes, case.id, source) and _is_committed(task.labels, case.id, source):
        return Outcome(
            case=case.id, status="unchanged", sources=stamps, source=source_digest(source), notes=volume.notes,
            seconds=clock.seconds,
        )  # fmt: skip
    values = [label.value for label in recipe.classes]
    prepared = prepare(volume, spacing=recipe.preprocessing.spacing, clip=recipe.preprocessing.clip)
    assert prepared.label is not None
    try:
        label_ZYX = class_indices(prepared.label, values, ignore=recipe.preprocessing.ignore)
    except InputError as error:
        raise InputError(f"{case.label}: {error}") from error
    clock.lap("prepare")
    with writing_to(task.labels.parent):
        _commit_volume(task, prepared, label_ZYX, volume, source)
        clock.lap("commit volume")
        reused, notes = _reuse_maps(task, prepared, source)
        clock.lap("reuse")
    if not reused:
        maps = compute_maps(
            prepared.image, label_ZYX, prepared.geometry.spacing_zyx, parameters=recipe.maps, classes=recipe.classes,
            modalities=recipe.preprocessing.modalities, case_id=case.id,
        )  # fmt: skip
        clock.lap("maps")
        with writing_to(task.labels.parent):
            document = _label_document(task, maps, source)
            commit_case(task.labels, case.id, {"maps": maps.stored}, prepared.geometry, document)
        clock.lap("commit maps")
        notes += maps.notes
    return Outcome(
        case=case.id, status="reused" if reused else "computed", sources=stamps, source=source_digest(source),
        notes=(*volume.notes, *notes), seconds=clock.seconds,
    )  # fmt: skip


def _reuse_maps(task: Task, prepared: Volume, source: dict[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Take the maps of a case from another store, if it has them; (whether it had, notes)."""
    if task.reuse is None:
        return False, ()
    try:
        return task.reuse.take(task.case.id, source, prepared.geometry, task.labels), ()
    except StoreError as error:
        return False, (f"its maps could not be taken and were computed: {error}",)


def _commit_volume(task: Task, prepared: Volume, label_ZYX: UInt8Array, volume: Volume, source: dict[str, Any]) -> None:
    if _is_committed(task.volumes, task.case.id, source):
        return
    stored, scale, offset = to_int16(prepared.image)
    document = {
        "source": source,
        "source_geometry": volume.geometry.as_json(),
        "image": {"scale": scale, "offset": offset},
    }
    commit_case(task.volumes, task.case.id, {"image": stored, "label": label_ZYX}, prepared.geometry, document)


def _label_document(task: Task, maps: CaseMaps, source: dict[str, Any]) -> dict[str, Any]:
    values = [label.value for label in task.recipe.classes]
    return {
        "source": source,
        "present": [values[index] for index in maps.present],
        "channels": [values[index] for index in maps.channels],
        "seeds": {str(values[i]): {"count": s.count, "fallbacks": s.fallbacks} for i, s in maps.seeds.items()},
        "stats": {
            str(values[i]): {"mean_distance": s.mean, "min": s.low, "max": s.high} for i, s in maps.statistics.items()
        },
    }


def source_digest(source: Mapping[str, Any]) -> str:
    """Return the digest of a case's fingerprints."""
    return sha256_hex(canonical_json(source))


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
        self.seconds[step] = now - self._last
        self._last = now
