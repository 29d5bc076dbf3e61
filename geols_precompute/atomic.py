"""Files and folders that appear whole under their name, by one rename, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geols_precompute.errors import OutputError

#: What the names of temporary files and folders begin with; none that begins so is part of a store.
TEMPORARY_PREFIX = ".tmp-"
#: Where a file system has no locks, a temporary folder this old has lost its writer.
_ABANDONED_AFTER_SECONDS = 24 * 3600
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Provide a locked temporary folder in `parent`; it is removed at the end if it was not renamed."""
    with _temporary(parent, Path.mkdir) as folder:
        yield folder


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Provide a temporary file beside `path` that takes its name, synced, if the body ends well."""
    with _temporary(path.parent, Path.touch) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    sync(path.parent)


@contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """Provide a locked temporary file in a folder and remove it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, Path.touch) as path:
        yield path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, a file at `path` that is there only meanwhile; whoever asks for it meanwhile waits.

    Where a file system has no locks, nobody waits.
    """
    descriptor = None
    while descriptor is None:
        if not path.exists():  # it may belong to another user
            path.touch()
        descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file; a crash leaves the one that was there before."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def writing_to(folder: Path, option: str = "--out") -> Iterator[None]:
    """Turn what an operating system says about an output into an OutputError that says what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            reason = "no space left; free some and run the same command again, it goes on where it stopped"
        else:
            reason = f"cannot be written ({error.strerror}); name another folder with {option}"
        raise OutputError(f"{error.filename or folder}: {reason}") from error


def remove_abandoned(root: Path) -> None:
    """Remove what writers that are gone left behind; a living writer holds a lock on its temporary folder or file."""
    for path in root.glob(f"{TEMPORARY_PREFIX}{'[0-9a-f]' * 32}"):
        with suppress(OSError):
            if not path.is_symlink():
                _remove_if_abandoned(path)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all that lies in it are on the disk.

    All is written before anything is synced, so that the file system commits its journal once, not once a file.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            sync(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(root: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a locked file or folder beside the cases, and remove it if it was not renamed."""
    descriptor = None
    while descriptor is None:
        path = root / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        make(path)
        descriptor = _lock(path)
    try:
        yield path
    finally:
        os.close(descriptor)
        _remove(path)


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds a lock on `path`, or None if another run cleaned it away before."""
    # NFS locks what is open for writing
    writable = not path.is_dir() and os.access(path, os.W_OK)
    try:
        descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    # NFS may also say that it has lost the file
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_if_abandoned(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _is_abandoned(path, descriptor):
            # under the lock, so that a writer that waits for it sees that the path is gone
            _remove(path)
    finally:
        os.close(descriptor)


def _is_abandoned(path: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - path.stat().st_mtime > _ABANDONED_AFTER_SECONDS
    return True
