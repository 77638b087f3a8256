"""The other end of `stores/fork_proxy`: the process that makes the requests of a forked process.

The server exits when its input ends, even if requests are in progress.
"""

import os
import signal
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from mixstream.errors import StoreFaultError
from mixstream.storage.open import open_store
from mixstream.storage.store import ObjectInfo, read_at_most
from mixstream.storage.stores.frames import Answer, Request, read_frame, write_frame
from mixstream.storage.url import redact
from mixstream.types import Buffer


def serve() -> NoReturn:
    """Answer requests from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:  # noqa: PTH123 - a name, not a path
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a library prints must not come between frames
    sending = threading.Lock()
    while (frame := read_frame(requests)) is not None:
        task = (msgspec.msgpack.decode(frame[0], type=Request), frame[1], answers, sending)
        # A new thread for each request: a reused one may remember a client (`clients.drop`) other than the refused one,
        # and would then keep the refused one.
        threading.Thread(target=_serve_one, args=task, daemon=True).start()
        del frame, task
    os._exit(0)  # the owner no longer waits for requests in progress


def _serve_one(request: Request, data: bytearray, answers: int, sending: threading.Lock) -> None:
    body: Buffer = b""
    try:
        answer, body = carry_out(request, data)
    except Exception as error:
        notes = [str(note) for note in getattr(error, "__notes__", [])]
        answer = Answer(
            number=request.number,
            error=type(error).__name__,
            text=redact(str(error)),
            notes=notes,
            size_found=error.size if isinstance(error, StoreFaultError) else None,
        )
    try:
        with sending:
            write_frame(answers, msgspec.msgpack.encode(answer), body)
    except BaseException:  # the owner is gone, or cannot read the frames any more
        os._exit(1)


def carry_out(request: Request, data: bytearray) -> tuple[Answer, Buffer]:
    """Return the answer to a request, and the bytes that go with it; `data` came with the request."""
    number, name = request.number, request.name
    store = open_store(request.url, timeout=request.timeout)
    match request.method:
        case "read":
            if request.most is not None:
                part = read_at_most(store, name, request.most, version=request.version)
            else:
                part = store.read(name, request.begin, request.end, version=request.version)
            return _answer(number, part.info), part.data
        case "info":
            return _answer(number, store.info(name)), b""
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


def _answer(number: int, info: ObjectInfo) -> Answer:
    return Answer(number=number, size=info.size, version=info.version, modified=info.modified)


def _adopt(environment: dict[bytes, bytes]) -> None:
    """Set the environment of this process; only what differs is changed, since other threads are reading it."""
    for name in os.environb.keys() - environment.keys():
        os.environb.pop(name, None)
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
