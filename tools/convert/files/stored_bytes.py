"""The bytes of a source file as they are stored, on local disk or in an object store: one seekable raw stream for both.

Rules. Memory is bounded by a few blocks, whatever the size of a file. A file is never downloaded whole: an object is
read by ranges (object_stream.py), and every range is tried again after transient errors. A file that is another one
than it was when the sources were listed is an error: a local file is compared at the beginning and at the end, an
object at every range. Errors and `repr` hold no credentials.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mixstream.errors import (
    MixstreamError,
    NoRangesError,
    StoreError,
    StoreFaultError,
)
from mixstream.storage import ObjectInfo, Retry, Store, open_store

OnBytes = Callable[[int], None]

RETRY = Retry(attempts=5, knobs=("", ""))
"""Of every request for a source: a conversion runs unattended for hours."""


class SourceError(MixstreamError, ValueError):
    """A source that cannot be read in its format; the message names the file and, if there is one, the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """Where an object lies.

    Attributes:
        directory: URL as `open_store` takes it, which may hold credentials.
        name: of the object below it.
    """

    directory: str = field(repr=False)
    name: str

    def open(self) -> Store:
        """Return the store of its directory, for the process that asks; no request is made."""
        return open_store(self.directory, timeout=RETRY.timeout)


def look_at(where: StoredObject, path: str) -> ObjectInfo:
    """Return size and version of an object; `path` is its URL without credentials.

    Raises:
        StoreNotFoundError: there is none of this name.
        SourceError: its server has no ranges.
        StoreError: the store cannot be read.
    """
    store = where.open()

    def attempt() -> ObjectInfo:
        if not where.directory.lower().startswith(("http://", "https://")):
            return store.info(where.name)
        try:  # a signed URL is for GET alone, and some servers refuse HEAD
            return store.read(where.name, 0, 1).info
        except StoreFaultError as fault:  # an empty file has no first byte
            with suppress(StoreError):
                if not (info := store.info(where.name)).size:
                    return info
            raise fault from None

    try:
        return RETRY.call(f"looking at {path}", attempt, renew=store.renew)
    except NoRangesError:
        raise no_ranges(path) from None


class LocalBytes(io.FileIO):
    """A file on disk that reports how many bytes were read from it.

    Raises:
        SourceError: it is gone, or another one than it was.
    """

    def __init__(self, path: str, size: int, mtime_ns: int, on_bytes: OnBytes | None = None) -> None:
        self._path, self._was, self._on_bytes = path, (size, mtime_ns), on_bytes
        try:
            # A pipe in the file's place is not waited for; it has another size and time.
            super().__init__(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        except FileNotFoundError:
            raise gone(path) from None
        try:
            self.check_unchanged()
        except BaseException:
            self.close()
            raise

    def readinto(self, buffer: Any, /) -> int | None:
        """Read into `buffer`, as every raw stream does."""
        size = super().readinto(buffer)
        self._report(size)
        return size

    def readall(self) -> bytes:
        """Read to the end."""
        data = super().readall()
        self._report(len(data))
        return data

    def check_unchanged(self) -> None:
        """Raise SourceError if the file is another one now."""
        now = os.fstat(self.fileno())
        if (now.st_size, now.st_mtime_ns) != self._was:
            raise changed(self._path, f"{self._was[0]} bytes when the sources were listed, {now.st_size} now")

    def _report(self, size: int | None) -> None:
        if self._on_bytes is not None and size:
            self._on_bytes(size)


def no_ranges(path: str) -> SourceError:
    """The error of a server that has no ranges."""
    return SourceError(
        f"{path}: its server does not return parts of a file (no range requests), so it cannot be read in pieces. Pipe "
        f"it instead: curl -fL URL | mixstream convert NAME=- …"
    )


def changed(path: str, how: str) -> SourceError:
    """The error of a file that is another one than it was."""
    return SourceError(
        f"{path}: the file changed while it was being converted ({how}). When nothing writes to it any more, run the "
        "same command with --overwrite."
    )


def gone(path: str) -> SourceError:
    """The error of a file that was listed, and is not there."""
    return SourceError(
        f"{path}: the file was there when the sources were listed, and is gone now. Put it back, or run the same "
        "command with --overwrite, which converts what is there."
    )
