"""Every other URL: a directory of a file system that fsspec knows (`hf://`, `sftp://`, `memory://`, ...).

Rules: fsspec is optional, and so is the package behind each of its schemes; the error for a missing package
names the command that installs it. Lengths are checked here, since a file system may return less than was requested.
Most file systems have no timeout, so each request runs on its own thread, which is abandoned after the timeout.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from mixstream import errors
from mixstream.records import dataclass
from mixstream.storage.redaction import place_of, redact, redact_with
from mixstream.storage.store import WHOLE, ObjectBytes, ObjectInfo, check_version, check_whole, range_end
from mixstream.storage.url import scheme_of

T = TypeVar("T")

_MANY_REQUESTS = 3600.0  # seconds for calls that may take many requests: a listing, an upload
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "created")
_VERSIONS = ("ETag", "etag", "xet_hash", "blob_id", "checksum", "md5", "mtime", "created", "last_modified", "modified")


@dataclass(frozen=True)
class FsspecStore:
    """A directory of a file system of fsspec. See `Store`; picklable by its URL.

    Args:
        location: URL of the directory.
        timeout: seconds per request, its body included; an upload or a listing may take an hour.

    Raises:
        ConfigError: fsspec, or its package for this scheme, is not installed; or fsspec does not know the scheme.
            If only the file system can refuse the URL, the first request raises this.
    """

    location: str
    timeout: float = 60.0

    def __post_init__(self) -> None:
        self._require_packages()

    def __repr__(self) -> str:
        return f"FsspecStore({redact(self.url)!r})"

    @property
    def url(self) -> str:
        """The directory, without credentials."""
        return place_of(self.location).rstrip("/")

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of a file, by default all of it."""
        return self._read(name, begin, end, version, WHOLE)

    def read_at_most(self, name: str, most: int, *, version: str | None = None) -> ObjectBytes:
        """Return an object of at most `most` bytes."""
        return self._read(name, 0, None, version, most)

    def _read(self, name: str, begin: int, end: int | None, version: str | None, most: int) -> ObjectBytes:
        place = f"{self.url}/{name}"

        def fetch(files: Any, path: str) -> ObjectBytes:
            info = _info(files.info(path))
            check_version(place, info.version, version)
            stop = range_end(place, begin, end, info.size)
            if end is None:
                check_whole(place, stop - begin, most)
            data = files.cat_file(path, start=begin, end=stop) if stop > begin else b""
            if len(data) != stop - begin:
                raise errors.StoreFaultError(f"{place}: bytes {begin} to {stop} requested, {len(data)} bytes received")
            check_version(place, _info(files.info(path)).version, info.version)  # it may have been replaced meanwhile
            return ObjectBytes(data=data, info=info)

        return self._ask("read", name, fetch)

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of a file."""
        return self._ask("look at", name, lambda files, path: _info(files.info(path)))

    def write(self, name: str, data: bytes | Path) -> None:
        """Write a file. Whether it is there whole or not at all depends on the file system."""
        if isinstance(data, Path):
            data.stat()  # an error with the file is an OSError, not a StoreError

        def put(files: Any, path: str) -> None:
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(data, Path):
                files.put_file(str(data), path)
            else:
                files.pipe_file(path, bytes(data))

        self._ask("write", name, put, timeout=_MANY_REQUESTS)

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all files below the directory, sorted; with `limit`, of no more than that many."""

        def collect(files: Any, path: str) -> list[str]:
            below = path.rstrip("/") + "/"
            return sorted(name.removeprefix(below) for name in files.find(path) if name.startswith(below))[:limit]

        return self._ask("list", "", collect, timeout=_MANY_REQUESTS)

    def remove(self, name: str) -> None:
        """Remove a file; it is no error if there is none."""

        def delete(files: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                files.rm_file(path)

        self._ask("remove", name, delete)

    def renew(self) -> None:
        """Forget the file system: the next request makes another, which reads credentials again."""
        self._require_packages().clear_instance_cache()

    def _ask(self, act: str, name: str, call: Callable[[Any, str], T], *, timeout: float = 0.0) -> T:
        """Return what `call` returns for the file system and the file's path in it, within the timeout.

        Exceptions of a file system become errors of `mixstream.errors`, without the cause, which may hold signed URLs.
        """
        if ".." in name.split("/"):
            raise errors.StoreError(f"{name!r} is not a valid name for a file below {self.url}: names are without '..'")

        def run() -> T:
            files, directory = self._opened()
            return call(files, f"{directory.rstrip('/')}/{name}" if name else directory)

        try:
            return _in_time(run, max(timeout, self.timeout))
        except (errors.StoreError, errors.ConfigError):
            raise
        except Exception as error:
            raise _explain(error, f"{self.url}/{name}" if name else self.url, act, self.location) from None

    def _opened(self) -> tuple[Any, str]:
        """Return the file system, which fsspec caches for all URLs of its kind, and the directory as its path."""
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.location, skip_instance_cache=False)
        except ValueError as error:
            raise errors.ConfigError(
                f"{self.url}: fsspec does not accept it: {redact_with(str(error), self.location)[:200]}"
            ) from None

    def _require_packages(self) -> Any:
        """Return the class of the file system, or raise ConfigError if it is not installed; no connection is made."""
        scheme = scheme_of(self.location)
        try:
            import fsspec
            from fsspec.registry import known_implementations
        except ImportError:
            raise errors.ConfigError(
                f"{self.url}: {scheme}:// is read through fsspec, which is not installed: "
                "pip install fsspec, and the package that fsspec needs for it"
            ) from None
        if scheme not in fsspec.available_protocols():
            raise errors.ConfigError(
                f"{self.url}: neither mixstream nor fsspec knows {scheme}://; write a path, file://, s3://, gs://, "
                f"az://, https://, or what fsspec.available_protocols() lists"
            )
        try:
            return fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            hint = known_implementations.get(scheme, {}).get("err", "")
            raise errors.ConfigError(f"{self.url}: fsspec lacks the package for {scheme}://: {hint or error}") from None


def _in_time(run: Callable[[], T], seconds: float) -> T:
    """Return what `run` returns; TimeoutError after so many seconds."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(run())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name="mixstream-fsspec", daemon=True).start()
    return done.result(timeout=seconds)


def _explain(error: Exception, place: str, act: str, url: str) -> errors.StoreError:
    said = f"{place}: could not {act} it: {type(error).__name__}"
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    status = status if isinstance(status, int) else 0
    if status:
        said += f" {status}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)) or status == 404:
        return errors.StoreNotFoundError(
            f"{said}, not found: there is no such file: check `remote` and `split`, or upload it again"
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return errors.StoreAccessError(f"{said}, refused; give credentials as the package of this scheme takes them")
    if status in (429, 503):
        return errors.StoreBusyError(f"{said}, it asks to slow down; read with fewer processes at once")
    if isinstance(error, NotImplementedError):
        return errors.StoreError(f"{said}, this file system cannot do that")
    passing = isinstance(error, (OSError, EOFError)) or type(error).__name__.endswith(_PASSING)
    if status >= 500 or (passing and not status):
        why = "it did not answer in time" if isinstance(error, TimeoutError) else "the request failed"
        return errors.StoreFaultError(f"{said}, {why}")
    return errors.StoreError(f"{said}: {' '.join(redact_with(str(error), url).split())[:200]}")


_PASSING = ("Timeout", "TimeoutError", "ConnectionError", "ConnectError", "ReadError", "ProtocolError", "SSHException")


def _info(found: dict[str, Any]) -> ObjectInfo:
    if found.get("type") == "directory":
        raise IsADirectoryError(found["name"])
    size = found.get("size")
    if not isinstance(size, int):
        raise errors.StoreError(f"{redact(str(found['name']))}: the file system does not report its size")
    version = next((f"{key} {found[key]}" for key in _VERSIONS if found.get(key) is not None), None)
    times = (found[key] for key in _TIMES if found.get(key) is not None)
    return ObjectInfo(size=size, version=version, modified=next(filter(None, map(_seconds, times)), None))


def _seconds(when: object) -> float | None:
    """Return a time of a file system in seconds since 1970; None if it is in another form."""
    if isinstance(when, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(when)
    if isinstance(when, datetime):
        return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
    return float(when) if isinstance(when, int | float) else None
