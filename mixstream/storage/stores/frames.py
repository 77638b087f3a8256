"""The protocol of a fork proxy and its server: requests, answers, and the frames that carry them.

A frame is two lengths, a head in msgpack and the bytes of an object as they are. Requests carry numbers, and answers
come in any order.

Rule: both ends import this; it must not import torch or the loader, since a server has to start fast.
"""

import os
import select
import struct
import time

import msgspec

from mixstream.types import Buffer

_LENGTHS = struct.Struct("!IQ")  # bytes of the head, bytes of the object


class Request(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One call of a `Store` method; `url` and `timeout` are `open_store`'s."""

    number: int
    method: str
    url: str
    timeout: float
    name: str = ""
    begin: int = 0
    end: int | None = None
    version: str | None = None
    limit: int | None = None
    path: bytes | None = None  # of the file to be written; None: the object's bytes follow
    environment: dict[bytes, bytes] = {}
    most: int | None = None


class Answer(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What the method returned or raised."""

    number: int
    size: int = 0
    version: str | None = None
    names: list[str] = []
    error: str = ""  # name of its class; empty: no error
    text: str = ""
    notes: list[str] = []
    modified: float | None = None
    size_found: int | None = None  # of a StoreFaultError


def write_frame(file: int, head: bytes, data: Buffer, until: float | None = None) -> None:
    """Write a frame; to a file that does not block, TimeoutError at `until`."""
    body = memoryview(data).cast("B")
    for part in (memoryview(_LENGTHS.pack(len(head), len(body)) + head), body):
        left = part
        while left:
            try:
                left = left[os.write(file, left) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(file, select.POLLOUT)
                if until is not None and not poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
                    raise TimeoutError("its input is full") from None


def read_frame(file: int) -> tuple[bytearray, bytearray] | None:
    """Read a frame; None where the file ends."""
    lengths = _exactly(file, _LENGTHS.size)
    if lengths is None:
        return None
    head_size, size = _LENGTHS.unpack(lengths)
    head, body = _exactly(file, head_size), _exactly(file, size)
    return None if head is None or body is None else (head, body)


def _exactly(file: int, size: int) -> bytearray | None:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        if not (count := os.readv(file, [left])):
            return None
        left = left[count:]
    return data
