"""An object in a store as a seekable raw stream: ranges, requested ahead while it is read in order.

Rules. Memory is bounded by the block that is read and the few that are under way. A range is tried again after
transient errors, so a stream goes on in mid-file. Each range has to be of the object that was listed.
"""

from __future__ import annotations

import io
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from mixstream.errors import NoRangesError, StoreChangedError, StoreNotFoundError, WaitTimeoutError
from mixstream.storage import ObjectInfo

from . import stored_bytes
from .stored_bytes import OnBytes, StoredObject, changed, gone, no_ranges

_FIRST = (
    128 << 10
)  # bytes of the first request after a seek, if no more are wanted: heads are looked at, ends of tables
_BEHIND = 1 << 16  # bytes behind a slice that are requested ahead with it: the last record ends there
_LARGEST = 4 << 20  # bytes of a request, as it grows while a file is read in order
_AHEAD = 2  # requests under way behind the one that is being read
_SLACK_S = 60.0
_CLOSE_S = 2.0  # seconds to wait for requests under way; a thread inside a client at the end of a process may abort it


class ObjectStream(io.RawIOBase):
    """An object in a store as a file, which reports how many bytes were taken from it.

    Args:
        where: the object.
        path: its URL without credentials, for errors.
        size: its bytes.
        identity: `ObjectInfo.identity` of the object that was listed.
        on_bytes: called with the number of bytes of each read.
        until: the byte up to which it is expected to be read in order; by default its end.

    Raises, while it is read:
        SourceError: the object is gone, is another one than it was, or its server has no ranges.
        StoreError: the store cannot be read.
    """

    def __init__(
        self,
        where: StoredObject,
        *,
        path: str,
        size: int,
        identity: str,
        on_bytes: OnBytes | None = None,
        until: int | None = None,
    ) -> None:
        self._where, self._path, self._size, self._identity = where, path, size, identity
        self._on_bytes = on_bytes
        self._ahead_until = size if until is None else min(until + _BEHIND, size)
        self._store = where.open()
        self._at = 0
        self._held, self._begin = memoryview(b""), 0
        self._length = _FIRST
        self._ahead: deque[_Request] = deque()
        self._stop = threading.Event()

    def readable(self) -> bool:
        """Return True: it is for reading."""
        return True

    def seekable(self) -> bool:
        """Return True: an object is read from any byte on."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte; nothing is requested."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if begin + offset < 0:
            raise ValueError(f"{self._path}: byte {begin + offset} lies before its beginning")
        self._at = begin + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Read into `buffer`; returns how many bytes, 0 at the end."""
        target = memoryview(buffer).cast("B")
        if self._at >= self._size or not len(target):
            return 0
        if not 0 <= self._at - self._begin < len(self._held):
            self._load(len(target))
        offset = self._at - self._begin
        size = min(len(target), len(self._held) - offset)
        target[:size] = self._held[offset : offset + size]
        self._at += size
        if self._on_bytes is not None:
            self._on_bytes(size)
        return size

    def check_unchanged(self) -> None:
        """Do nothing: every range was compared."""

    def close(self) -> None:
        """Request nothing any more, and wait a little for what is under way."""
        if not self.closed:
            self._drop()
        super().close()

    def _load(self, wanted: int) -> None:
        """Hold the block at the place of the next byte, and request the following ones if the file is read in order."""
        in_order = 0 < self._at == self._begin + len(self._held)
        self._held = memoryview(b"")
        if self._at == 0 and (head := self._kept_head()) is not None:
            self._begin, self._held = 0, head
            return
        if self._ahead and self._ahead[0].begin == self._at:
            request = self._ahead.popleft()
        else:
            self._drop()
            self._length = self._length if in_order else _FIRST
            request = self._request(self._at, self._at + max(self._length, min(wanted, _LARGEST)))
        if in_order:
            self._length = min(max(self._length * 2, wanted), _LARGEST)
            at = self._ahead[-1].end if self._ahead else request.end
            while len(self._ahead) < _AHEAD and at < self._ahead_until:
                self._ahead.append(self._request(at, min(at + self._length, self._ahead_until)))
                at = self._ahead[-1].end
        self._begin = request.begin
        self._held = request.wait()
        if not self._begin:
            _heads.last = (self._path, self._identity), memoryview(bytes(self._held[:_FIRST]))

    def _kept_head(self) -> memoryview | None:
        """The first bytes, if they are those that this thread read last; a file that is looked at is opened again."""
        (path, identity), head = _heads.last
        return head if (path, identity) == (self._path, self._identity) else None

    def _request(self, begin: int, end: int) -> _Request:
        stop, end = self._stop, min(end, self._size)
        return _Request(begin, end, lambda: self._fetch(begin, end, stop))

    def _fetch(self, begin: int, end: int, stop: threading.Event) -> memoryview:
        what = f"reading bytes {begin} to {end} of {self._path}"
        try:
            found = stored_bytes.RETRY.call(
                what,
                lambda: self._store.read(self._where.name, begin, end, version=None),
                renew=self._store.renew,
                stop=stop,
            )
        except NoRangesError:
            raise no_ranges(self._path) from None
        except StoreNotFoundError:
            raise gone(self._path) from None
        except StoreChangedError as error:
            raise changed(self._path, str(error)) from None
        if found.info.identity != self._identity:
            raise changed(self._path, _difference(self._size, found.info))
        return memoryview(found.data).cast("B")

    def _drop(self) -> None:
        """Forget the requests under way, which end their retries."""
        if not self._ahead:
            return
        self._stop.set()
        self._stop = threading.Event()
        for request in self._ahead:
            request.abandon()
        self._ahead.clear()


class _Heads(threading.local):
    """The first bytes of the object that a thread read last, with its path and identity."""

    def __init__(self) -> None:
        self.last: tuple[tuple[str, str], memoryview] = ("", ""), memoryview(b"")


_heads = _Heads()


class _Request:
    """Bytes that a thread reads."""

    def __init__(self, begin: int, end: int, read: Callable[[], memoryview]) -> None:
        self.begin, self.end = begin, end
        self._done: Future[memoryview] = Future()
        self._read = read
        threading.Thread(target=self._run, name="mixstream-source", daemon=True).start()

    def wait(self) -> memoryview:
        """The bytes, or the error."""
        longest = stored_bytes.RETRY.longest + _SLACK_S
        try:
            return self._done.result(timeout=longest)
        except FutureTimeoutError:
            if self._done.done():
                raise  # the request's own
            raise WaitTimeoutError(
                f"a request for a source did not end in {longest:.0f} s, though it has a timeout of "
                f"{stored_bytes.RETRY.timeout:g} s: the client hangs; run the same command again"
            ) from None

    def abandon(self) -> None:
        """Wait for its end, but not for long."""
        with suppress(FutureTimeoutError):
            self._done.exception(timeout=_CLOSE_S)

    def _run(self) -> None:
        try:
            self._done.set_result(self._read())
        except BaseException as error:
            self._done.set_exception(error)


def _difference(size: int, now: ObjectInfo) -> str:
    if now.size != size:
        return f"{size} bytes when the sources were listed, {now.size} now"
    return f"the store has another version of its {size} bytes than when the sources were listed"
