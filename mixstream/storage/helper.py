"""The other end of `elsewhere`: the process that carries out requests, and the frames in which both ends talk.

A frame is two lengths, a head in msgpack and the bytes of an object as they are. Requests carry numbers, and answers
come in any order. The helper ends when its input does, whatever is under way.

Rule: both ends import this; neither torch nor the loader may come along, since a helper has to start fast.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from mixstream.storage.store import open_store, redact

if TYPE_CHECKING:
    from typing_extensions import Buffer

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


class Answer(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What the method returned or raised."""

    number: int
    size: int = 0
    version: str | None = None
    names: list[str] = []
    error: str = ""  # name of its class; empty: it went well
    text: str = ""
    notes: list[str] = []


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


def serve() -> NoReturn:
    """Be the helper: answer requests from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:  # noqa: PTH123 - a name, not a path
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a library prints must not stand between frames
    sending = threading.Lock()
    while (frame := read_frame(requests)) is not None:
        task = (msgspec.msgpack.decode(frame[0], type=Request), frame[1], answers, sending)
        # A thread of its own for each: one that is used again would remember a client (`clients.drop`) that is not the
        # refused one, and so keep the one that is.
        threading.Thread(target=_serve_one, args=task, daemon=True).start()
        del frame, task
    os._exit(0)  # nobody wants what is still under way


def _serve_one(request: Request, data: bytearray, answers: int, sending: threading.Lock) -> None:
    body: Buffer = b""
    try:
        answer, body = carry_out(request, data)
    except Exception as error:
        notes = [str(note) for note in getattr(error, "__notes__", [])]
        answer = Answer(number=request.number, error=type(error).__name__, text=redact(str(error)), notes=notes)
    try:
        with sending:
            write_frame(answers, msgspec.msgpack.encode(answer), body)
    except BaseException:  # the owner is gone, or cannot understand us any more
        os._exit(1)


def carry_out(request: Request, data: bytearray) -> tuple[Answer, Buffer]:
    """Return the answer to a request, and the bytes that go with it; `data` came with the request."""
    number, name = request.number, request.name
    store = open_store(request.url, timeout=request.timeout)
    match request.method:
        case "read":
            piece = store.read(name, request.begin, request.end, version=request.version)
            return Answer(number=number, size=piece.info.size, version=piece.info.version), piece.data
        case "info":
            info = store.info(name)
            return Answer(number=number, size=info.size, version=info.version), b""
        case "write":
            store.write(name, bytes(data) if request.path is None else Path(os.fsdecode(request.path)))
        case "names":
            return Answer(number=number, names=store.names(limit=request.limit)), b""
        case "remove":
            store.remove(name)
        case "renew":
            _adopt(request.environment)
            store.renew()
    return Answer(number=number), b""


def _adopt(environment: dict[bytes, bytes]) -> None:
    """Make this the environment; only what differs is touched, since other threads are reading it."""
    for name in os.environb.keys() - environment.keys():
        os.environb.pop(name, None)
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
