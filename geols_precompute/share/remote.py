"""Remote: the files of a store on a web server, or in a bucket that fsspec knows. No listing is ever asked for.

A transfer that breaks goes on where it broke. What arrives is not believed: whoever reads it checks digests.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, urlsplit

from geols_precompute.errors import MissingExtraError, StoreError

CONNECT_SECONDS, READ_SECONDS = 10, 60
#: Before another try, after one, two, ... failures in a row.
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
#: What a broken transfer loses at most.
WEB_PIECE_BYTES = 2**18
BUCKET_PIECE_BYTES = 8 * 2**20
CONNECTIONS = 32


class WholeFilesOnlyError(StoreError):
    """A server does not send parts of files, so nothing can be looked up in an archive there."""


class _BrokenError(Exception):
    """A transfer broke in a way that another try may mend."""


@dataclass(frozen=True)
class RemoteFile:
    """One file elsewhere; `request` yields its bytes from a place on, once, and `ask_size` asks for its size."""

    where: str
    request: Callable[[int, int], Iterator[bytes]]
    ask_size: Callable[[], int]

    def size(self) -> int:
        """Return the number of bytes."""
        patience = _Patience(self.where)
        while True:
            try:
                return self.ask_size()
            except _BrokenError as error:
                patience.wait_after(error)

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` or the end, in pieces; goes on where a transfer broke.

        Raises:
            StoreError: there is no such file, or transfers break again and again.
        """
        patience = _Patience(self.where)
        while True:
            try:
                for piece in self.request(start, stop):
                    if start == stop:
                        return
                    wanted = piece[: stop - start]
                    start += len(wanted)
                    patience.moved()
                    yield wanted
                return
            except _BrokenError as error:
                patience.wait_after(error)


class _Unlisted:
    """What lies elsewhere is never listed, only asked for by name."""

    def entries(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def names(self, folder: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()


class WebFiles(_Unlisted):
    """The files below an address on a web server (http or https), by plain GET requests."""

    def __init__(self, base: SplitResult) -> None:
        self._base = base
        self.location = _shown(base)

    @cached_property
    def _session(self) -> Any:
        requests = _imported("requests")
        session = requests.Session()
        # a compressed answer has no places to go on from
        session.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
        return session

    @contextmanager
    def open(self, relative: str) -> Iterator[RemoteFile]:
        """Provide a file; nothing is asked before it is read."""
        where = f"{self.location}/{relative}"
        url = self._base._replace(path=f"{self._base.path.rstrip('/')}/{relative}").geturl()

        def request(start: int, stop: int) -> Iterator[bytes]:
            with self._answer(url, where, f"bytes={start}-{stop - 1}" if start else None) as response:
                if response.status_code == 416 and start:
                    return
                # a server that does not send parts sends all, from the beginning
                skip = start if response.status_code == 200 else 0
                for piece in _unbroken(response):
                    if len(piece) > skip:
                        yield piece[skip:]
                    skip = max(0, skip - len(piece))

        yield RemoteFile(where, request, lambda: self._size(url, where))

    def _size(self, url: str, where: str) -> int:
        with self._answer(url, where, "bytes=0-0") as response:
            total: str = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status_code != 206 or not total.isdecimal():
                raise WholeFilesOnlyError(f"{where}: the server does not send parts of files")
            return int(total)

    @contextmanager
    def _answer(self, url: str, where: str, part: str | None) -> Iterator[Any]:
        """Send a request and provide the answer.

        Raises:
            StoreError: another try would not help.
            _BrokenError: it may.
        """
        requests = _imported("requests")
        try:
            response = self._session.get(
                url, headers={"Range": part} if part else {}, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
        except requests.exceptions.SSLError as error:
            raise StoreError(f"{where}: no safe connection ({_innermost(error)})") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _BrokenError(_innermost(error)) from error
        except (requests.RequestException, ValueError) as error:
            # the text of such an error may repeat the address with its secrets
            raise StoreError(f"{where}: cannot be asked for ({type(error).__name__}); is the address right?") from error
        with response:
            status = response.status_code
            if status >= 500 or status in (408, 429):
                raise _BrokenError(f"{status} {response.reason}")
            if status not in (200, 206) and not (status == 416 and part):
                raise StoreError(f"{where}: the server answers {status} {response.reason}; is the address right?")
            yield response


class BucketFiles(_Unlisted):
    """The files below an address that fsspec knows, such as s3://bucket/labels.zarr."""

    def __init__(self, url: str) -> None:
        fsspec = _imported("fsspec")
        parts = urlsplit(url)
        self.location = _shown(parts)
        if parts.scheme == "s3" and "@" in parts.netloc:
            raise StoreError(f"{self.location}: keys do not belong in the address; set AWS_PROFILE or the like")
        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:
            # file systems of fsspec raise what they like
            raise StoreError(
                f"{self.location}: cannot be opened ({_first_line(error)}); known are http, https, s3 and what fsspec "
                "has a package for"
            ) from error

    @contextmanager
    def open(self, relative: str) -> Iterator[RemoteFile]:
        """Provide a file; nothing is asked before it is read."""
        where, path = f"{self.location}/{relative}", f"{self._root.rstrip('/')}/{relative}"

        def request(start: int, stop: int) -> Iterator[bytes]:
            while start < stop:
                end = min(start + BUCKET_PIECE_BYTES, stop)
                with _explained(where):
                    piece = self._piece(path, start, end)
                yield piece
                if start + len(piece) < end:
                    return
                start = end

        def size() -> int:
            with _explained(where):
                return int(self._system.size(path))

        yield RemoteFile(where, request, size)

    def _piece(self, path: str, start: int, end: int) -> bytes:
        try:
            piece: bytes = self._system.cat_file(path, start=start, end=end)
        except OSError as error:
            # so says S3 of a place at the end of a file, where an empty answer is meant
            if error.errno == errno.EINVAL and start:
                return b""
            raise
        return piece


def remote_files(url: str) -> tuple[WebFiles | BucketFiles, str]:
    """Return the files below an address, and the name of the archive there if the address is that of one.

    Raises:
        StoreError: it is no address, or nothing here can read from such a one.
        MissingExtraError: what reads from it is not installed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StoreError(f"the address of the source cannot be read ({error})") from error
    folder, _, last = parts.path.rstrip("/").rpartition("/")
    name = last if last.lower().endswith(".zip") else ""
    base = parts._replace(path=folder) if name else parts
    return (WebFiles(base) if parts.scheme in ("http", "https") else BucketFiles(base.geturl())), name


def is_url(source: str) -> bool:
    """Whether `source` is an address and not a path."""
    return "://" in source


class _Patience:
    """Waits longer after each failure in a row, and gives up after the last wait."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._failures = 0

    def moved(self) -> None:
        """Take note that bytes arrived: a transfer that moves on may go on."""
        self._failures = 0

    def wait_after(self, error: _BrokenError) -> None:
        if self._failures == len(WAITS_SECONDS):
            raise StoreError(
                f"{self._where}: {error}, {self._failures + 1} times in a row; run the same command again later"
            ) from error
        time.sleep(WAITS_SECONDS[self._failures])
        self._failures += 1


def _unbroken(response: Any) -> Iterator[bytes]:
    requests = _imported("requests")
    try:
        yield from response.iter_content(WEB_PIECE_BYTES)
    except requests.RequestException as error:
        raise _BrokenError(_innermost(error)) from error


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what a file system of fsspec raises into an error of ours; those have no common base."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{where}: there is no such file; is the address right?") from error
    except PermissionError as error:
        raise StoreError(f"{where}: access is denied ({_first_line(error)}); check the credentials") from error
    except Exception as error:
        if type(error).__name__ == "NoCredentialsError":
            text = f"{where}: no credentials found; set them, or FSSPEC_S3_ANON=true for a public bucket"
            raise StoreError(text) from error
        raise _BrokenError(_first_line(error)) from error


def _innermost(error: BaseException) -> str:
    """The first cause in a chain of exceptions, in one line; the later ones repeat the address."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _shown(parts: SplitResult) -> str:
    """An address without what may be secret in it: user, password, query."""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def _imported(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, "remote") from error
