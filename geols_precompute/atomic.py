"""Files and folders that appear whole under their name, by one rename, or not at all; and who may read them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from geols_precompute.errors import OutputError
from geols_precompute.formatting import without_temporary_names

#: What the names of temporary files and folders begin with; none that begins so is part of a store.
TEMPORARY_PREFIX = ".tmp-"
#: Where a file system has no locks, a temporary folder this old has lost its writer.
_ABANDONED_AFTER_SECONDS = 24 * 3600
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)

#: Permission bits that take nothing away: whoever the umask lets in.
EVERYONE = 0o777


@contextmanager
def new_folder(parent: Path, readers: int = EVERYONE) -> Iterator[Path]:
    """Provide a locked temporary folder in `parent`; it is removed at the end if it was not renamed.

    Nobody enters it whom `readers` leaves out; what is made in it and moved elsewhere is a matter of `restrict`.
    """
    with _temporary(parent, Path.mkdir, readers) as folder:
        yield folder


@contextmanager
def new_file(path: Path, readers: int = EVERYONE) -> Iterator[Path]:
    """Provide a temporary file beside `path` that takes its name, synced, if the body ends well.

    Nobody reads it whom `readers` leaves out.
    """
    with _temporary(path.parent, Path.touch, readers) as temporary:
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
        if not os.path.lexists(path):  # it may belong to another user
            os.close(os.open(path, os.O_CREAT | os.O_NOFOLLOW, 0o666))
        descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def in_use(*folders: Path) -> Iterator[None]:
    """Mark folders as in use, for `is_in_use` to see; the mark ends with the process at the latest.

    Where a file system has no locks on folders, nobody sees it.
    """
    with ExitStack() as closing:
        for folder in folders:
            descriptor = os.open(folder, os.O_RDONLY)
            closing.callback(os.close, descriptor)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def is_in_use(folder: Path) -> bool:
    """Whether a living process has marked a folder as in use."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def replace_file(path: Path, content: bytes, readers: int = EVERYONE) -> None:
    """Write a whole file; a crash leaves the one that was there before. Nobody reads it whom `readers` leaves out."""
    with new_file(path, readers) as temporary:
        temporary.write_bytes(content)


def readers_of(sources: Iterable[Path], folder: Path) -> int:
    """Return the permission bits of a copy of files in a folder that nobody can read who cannot read the files.

    A class of users (group, others) keeps its bits if it may read every file, and pass every folder above it that is
    not above the copy, too. The bits of a group count for the group that the copy will have.

    Args:
        sources: files that are there.
        folder: of the copy; it need not be there yet.

    Returns:
        Bits for `new_file`, `new_folder` and `restrict`: 0o700, 0o770, 0o707 or 0o777.

    Raises:
        OSError: a source is not there.
    """
    target = folder.resolve()
    shared = {target, *target.parents}
    there = next(place for place in (target, *target.parents) if place.is_dir()).stat()
    takes_group = there.st_mode & stat.S_ISGID or sys.platform == "darwin"
    group = there.st_gid if takes_group else os.getegid()
    seen: set[Path] = set()
    readers = EVERYONE
    for source in sources:
        path = source.resolve()
        readers &= _readers(path.stat(), stat.S_IROTH, group)
        for parent in path.parents:
            if parent in shared or parent in seen:
                break
            seen.add(parent)
            readers &= _readers(parent.stat(), stat.S_IXOTH, group)
    return readers


def restrict(path: Path, readers: int) -> None:
    """Take from a file, or from a folder and all that lies in it, the permission bits that `readers` leaves out."""
    if readers != EVERYONE:
        for each in (path, *path.rglob("*")):
            each.chmod(stat.S_IMODE(each.stat().st_mode) & readers)


@contextmanager
def made_for(readers: int) -> Iterator[None]:
    """Let this process make files and folders only with permission bits that `readers` has."""
    usual = os.umask(EVERYONE)
    os.umask(usual | (EVERYONE & ~readers))
    try:
        yield
    finally:
        os.umask(usual)


def refuse_link(path: Path) -> None:
    """Refuse to write to a name that somebody has made a link: it would lead the writing elsewhere.

    Raises:
        OutputError: naming the link.
    """
    if path.is_symlink():
        raise OutputError(
            f"{path}: is a link, which would lead what is written elsewhere; move it away, or name another --out"
        )


def refuse_foreign(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Refuse to replace a file that this package has not written.

    Args:
        path: to be written.
        is_ours: tells it of a regular file.

    Raises:
        OutputError: naming the file, or a link or folder of its name.
    """
    refuse_link(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file with -o")
    if os.path.lexists(path) and not (path.is_file() and is_ours(path)):
        raise OutputError(f"{path}: is there, and was not written by geols; move it away, or name another --out")


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
        where = without_temporary_names(str(error.filename or folder))
        raise OutputError(f"{where}: {reason}") from error


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
def _temporary(root: Path, make: Callable[[Path], None], readers: int = EVERYONE) -> Iterator[Path]:
    """Make a locked file or folder beside the cases, and remove it if it was not renamed."""
    descriptor = None
    while descriptor is None:
        path = root / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        make(path)
        restrict(path, readers)
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
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
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


def _readers(status: os.stat_result, bit_of_others: int, group: int) -> int:
    """Return EVERYONE without the classes of users that lack a permission, which is given as the bit of others."""
    members = status.st_mode & (bit_of_others << 3)
    # whoever is in the group of a file may be one of the others of its copy, and the other way round
    others = members and status.st_mode & bit_of_others
    members = others or (members and status.st_gid == group)
    return stat.S_IRWXU | (stat.S_IRWXG if members else 0) | (stat.S_IRWXO if others else 0)
