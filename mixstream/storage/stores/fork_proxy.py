"""Object stores for forked processes: a fresh process does the work, and this one asks it.

obstore runs on threads of Rust. A fork copies none of them, and a client that the parent has used, or any other in the
same copy of the library, then waits for ever (DESIGN.md section 5, Fork). So a process that was forked from one with
obstore in it never touches obstore: `ProcessStore` sends each request to a helper, a new Python started on first use.

Rules: one helper per process, shared by its threads, never by processes: what a fork inherits of one is closed at once,
so the helper sees the end of its input, and ends, when its owner does, `kill -9` included. The owner reaps it. A helper
that dies, or does not answer, costs the requests in flight a `StoreFaultError`; the next request starts another. URLs
and environments, which may hold credentials, travel by pipe alone.

The other end is `helper.py`.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from mixstream import errors
from mixstream.errors import StoreError, StoreFaultError
from mixstream.storage.forks import must_go_elsewhere, unforked
from mixstream.storage.store import ObjectBytes, ObjectInfo, Store
from mixstream.storage.stores.frames import Answer, Request, read_frame, write_frame
from mixstream.storage.url import redact

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ProcessStore", "must_go_elsewhere"]

_SLACK = 30.0  # seconds beyond a request's own timeout in which a helper that lives has answered
_MANY = 3600.0  # seconds for what may be many requests: a listing, an upload
_START = "import sys; sys.path[:] = sys.argv[1:]; from mixstream.storage.fork_server import serve; serve()"


_Reply = tuple[Answer, bytearray]


class ProcessStore:
    """A store whose requests another process makes. As `Store`; picklable, and opened anew where it is unpickled.

    Args:
        url: as `open_store` takes it.
        timeout: seconds per request, its body included.
        reopen: what opens the store anew where it is unpickled: (url, timeout) -> store.
    """

    def __init__(self, url: str, timeout: float, reopen: Callable[..., Store]) -> None:
        self._url, self._timeout, self._reopen = url, timeout, reopen

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(self._reopen, self._url, timeout=self._timeout), ()

    def __repr__(self) -> str:
        return f"ProcessStore({self.url!r})"

    @property
    def url(self) -> str:
        """The directory as people may see it: without credentials."""
        return redact(self._url)

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        """Return the bytes [begin, end) of an object, by default all of it."""
        answer, data = self._ask("read", name=name, begin=begin, end=end, version=version)
        return ObjectBytes(data=data, info=ObjectInfo(size=answer.size, version=answer.version))

    def info(self, name: str) -> ObjectInfo:
        """Return the size and the version of an object."""
        answer, _ = self._ask("info", name=name)
        return ObjectInfo(size=answer.size, version=answer.version)

    def write(self, name: str, data: bytes | Path) -> None:
        """Write an object, from memory or from a file, whole or not at all."""
        if isinstance(data, Path):
            self._ask("write", patience=_MANY, name=name, path=os.fsencode(data.absolute()))
        else:
            self._ask("write", data, patience=_MANY, name=name)

    def names(self, *, limit: int | None = None) -> list[str]:
        """Return the names of all objects below the directory, sorted; with `limit`, of no more than that many."""
        return self._ask("names", patience=_MANY, limit=limit)[0].names

    def remove(self, name: str) -> None:
        """Remove an object; none of that name is no error."""
        self._ask("remove", name=name)

    def renew(self) -> None:
        """Forget clients and credentials: the next request reads them anew, from this process's environment too."""
        self._ask("renew", environment=dict(os.environb))

    def _ask(self, method: str, data: Buffer = b"", *, patience: float = 0.0, **what: Any) -> _Reply:
        patience = max(patience, self._timeout + _SLACK)
        helper = _running()
        request = Request(number=helper.number(), method=method, url=self._url, timeout=self._timeout, **what)
        answer, body = helper.ask(request, data, patience)
        if answer.error:
            _raise(answer)
        return answer, body


class _Mine:
    """The helper of this process, if it has one."""

    helper: _Helper | None = None

    def leave(self) -> None:
        """Let go of what a fork inherited."""
        if self.helper is not None:
            self.helper.disown()
            self.helper = None


_mine = _Mine()
os.register_at_fork(after_in_child=_mine.leave)


def _running() -> _Helper:
    """Return the helper of this process, started if there is none that lives."""
    with unforked():  # a child that inherits half a helper would keep its input open
        if _mine.helper is None or _mine.helper.over:
            _mine.helper = _Helper()
        return _mine.helper


class _Helper:
    """The owner's side of a helper."""

    def __init__(self) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the listener; a pipe would want a reader
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", _START, *(place for place in sys.path if isinstance(place, str))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                bufsize=0,
                process_group=0,  # Ctrl-C is for its owner
            )
        except OSError as error:
            self._words.close()
            raise StoreError(
                f"could not start {sys.executable} to read object stores for this forked process: {error}; "
                'use num_workers=0, mixstream.Loader, or multiprocessing_context="spawn"'
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[_Reply]] = {}
        self._ending: str | None = None  # why: set before the end, if we are the reason
        self.ended = False
        self._at_exit = util.Finalize(None, self._leave, exitpriority=-100)  # also in children of multiprocessing
        threading.Thread(target=self._listen, name="mixstream-elsewhere", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether it has ended, or was told to."""
        return self.ended or self._ending is not None

    def number(self) -> int:
        """Return a number for a request."""
        return next(self._numbers)

    def ask(self, request: Request, data: Buffer, patience: float) -> _Reply:
        """Send a request and return its answer.

        Raises:
            StoreFaultError: the helper died, or said nothing for `patience` seconds.
        """
        until = time.monotonic() + patience
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
            self._kill(f"did not answer in {patience:g} s and was ended")
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
            pass  # the listener tells whoever waits why
        except BaseException as error:  # half a frame is out: nothing that follows would be understood
            self._kill(f"was ended, since a request could not be sent: {error!r}")
            raise
        finally:
            self._sending.release()

    def _listen(self) -> None:
        """Hand out answers until there are no more; then reap the helper and tell all who wait."""
        try:
            while (frame := read_frame(self._answers.fileno())) is not None:
                answer = msgspec.msgpack.decode(frame[0], type=Answer)
                with self._lock:
                    future = self._waiting.pop(answer.number, None)
                if future is not None:  # else nobody waits any more
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
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - 2000))
        if words := self._words.read().decode(errors="replace").strip():
            why += f"; its last words: {redact(words)}"
        self._ending = why
        with self._lock:
            self.ended = True
            waiting, self._waiting = self._waiting, {}
        self._at_exit.cancel()
        with self._sending:
            self._close()
        for future in waiting.values():
            future.set_exception(self._lost())

    def _lost(self) -> StoreFaultError:
        return StoreFaultError(
            f"process {self._process.pid}, which reads object stores for this forked process, "
            f"{self._ending or 'ended'}; what it was asked for is lost, and the next request starts another process"
        )

    def _kill(self, why: str) -> None:
        if self._process.poll() is None:
            self._ending = self._ending or why
            self._process.kill()

    def _leave(self) -> None:
        """End the helper and reap it: its owner ends."""
        self._kill("was ended with its owner")
        self._process.wait()

    def disown(self) -> None:
        """Let go of it in a forked process, which is not its owner."""
        self._process.returncode = 0  # not ours to wait for
        self._close()

    def _close(self) -> None:
        for file in (self._requests, self._answers, self._words):
            file.close()


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _raise(answer: Answer) -> NoReturn:
    """Raise the error of an answer; as StoreError what is none of ours."""
    kind = getattr(errors, answer.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.MixstreamError):
        error = kind(answer.text)
    else:
        error = StoreError(f"{answer.error}: {answer.text}")
    for note in answer.notes:
        error.add_note(note)
    raise error
