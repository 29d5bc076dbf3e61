"""The files of a store on a web server, or in a bucket that fsspec knows. No listing is ever asked for.

A transfer that breaks goes on where it broke. What arrives is not trusted: whoever reads it checks digests.

Two backends, requests and fsspec, because neither fsspec nor obstore does for the web what requests does: fsspec reads
a file whole or not at all, and takes what a server without ranges sends for the range; obstore refuses answers without
Content-Length, and does not send the user and password of an address.
"""

from __future__ import annotations

import errno
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, urlsplit

from geols_precompute.errors import MissingExtraError, StoreError
from geols_precompute.formatting import printable

CONNECT_SECONDS, READ_SECONDS = 10, 60
#: Before another try, after one, two, ... failures in a row.
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
#: What a broken transfer loses at most.
WEB_PIECE_BYTES = 2**18
BUCKET_PIECE_BYTES = 8 * 2**20
CONNECTIONS = 32
#: How much is repeated of what a server says.
MAX_REASON = 400
#: A number of bytes as headers have it.
_SIZE = re.compile(r"[0-9]{1,30}")


class WholeFilesOnlyError(StoreError):
    """A server does not send parts of files, so nothing can be looked up in an archive there.

    Attributes:
        size: of the file in bytes, if the server says it.
    """

    def __init__(self, message: str, size: int | None) -> None:
        super().__init__(message)
        self.size = size


class _TemporaryError(Exception):
    """A request failed in a way that another try may mend."""


class RemoteFiles(ABC):
    """The files below an address. They are never listed, only asked for by name.

    Attributes:
        location: the address as messages show it, without secrets.
    """

    def __init__(self, base: SplitResult) -> None:
        self.location = _without_secrets(base)

    @contextmanager
    def open(self, relative: str) -> Iterator[RemoteFile]:
        """Provide a file; nothing is asked before it is read."""
        yield RemoteFile(files=self, relative=relative)

    def entries(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    def names(self, folder: str) -> tuple[str, ...]:
        """Return nothing."""
        return ()

    @abstractmethod
    def request_size(self, relative: str) -> int:
        """Ask for the size of a file, once."""

    @abstractmethod
    def request(self, relative: str, start: int, stop: int) -> Iterator[bytes]:
        """Ask for the bytes of a file from `start` on, once; yield at least those before `stop` or the end."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file elsewhere; what fails is asked for again."""

    files: RemoteFiles
    relative: str

    def size(self) -> int:
        """Return the number of bytes.

        Raises:
            StoreError: there is no such file, or requests fail again and again.
            WholeFilesOnlyError: the server does not send parts of files.
        """
        retries = _Retries(f"{self.files.location}/{self.relative}")
        while True:
            with retries.attempt():
                return self.files.request_size(self.relative)

    def state(self) -> None:
        """Return None: whether the bytes are still the same cannot be told."""

    def stream(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop` or the end, in pieces; goes on where a transfer broke.

        Raises:
            StoreError: there is no such file, or transfers break again and again.
        """
        retries = _Retries(f"{self.files.location}/{self.relative}")
        while start < stop:
            with retries.attempt():
                for piece in self.files.request(self.relative, start, stop):
                    wanted = piece[: stop - start]
                    start += len(wanted)
                    # a transfer that moves on may go on
                    retries.failures = 0
                    yield wanted
                    if start == stop:
                        break
                return


class _Retries:
    """Waits longer after each failure in a row, and gives up after the last wait."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.failures = 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Swallow a temporary error after a wait, so that the caller tries again.

        Raises:
            StoreError: it was one too many.
        """
        try:
            yield
        except _TemporaryError as error:
            if self.failures == len(WAITS_SECONDS):
                raise StoreError(
                    f"{self._where}: {error}, {self.failures + 1} times in a row; run the same command again later"
                ) from error
            time.sleep(WAITS_SECONDS[self.failures])
            self.failures += 1


class WebFiles(RemoteFiles):
    """The files below an address on a web server (http or https), by plain GET requests."""

    def __init__(self, base: SplitResult) -> None:
        super().__init__(base)
        self._base = base

    def request_size(self, relative: str) -> int:
        """Ask for the size of a file: the answer to a request of its first byte has it."""
        with self._answer(relative, "bytes=0-0") as response:
            total: str = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status_code != 206 or not _SIZE.fullmatch(total):
                length: str = response.headers.get("Content-Length", "") if response.status_code == 200 else ""
                raise WholeFilesOnlyError(
                    f"{self.location}/{relative}: the server does not send parts of files",
                    int(length) if _SIZE.fullmatch(length) else None,
                )
            return int(total)

    def request(self, relative: str, start: int, stop: int) -> Iterator[bytes]:
        """Ask for the bytes of a file from `start` on."""
        with self._answer(relative, f"bytes={start}-{stop - 1}" if start else "") as response:
            if response.status_code == 416:  # the file ends before `start`
                return
            # a server that does not send parts sends all, from the beginning
            skip = start if response.status_code == 200 else 0
            try:
                for piece in response.iter_content(WEB_PIECE_BYTES):
                    if len(piece) > skip:
                        yield piece[skip:]
                    skip = max(0, skip - len(piece))
            except _imported("requests").RequestException as error:
                raise _TemporaryError(_first_cause(error)) from error

    @cached_property
    def _session(self) -> Any:
        requests = _imported("requests")
        session = requests.Session()
        # a compressed answer has no places to go on from
        session.headers["Accept-Encoding"] = "identity"
        # requests reads the whole body of an answer that leads elsewhere, however large
        session.hooks["response"].append(_drop_body_of_redirect)
        session.adapters.clear()
        # from https nothing leads to http, which anyone on the way could read and change
        for scheme in ("https://",) if self._base.scheme == "https" else ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
        return session

    @contextmanager
    def _answer(self, relative: str, part: str) -> Iterator[Any]:
        """Ask for a file, or a part of it if one is named, and provide the answer: 200, 206, or 416 to a part.

        Raises:
            StoreError: another try would not help.
            _TemporaryError: it may.
        """
        requests = _imported("requests")
        where = f"{self.location}/{relative}"
        url = self._base._replace(path=f"{self._base.path.rstrip('/')}/{relative}").geturl()
        try:
            response = self._session.get(
                url, headers={"Range": part} if part else {}, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
        except requests.exceptions.InvalidSchema as error:
            raise StoreError(
                f"{where}: the server leads from {self._base.scheme} to what is not safe; ask it for "
                "the address with https"
            ) from error
        except requests.exceptions.SSLError as error:
            raise StoreError(f"{where}: no safe connection ({_first_cause(error)})") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _TemporaryError(_first_cause(error)) from error
        except (requests.RequestException, ValueError) as error:
            # the text of such an error may repeat the address with its secrets
            raise StoreError(f"{where}: cannot be asked for ({type(error).__name__}); is the address right?") from error
        with response:
            status, reason = response.status_code, printable(response.reason or "", MAX_REASON)
            if status >= 500 or status in (408, 429):
                raise _TemporaryError(f"{status} {reason}")
            if status not in (200, 206) and not (status == 416 and part):
                raise StoreError(f"{where}: the server answers {status} {reason}; is the address right?")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise StoreError(
                    f"{where}: the server sends it compressed, unasked; its files must be sent as they are"
                )
            yield response


class BucketFiles(RemoteFiles):
    """The files below an address that fsspec knows, such as s3://bucket/labels.zarr."""

    def __init__(self, base: SplitResult) -> None:
        super().__init__(base)
        fsspec = _imported("fsspec")
        if base.scheme == "s3" and "@" in base.netloc:
            raise StoreError(f"{self.location}: keys do not belong in the address; set AWS_PROFILE or the like")
        try:
            self._system, root = fsspec.core.url_to_fs(base.geturl())
        except Exception as error:
            # file systems of fsspec raise what they like
            raise StoreError(
                f"{self.location}: cannot be opened ({_first_line(error)}); known are http, https, s3 and what fsspec "
                "has a package for"
            ) from error
        self._root = root.rstrip("/")
        self._read = _S3Reader(self._system) if base.scheme in ("s3", "s3a") else _Reader(self._system)

    def request_size(self, relative: str) -> int:
        """Ask for the size of a file."""
        with _errors_of_fsspec(f"{self.location}/{relative}"):
            return self._read.size(f"{self._root}/{relative}")

    def request(self, relative: str, start: int, stop: int) -> Iterator[bytes]:
        """Ask for the bytes of a file from `start` on, piece after piece."""
        while start < stop:
            end = min(start + BUCKET_PIECE_BYTES, stop)
            with _errors_of_fsspec(f"{self.location}/{relative}"):
                piece = self._read.piece(f"{self._root}/{relative}", start, end)
            yield piece
            if start + len(piece) < end:
                return
            start = end


class _Reader:
    """Reads files of a file system of fsspec."""

    def __init__(self, system: Any) -> None:
        self.system = system

    def size(self, path: str) -> int:
        """Return the size of a file."""
        return int(self.system.size(path))

    def piece(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` to `end`, fewer where it ends before."""
        piece: bytes = self.system.cat_file(path, start=start, end=end)
        return piece[: end - start]


class _S3Reader(_Reader):
    """Reads files of an S3 service, by which fsspec would read whatever it sends for a part, in memory."""

    def size(self, path: str) -> int:
        """Return the size of a file."""
        bucket, key, _ = self.system.split_path(path)
        return int(self.system.call_s3("head_object", Bucket=bucket, Key=key)["ContentLength"])

    def piece(self, path: str, start: int, end: int) -> bytes:
        """Return the bytes of a file from `start` to `end`, fewer where it ends before."""
        bucket, key, _ = self.system.split_path(path)
        try:
            answer = self.system.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
        except OSError as error:
            # so says S3 of a place at the end of a file, where an empty answer is meant
            if error.errno == errno.EINVAL and start:
                return b""
            raise
        synchronous = import_module("fsspec.asyn").sync
        piece: bytes = synchronous(self.system.loop, _read_at_most, answer["Body"], end - start)
        return piece


async def _read_at_most(body: Any, size: int) -> bytes:
    """Return the first bytes of an answer, and close it."""
    pieces: list[bytes] = []
    try:
        while size and (piece := await body.read(size)):
            pieces.append(piece)
            size -= len(piece)
    finally:
        body.close()
    return b"".join(pieces)


@contextmanager
def _errors_of_fsspec(where: str) -> Iterator[None]:
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
        raise _TemporaryError(_first_line(error)) from error


def remote_files(url: str) -> tuple[RemoteFiles, str]:
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
    return (WebFiles(base) if parts.scheme in ("http", "https") else BucketFiles(base)), name


def is_url(source: str) -> bool:
    """Whether `source` is an address and not a path."""
    return "://" in source


def _without_secrets(url: SplitResult) -> str:
    """An address without what may be secret in it: user, password, query."""
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}{url.path}".rstrip("/")


def _drop_body_of_redirect(response: Any, **_: object) -> None:
    if response.is_redirect:
        response.raw.close()


def _first_cause(error: BaseException) -> str:
    """The first cause in a chain of exceptions, in one line; the later ones repeat the address."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}".splitlines()[0], MAX_REASON)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, "remote") from error
