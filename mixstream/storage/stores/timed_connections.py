"""Connections whose every read ends at the deadline of its request, status and headers included; and what is sent.

A socket's timeout begins anew with every byte, so a server that sends one now and then, or interim answers for ever,
would hold a request for as long as it likes.
"""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any, BinaryIO

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_SENT = 1 << 16  # bytes that are sent at once, so that the deadline is looked at in between

_here = threading.local()


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Give the answers to what this thread asks until `deadline`, on the monotonic clock, their bodies included."""
    _here.deadline = deadline
    try:
        yield
    finally:
        del _here.deadline


def timed(pool: PoolManager) -> PoolManager:
    """Return `pool`; its connections end at the deadlines of their requests (`until`)."""
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


class TimedBody:
    """A body that is sent in pieces, none after the deadline: urllib3 sends bytes at once, within its time to connect.

    Args:
        source: bytes, or a file that stands at its beginning.
        deadline: on the monotonic clock.
    """

    def __init__(self, source: bytes | memoryview | BinaryIO, deadline: float) -> None:
        self._file = io.BytesIO(source) if isinstance(source, bytes | memoryview) else source
        self._deadline = deadline

    def read(self, size: int) -> bytes:
        """Return the next piece, whose size is not up to the caller."""
        del size
        if time.monotonic() > self._deadline:
            raise TimeoutError("timed out")
        return self._file.read(_SENT)


class _Reads(io.RawIOBase):
    """What comes from a socket before a deadline."""

    def __init__(self, sock: Any, deadline: float) -> None:
        self._sock, self._raw, self._deadline = sock, sock.makefile("rb", buffering=0), deadline

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._raw.readinto(into)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Reads(sock, _here.deadline))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType] - a class of urllib3's own, but for its answers


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection  # pyright: ignore[reportAssignmentType] - a class of urllib3's own, but for its answers
