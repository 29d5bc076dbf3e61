"""Copies whole cases from one store into another, checked as they come: what pull, unpack and merge have in common."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event

from geols_precompute import atomic
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import InputError, StoreError
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import recipe_differences
from geols_precompute.share.remote import WholeFilesOnlyError, is_url, remote_files
from geols_precompute.store import files, guards
from geols_precompute.store.archive import Archive
from geols_precompute.store.files import Files, Folder
from geols_precompute.store.layout import MAPS, METADATA, group_metadata, ome_metadata
from geols_precompute.store.reader import LabelStore, local_files
from geols_precompute.store.writer import committed_case, new_case, refuse_store, whole_cases, write_file

#: Cases in transfer at once.
TRANSFERS = 8
#: After so many failures in a row no more is asked of a source.
MAX_FAILURES_IN_A_ROW = 20
#: How long to wait for the next transfer to end once none is wanted any more; the next run removes what is left.
GRACE_SECONDS = 2.0
_ANY_SIZE = 2**62


@dataclass(frozen=True, kw_only=True)
class CopySummary:
    """What became of the cases.

    Attributes:
        copied: how many were copied.
        found: how many were there already.
        failures: case id to why it failed.
    """

    copied: int
    found: int
    failures: Mapping[str, str]


@contextmanager
def open_source(source: str, scratch: Path) -> Iterator[LabelStore]:
    """Open a label store that is a folder or an archive, here or at an address.

    Args:
        source: a path or a URL. Of a remote store only its manifest and root, or an archive's directory, are read.
        scratch: a folder where an archive lies meanwhile if its server sends only whole files.

    Raises:
        StoreError: there is none, or it is damaged.
        MissingExtraError: what reads such an address is not installed.
    """
    if not is_url(source):
        yield LabelStore(local_files(Path(source)))
        return
    where, archive = remote_files(source)
    if not archive:
        yield LabelStore(where)
        return
    with _remote_archive(where, archive, scratch) as packed:
        yield LabelStore(packed)


def create_like(root: Path, content: bytes) -> None:
    """Create the folder of a store whose root zarr.json is `content`, or check that the one there is of that store.

    Raises:
        StoreError: something else is there; for another store the message names what differs.
        OutputError: it would lie in another store.
        OSError: it cannot be written.
    """
    refuse_store(root.absolute().parent)
    root.mkdir(parents=True, exist_ok=True)
    atomic.remove_abandoned(root)
    where = root / METADATA
    # listed before the look: another pull may begin the store in between
    others = [path for path in root.iterdir() if not path.name.startswith(atomic.TEMPORARY_PREFIX)]
    if not where.exists():
        if others:
            raise StoreError(f"{root}: is not empty and no store; name a new folder")
    elif (found := where.read_bytes()) == content:
        return
    else:
        ours, theirs = (guards.group_attributes(files.parse_json(c, where), where) for c in (content, found))
        guards.require_format(theirs, where, "geols-labels")
        if any(whole_cases(root)):
            differing = "; ".join(recipe_differences(ours, theirs)) or "its zarr.json is written differently"
            raise StoreError(f"{root}: holds another store ({differing}); name a new folder")
    atomic.replace_file(where, content)


def copy_cases(source: LabelStore, root: Path, cases: Sequence[str], on_case: OnCase) -> CopySummary:
    """Copy whole cases of a store into the one at `root`, several at once.

    A case appears by one rename, when every byte of it has come and has been checked. One that is there already, with
    files of the right sizes, is left alone; what is left of a damaged one makes room for the whole one.

    Raises:
        InputError: the source has no such case.
        StoreError: the store at `root` has something else under one of these names, or nothing but failures comes.
        OSError: it cannot be written.
    """
    entries = {path.name.lower(): path for path in root.iterdir()}
    missing = [case for case in cases if not _is_there(entries.get(case.lower()), case, source)]
    for case in sorted(set(cases) - set(missing)):
        on_case(case, "")
    failures: dict[str, str] = {}
    in_a_row = 0
    with closing(_copy_in_threads(source, missing, root)) as ended:
        for case, error in ended:
            if error is not None and not isinstance(error, StoreError):
                raise error
            in_a_row = in_a_row + 1 if error else 0
            if error:
                failures[case] = str(error)
            on_case(case, failures.get(case, ""))
            if in_a_row == MAX_FAILURES_IN_A_ROW:
                raise StoreError(f"{source.files.location}: {in_a_row} cases in a row failed, the last: {error}")
    return CopySummary(copied=len(missing) - len(failures), found=len(cases) - len(missing), failures=failures)


def copy_case(source: LabelStore, case: str, root: Path, *, name: str = "", stop: Event | None = None) -> None:
    """Copy a case into the store at `root`, under another name if one is given, checking every byte.

    Raises:
        StoreError: a byte is not what the digests say, or the store has another case of that name.
        InterruptedError: `stop` was set meanwhile.
        OSError: it cannot be written.
    """

    def pieces(relative: str, size: int, sha256: str) -> Iterator[bytes]:
        for piece in files.checked_pieces(source.files, f"{case}/{relative}", size, sha256):
            if stop and stop.is_set():
                raise InterruptedError
            yield piece

    if stop and stop.is_set():
        raise InterruptedError
    content, metadata = source.read_metadata(case)
    with new_case(root, name or case) as folder:
        for relative, (size, sha256) in metadata.files.items():
            write_file(folder / relative, pieces(relative, size, sha256))
        write_file(folder / METADATA, [renamed(metadata, name) if name else content])


def renamed(metadata: guards.CaseMetadata, name: str) -> bytes:
    """Return the zarr.json of a case of maps under another name; the one that it had is not in it."""
    ome = ome_metadata(name, MAPS, metadata.geometry)
    return canonical_json(group_metadata({"ome": ome, "geols": metadata.geols}))


def _is_there(path: Path | None, case: str, source: LabelStore) -> bool:
    """Whether the entry of a store at `path` (None: there is none of that name) is a case as the source has it."""
    if case not in source.manifest.cases:
        raise InputError(f"{source.files.location}: no case {case!r}; it has {len(source.cases)} cases")
    sha256 = source.manifest.cases[case]
    if path is None:
        return False
    if path.name != case:
        raise StoreError(f"{path}: differs from the case {case} in letter case only; name a new folder")
    if path.is_symlink() or not path.is_dir():
        raise StoreError(f"{path}: is no folder of a case; move it away, or name a new folder")
    if committed_case(path.parent, case, {case: sha256}) is not None:
        return True
    if committed_case(path.parent, case) is not None:
        found = sha256_hex((path / METADATA).read_bytes())
        raise StoreError(
            f"{path}: is another case than {source.files.location}/{case} (zarr.json {found[:12]}, there "
            f"{sha256[:12]}); remove one of them, or name a new folder"
        )
    return False


def _copy_in_threads(
    source: LabelStore, cases: Sequence[str], root: Path
) -> Generator[tuple[str, Exception | None], None, None]:
    """Copy cases, several at once, and yield (case, error) as they end; no more is copied once this is closed.

    The threads of this pool are daemons, those of concurrent.futures are not: one of them that waits for a server which
    hangs would keep the program from ending.
    """
    stop = Event()

    def copy(case: str) -> tuple[str, Exception | None]:
        try:
            copy_case(source, case, root, stop=stop)
        except Exception as error:
            return case, error
        return case, None

    with ThreadPool(TRANSFERS) as pool:
        ended = pool.imap_unordered(copy, cases)
        try:
            yield from ended
        finally:
            stop.set()
            with suppress(StopIteration, multiprocessing.TimeoutError):
                while True:
                    ended.next(GRACE_SECONDS)


@contextmanager
def _remote_archive(where: Files, name: str, scratch: Path) -> Iterator[Archive]:
    archive: Archive | None = None
    with suppress(WholeFilesOnlyError):
        archive = Archive(where, name)
    if archive:
        yield archive
        return
    with atomic.writing_to(scratch, "-o"):
        scratch.mkdir(parents=True, exist_ok=True)
        atomic.remove_abandoned(scratch)
    with atomic.scratch_file(scratch) as path:
        with where.open(name) as file, atomic.writing_to(scratch, "-o"):
            write_file(path, file.stream(0, _ANY_SIZE))
        yield Archive(Folder(path.parent), path.name, f"{where.location}/{name}")
