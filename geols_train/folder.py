"""Run folders: the names in one, who may write there, and how its small files are read."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geols_precompute.atomic import refuse_link
from geols_precompute.errors import GeolsError, InputError, OutputError, RecipeError, StoreError
from geols_precompute.formatting import without_temporary_names
from geols_precompute.store.files import parse_json
from geols_precompute.store.writer import refuse_store
from geols_train.config import TrainConfig, read_small, read_toml

CONFIG, SPLIT, LOG, BEST, LAST = "config.toml", "split.json", "log.jsonl", "best.pt", "last.pt"
SUMMARY, CASES, CURVES, PICTURES = "summary.json", "test_cases.csv", "curves.png", "cases.png"
LOCK = ".lock"
#: What a training writes before it has learnt anything, and after.
EARLY, LATE = (CONFIG, SPLIT, LOG), (BEST, LAST, SUMMARY, CASES, CURVES, PICTURES)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds what a training has learnt, of one repeat or several."""
    return any(folder.glob(LAST)) or any(folder.glob(f"repeat-*/{LAST}"))


def require_free(folder: Path) -> None:
    """Refuse a folder for a new run in which that would replace something.

    What a training left that was stopped before it had learnt anything may be replaced; its config.toml is as this
    software writes it.

    Raises:
        InputError: there is a run, or a file under a name that the run will use.
    """
    if holds_run(folder):
        raise InputError(f"{folder} holds a run already; go on with --resume, or name another folder with --out")
    places = [folder, *sorted(folder.glob("repeat-*"))]
    early, late = ([p / n for p in places for n in names if os.path.lexists(p / n)] for names in (EARLY, LATE))
    if found := late or (early if not _is_ours(folder / CONFIG) else []):
        listed = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise InputError(
            f"{folder} holds {listed}, which this run would replace; name another folder with --out, or move them away"
        )


def refuse_data(folder: Path, data: Path, stores: Path) -> None:
    """Refuse a folder for a new run whose files would lie among those of the data or of the stores.

    Args:
        folder: of the run.
        data: the data folder, or the folder of the stores itself.
        stores: the folder of the stores.

    Raises:
        OutputError: it is one of both, or lies in a store.
    """
    refuse_store(folder)
    place, of_stores = folder.resolve(), stores.resolve()
    if place == of_stores:
        what = "the folder of the stores"
    elif place in (data.resolve(), of_stores.parent if of_stores.name == "geols" else None):
        what = "the data folder"
    else:
        return
    raise OutputError(f"{folder} is {what}; name a folder of its own for the run with --out, which may lie in it")


def _is_ours(config: Path) -> bool:
    """Whether a file is a configuration just as a run writes it."""
    try:
        return TrainConfig.from_mapping(read_toml(config)).to_toml().encode() == config.read_bytes()
    except (OSError, GeolsError):
        return False


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder alone, by a lock on a file in it that goes at the end; the lock of a dead process is none.

    Where a file system has no locks, nobody is refused.

    Raises:
        InputError: another training holds it.
    """
    path = folder / LOCK
    descriptor = None
    while descriptor is None:
        refuse_link(path)
        descriptor = _try_lock(path, folder)
    _of_this_process.add(descriptor)
    try:
        yield
    finally:
        _of_this_process.discard(descriptor)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _try_lock(path: Path, folder: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if the file went in between."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"{folder} is the run folder of another training, which is under way; wait for its end, or name another "
            "folder with --out"
        ) from error
    except OSError:
        return descriptor
    try:
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


#: Descriptors of locks. A forked child would hold the lock of a parent that is gone.
_of_this_process: set[int] = set()


def _close_in_child() -> None:
    while _of_this_process:
        os.close(_of_this_process.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def writing_run(folder: Path) -> Iterator[None]:
    """Turn what an operating system says about a run folder into an OutputError that says what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        where = without_temporary_names(str(error.filename or folder))
        if error.errno in _DISK_IS_FULL:
            raise OutputError(
                f"{where}: no space left; what is saved stays: free some, and go on with --resume"
            ) from error
        reason = error.strerror or str(error)
        raise OutputError(f"{where}: cannot be written ({reason}); name another folder with --out") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the document of a small file.

    Raises:
        InputError: it cannot be read, is too large or no JSON object.
    """
    try:
        return parse_json(read_small(path).encode(), path)
    except (StoreError, RecipeError) as error:
        raise InputError(str(error)) from error
