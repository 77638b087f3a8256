"""Object stores for forked processes: a server process makes the requests, and this process sends them to it.

obstore runs on threads of Rust. A fork copies none of them, and a client that the parent has used, or any other in the
same copy of the library, then hangs (DESIGN.md section 5, Fork). So a process that was forked from one with
obstore loaded never uses obstore: `ProcessStore` sends each request to a server, a new Python started on first use.

Rules: one server per process, shared by its threads, never by processes: a forked child closes its parent's pipes at
once, so the server sees the end of its input, and exits, when its owner does, `kill -9` included. The owner reaps it.
If a server dies or does not answer, the requests in flight raise `StoreFaultError`, and the next request starts
another. URLs and environments, which may hold credentials, travel by pipe alone.

The other end is `mixstream.storage.fork_server`.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from mixstream import errors
from mixstream.storage.forks import ProcessLocal, unforked
from mixstream.storage.redaction import place_of, redact
from mixstream.storage.store import ObjectBytes, ObjectInfo, Store
from mixstream.storage.stores.frames import Answer, Request, read_frame, write_frame
from mixstream.types import Buffer

_SLACK = 30.0  # seconds beyond a request's own timeout in which a live server has answered
_MANY_REQUESTS = 3600.0  # seconds for calls that may take many requests: a listing, an upload
_START = "import sys; sys.path[:] = sys.argv[1:]; from mixstream.storage.fork_server import serve; serve()"

_Reply = tuple[Answer, bytearray]


class ProcessStore:
    """A store whose requests another process makes. As `Store`; picklable, and opened again where it is unpickled.

    Args:
        url: as `open_store` takes it.
        timeout: seconds per request, its body included.
        reopen: opens the store again where it is unpickled: (url, timeout) -> store.
    """

    def __init__(self, url: str, timeout: float, reopen: Callable[..., Store]) -> None:
        self._url, self._timeout, self._reopen = url, timeout, reopen

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(self._reopen, self._url, timeout=self._timeout), ()

    def __repr__(self) -> str:
        return f"ProcessStore({redact(self.url)!r})"

    @property
    def url(self) -> str:
        """The directory, without credentials."""
        return place_of(self._url)

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it."""
        answer, data = self._ask("read", name=name, begin=begin, end=end, version=version)
        return ObjectBytes(data=data, info=_info(answer))

    def read_at_most(self, name: str, most: int, *, version: str | None = None) -> ObjectBytes:
        """Return an object of at most `most` bytes."""
        answer, data = self._ask("read", name=name, version=version, most=most)
        return ObjectBytes(data=data, info=_info(answer))

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        answer, _ = self._ask("info", name=name)
        return _info(answer)

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all."""
        if isinstance(data, Path):
            self._ask("write", timeout=_MANY_REQUESTS, name=name, path=os.fsencode(data.absolute()))
        else:
            self._ask("write", data, timeout=_MANY_REQUESTS, name=name)

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        return self._ask("names", timeout=_MANY_REQUESTS, limit=limit)[0].names

    def remove(self, name: str) -> None:
        """Remove an object; it is no error if there is none."""
        self._ask("remove", name=name)

    def renew(self) -> None:
        """Forget clients and credentials: the next request reads them again, from this process's environment too."""
        self._ask("renew", environment=dict(os.environb))

    def _ask(self, method: str, data: Buffer = b"", *, timeout: float = 0.0, **what: Any) -> _Reply:
        server = _running()
        request = Request(number=next(server.numbers), method=method, url=self._url, timeout=self._timeout, **what)
        answer, body = server.ask(request, data, max(timeout, self._timeout + _SLACK))
        if answer.error:
            _raise(answer)
        return answer, body


class _Server:
    """The owner's side of a server."""

    def __init__(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the listener; a pipe would need a reader
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", _START, *(place for place in sys.path if isinstance(place, str))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                process_group=0,  # Ctrl-C is for its owner
            )
        except OSError as error:
            self._stderr.close()
            raise errors.StoreError(
                f"could not start {sys.executable} to read object stores for this forked process: {error}; "
                'use num_workers=0, mixstream.Loader, or multiprocessing_context="spawn"'
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self.numbers = itertools.count()
        self._waiting: dict[int, Future[_Reply]] = {}
        self._ending: str | None = None  # why: set before the end, if we are the reason
        self.ended = False
        self._at_exit = util.Finalize(None, self._leave, exitpriority=-100)  # also in children of multiprocessing
        threading.Thread(target=self._listen, name="mixstream-fork-proxy", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether it has ended, or was killed."""
        return self.ended or self._ending is not None

    def ask(self, request: Request, data: Buffer, timeout: float) -> _Reply:
        """Send a request and return its answer.

        Raises:
            StoreFaultError: the server died, or did not answer for `timeout` seconds.
        """
        until = time.monotonic() + timeout
        head = msgspec.msgpack.encode(request)
        future: Future[_Reply] = Future()
        with self._lock:
            if self.ended:
                raise self._lost()
            self._waiting[request.number] = future
        try:
            self._send(head, data, until)
            return future.result(timeout=max(0.0, until - time.monotonic()))
        except TimeoutError:
            self._kill(f"did not answer in {timeout:g} s and was ended")
            raise self._lost() from None
        finally:
            with self._lock:
                self._waiting.pop(request.number, None)

    def _send(self, head: bytes, data: Buffer, until: float) -> None:
        if not self._sending.acquire(timeout=max(0.0, until - time.monotonic())):
            raise TimeoutError
        try:
            if not self.ended:
                write_frame(self._requests.fileno(), head, data, until)
        except BrokenPipeError:
            pass  # the listener raises the reason in all waiting threads
        except BaseException as error:  # half a frame was sent: the server could not read what follows
            self._kill(f"was ended, since a request could not be sent: {error!r}")
            raise
        finally:
            self._sending.release()

    def _listen(self) -> None:
        """Hand out answers until there are no more; then reap the server and fail all waiting requests."""
        try:
            while (frame := read_frame(self._answers.fileno())) is not None:
                answer = msgspec.msgpack.decode(frame[0], type=Answer)
                with self._lock:
                    future = self._waiting.pop(answer.number, None)
                if future is not None:  # otherwise its thread no longer waits
                    future.set_result((answer, frame[1]))
        except Exception as error:
            self._kill(f"was ended, since its answer could not be read: {error!r}")
        finally:
            self._reap()

    def _reap(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._kill("closed its output and was ended")
        why = self._ending or _how(self._process.wait())
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 2000))
        if output := self._stderr.read().decode(errors="replace").strip():
            why += f"; its last output: {redact(output)}"
        self._ending = why
        with self._lock:
            self.ended = True
            waiting, self._waiting = self._waiting, {}
        self._at_exit.cancel()
        with self._sending:
            self._close()
        for future in waiting.values():
            future.set_exception(self._lost())

    def _lost(self) -> errors.StoreFaultError:
        return errors.StoreFaultError(
            f"process {self._process.pid}, which reads object stores for this forked process, "
            f"{self._ending or 'ended'}; its requests in flight are lost, and the next request starts another process"
        )

    def _kill(self, why: str) -> None:
        if self._process.poll() is None:
            self._ending = self._ending or why
            self._process.kill()

    def _leave(self) -> None:
        """End the server and reap it: its owner exits."""
        self._kill("was ended with its owner")
        self._process.wait()

    def disown(self) -> None:
        """Close its files in a forked child, which is not its owner."""
        self._process.returncode = 0  # it is no child of this process
        self._close()

    def _close(self) -> None:
        for file in (self._requests, self._answers, self._stderr):
            file.close()


_server: ProcessLocal[_Server | None] = ProcessLocal(lambda: None, lambda server: server and server.disown())


def _running() -> _Server:
    """Return the server of this process, started if there is none alive."""
    with unforked():  # a child that inherits a half-started server would keep its input open
        if (server := _server.value) is None or server.over:
            server = _server.value = _Server()
        return server


def _info(answer: Answer) -> ObjectInfo:
    return ObjectInfo(size=answer.size, version=answer.version, modified=answer.modified)


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _raise(answer: Answer) -> NoReturn:
    """Raise the error of an answer; one that is not of `mixstream.errors` as StoreError."""
    kind = getattr(errors, answer.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.MixstreamError):
        error = kind(answer.text)
    else:
        error = errors.StoreError(f"{answer.error}: {answer.text}")
    if isinstance(error, errors.StoreFaultError):
        error.size = answer.size_found
    for note in answer.notes:
        error.add_note(note)
    raise error
