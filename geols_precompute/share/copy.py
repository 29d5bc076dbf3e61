"""Copies whole cases from one store into another, checked as they come: what pull, unpack and merge have in common."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Event

from geols_precompute import atomic
from geols_precompute.digests import canonical_json, sha256_hex
from geols_precompute.errors import InputError, OutputError, StoreError
from geols_precompute.formatting import plural, readable, some
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import recipe_differences
from geols_precompute.share.export import file_of
from geols_precompute.share.remote import WholeFilesOnlyError, is_url, remote_files
from geols_precompute.store import files, guards
from geols_precompute.store.archive import Archive
from geols_precompute.store.files import Files, Folder
from geols_precompute.store.layout import MANIFEST, MAPS, METADATA, group_metadata, ome_metadata
from geols_precompute.store.reader import LabelStore, local_files
from geols_precompute.store.writer import (
    committed_case,
    new_case,
    refuse_store,
    remove_case,
    store_lock,
    strange_entry,
    whole_cases,
    write_file,
)

#: Cases in transfer at once.
TRANSFERS = 8
#: After so many failures in a row no more is asked of a source.
MAX_FAILURES_IN_A_ROW = 20
#: How long to wait for the next transfer to end once none is wanted any more; the next run removes what is left.
GRACE_SECONDS = 2.0
#: Of an archive whose server says neither how large it is nor sends parts of it.
MAX_UNSIZED_BYTES = 2 * 10**9
_ZIP = b"PK\3\4"


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


@contextmanager
def filling(root: Path, content: bytes) -> Iterator[Callable[[], None]]:
    """Claim the folder of a store for cases of the store whose root zarr.json is `content`; see `create_like`.

    While it is claimed nobody gives it the root of another store. Several may fill it with cases of one.

    Yields:
        What to call before a case is committed: it refuses a folder whose root has become another's after all, as may
        be where a file system has no locks.

    Raises:
        StoreError, OutputError, OSError: as `create_like` does.
    """

    def check() -> None:
        if (root / METADATA).read_bytes() != content:
            raise StoreError(f"{root}: has become another store meanwhile; name a new folder")

    with ExitStack() as claim:
        create_like(root, content, claim)
        yield check


def create_like(root: Path, content: bytes, claim: ExitStack | None = None) -> None:
    """Create the folder of a store whose root zarr.json is `content`, or check that the one there is of that store.

    Args:
        root: of the store.
        content: of its zarr.json.
        claim: what ends the claim on the folder, if it is to be claimed.

    Raises:
        StoreError: something else is there; for another store the message names what differs.
        OutputError: it would lie in another store.
        OSError: it cannot be written.
    """
    refuse_store(root.absolute().parent)
    root.mkdir(parents=True, exist_ok=True)
    atomic.remove_abandoned(root)
    with store_lock(root):
        # listed before the look: without locks another pull may begin the store in between
        others = [path for path in root.iterdir() if not path.name.startswith(atomic.TEMPORARY_PREFIX)]
        if not (root / METADATA).exists():
            if others:
                raise StoreError(f"{root}: is not empty and no store; name a new folder")
            atomic.replace_file(root / METADATA, content)
        elif files.read_limited(Folder(root), METADATA, files.MAX_METADATA_BYTES) != content:
            _require_free(root, content)
            atomic.replace_file(root / METADATA, content)
        if claim:
            claim.enter_context(atomic.in_use(root))


def _require_free(root: Path, content: bytes) -> None:
    """Refuse to make another store of one that has cases, or into which somebody is putting some."""
    where = root / METADATA
    found = files.read_limited(Folder(root), METADATA, files.MAX_METADATA_BYTES)
    ours, theirs = (guards.group_attributes(files.parse_json(c, where), where) for c in (content, found))
    guards.require_format(theirs, where, "geols-labels")
    differing = "; ".join(recipe_differences(ours, theirs)) or "its zarr.json is written differently"
    if any(whole_cases(root)):
        raise StoreError(f"{root}: holds another store ({differing}); name a new folder")
    if atomic.is_in_use(root):
        raise StoreError(f"{root}: is being filled with another store ({differing}); name a new folder")


def require_nothing_else(root: Path, source: LabelStore) -> None:
    """Refuse a store that has what `source` has not, such as cases of an older version.

    Raises:
        StoreError: naming some.
    """
    others = [case for case, _ in whole_cases(root) if case not in source]
    if others:
        raise StoreError(
            f"{root}: has {plural(len(others), 'case')} that the store of this digest has not ({some(others)}); move "
            "them away, or name a new folder"
        )
    for path in sorted(root.iterdir()):
        odd = strange_entry(path) if path.name in source else path
        known = path.name in (MANIFEST, METADATA) or path.name.startswith(".")
        if odd is not None and not known:
            raise StoreError(f"{odd}: is not part of the store of this digest; move it away, or name a new folder")


def copy_cases(
    source: LabelStore,
    root: Path,
    cases: Sequence[str],
    on_case: OnCase,
    *,
    check: Callable[[], None] = lambda: None,
    read_again: bool = False,
) -> CopySummary:
    """Copy whole cases of a store into the one at `root`, several at once.

    A case appears by one rename, when every byte of it has come and has been checked. One that is there already, with
    files of the right sizes, is left alone; what is left of a damaged one makes room for the whole one. With
    `read_again` a case that is there is damaged, too, if a byte of it differs.

    Args:
        source: has the cases.
        root: of the store that they are copied to; see `filling`.
        cases: ids.
        on_case: called as each ends.
        check: called before each commit; what it raises prevents that.
        read_again: read the cases that are there already, and compare them with their digests.

    Raises:
        InputError: the source has no such case.
        StoreError: the store at `root` has something else under one of these names, or nothing but failures comes.
        OSError: it cannot be written.
    """
    entries = {path.name.lower(): path for path in root.iterdir()}
    missing = [case for case in cases if not _is_there(entries.get(case.lower()), case, source)]
    if read_again:
        damaged = {case for case in set(cases) - set(missing) if not _has_its_digests(root, case, source)}
        for case in damaged:
            remove_case(root, case)
        missing = [case for case in cases if case in damaged or case in missing]
    for case in sorted(set(cases) - set(missing)):
        on_case(case, "")
    failures: dict[str, str] = {}
    in_a_row = 0
    with closing(_copy_in_threads(source, missing, root, check)) as ended:
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


def copy_case(
    source: LabelStore,
    case: str,
    root: Path,
    *,
    stop: Event,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Copy a case into the store at `root`, checking every byte; `check` is that of `new_case`.

    Raises:
        StoreError: a byte is not what the digests say, or the store has another case of that name.
        InterruptedError: `stop` was set meanwhile.
        OSError: it cannot be written.
    """

    def pieces(relative: str, size: int, sha256: str) -> Iterator[bytes]:
        for piece in files.checked_pieces(source.files, f"{case}/{relative}", size, sha256):
            if stop.is_set():
                raise InterruptedError
            yield piece

    if stop.is_set():
        raise InterruptedError
    content, metadata = source.read_metadata(case)
    original = file_of(source, case)
    readers = atomic.readers_of([original], root) if original.exists() else atomic.EVERYONE
    with new_case(root, case, check=check, readers=readers) as folder:
        for relative, (size, sha256) in metadata.files.items():
            write_file(folder / relative, pieces(relative, size, sha256))
        write_file(folder / METADATA, [content])


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


def _has_its_digests(root: Path, case: str, source: LabelStore) -> bool:
    """Whether every file of a case in the store at `root` is byte for byte that of the source."""
    try:
        for relative, (size, sha256) in source.read_metadata(case)[1].files.items():
            for _ in files.checked_pieces(Folder(root), f"{case}/{relative}", size, sha256):
                pass
    except StoreError:
        return False
    return True


def _copy_in_threads(
    source: LabelStore, cases: Sequence[str], root: Path, check: Callable[[], None]
) -> Generator[tuple[str, Exception | None], None, None]:
    """Copy cases, several at once, and yield (case, error) as they end; no more is copied once this is closed.

    The threads of this pool are daemons, those of concurrent.futures are not: one of them that waits for a server which
    hangs would keep the program from ending.
    """
    stop = Event()

    def copy(case: str) -> tuple[str, Exception | None]:
        try:
            copy_case(source, case, root, stop=stop, check=check)
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
    try:
        archive = Archive(where, name)
    except WholeFilesOnlyError as error:
        size = error.size
    if archive:
        yield archive
        return
    with atomic.writing_to(scratch, "-o"):
        scratch.mkdir(parents=True, exist_ok=True)
        atomic.remove_abandoned(scratch)
    if size is not None and size > (free := shutil.disk_usage(scratch).free):
        raise OutputError(
            f"{where.location}/{name}: has {readable(size)}, the server does not send parts of files, and in {scratch} "
            f"{readable(free)} are free; name another folder with -o"
        )
    with atomic.scratch_file(scratch) as path:
        with where.open(name) as file, atomic.writing_to(scratch, "-o"):
            limit = MAX_UNSIZED_BYTES if size is None else size
            write_file(path, _of_archive(file.stream(0, limit + 1), limit, f"{where.location}/{name}"))
        yield Archive(Folder(path.parent), path.name, f"{where.location}/{name}")


def _of_archive(pieces: Iterable[bytes], limit: int, where: str) -> Iterator[bytes]:
    """Pass on what should be a zip archive of at most `limit` bytes.

    Raises:
        StoreError: it begins otherwise, or is larger.
    """
    found, head = 0, b""
    for piece in pieces:
        found += len(piece)
        head += piece[: len(_ZIP) - len(head)]
        if head != _ZIP[: len(head)]:
            raise StoreError(f"{where}: is no zip archive; is the address right?")
        if found > limit:
            raise StoreError(
                f"{where}: the server sends more than {readable(limit)} and has not said how much there is; download "
                "it by other means, and run geols-store unpack"
            )
        yield piece
