"""This machine: tasks run in this process, or in several worker processes.

Workers are spawned, never forked, because a tokenizer's threads do not survive a fork. A worker shares only a pipe with
its parent. If the parent dies, even by SIGKILL, the worker finds the pipe closed and exits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from mixstream.errors import MixstreamError

from . import WORKER, Advance, Function, Result, Task, WorkerDiedError

_TICK_S = 0.2
_GRACE_S = 5.0


class InProcess:
    """Runs one task after the other, in this process."""

    def run(self, function: Function[Task, Result], tasks: Sequence[Task], advance: Advance) -> Iterator[Result]:
        """See `Executor.run`."""
        for task in tasks:
            yield function(task, advance)

    def __enter__(self) -> Self:
        """Keep nothing: there are no workers."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let nothing go."""


class Processes:
    """Runs tasks in several processes on this machine.

    Args:
        workers: the maximum number of processes.
        environ: environment variables that each process sets before its first task.
    """

    def __init__(self, *, workers: int, environ: Mapping[str, str] | None = None) -> None:
        self._workers = workers
        self._environ = dict(environ or {})
        self._keeps = False
        self._started: list[_Worker] = []

    def __enter__(self) -> Self:
        """Keep processes between runs."""
        self._keeps = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self._keeps = False
        self._end(now=False)

    def _worker(self, number: int) -> _Worker:
        if number == len(self._started):
            self._started.append(_Worker({**self._environ, WORKER: str(number)}))
        return self._started[number]

    def _end(self, *, now: bool) -> None:
        workers, self._started = self._started, []
        for worker in workers:
            worker.stop(now=now)

    def run(self, function: Function[Task, Result], tasks: Sequence[Task], advance: Advance) -> Iterator[Result]:
        """See `Executor.run`. Raises WorkerDiedError if a process is killed from outside."""
        left = deque(tasks)
        busy: dict[Connection, _Worker] = {}
        failure: BaseException | None = None
        try:
            for number in range(min(self._workers, len(tasks))):
                worker = self._worker(number)
                worker.send(function, left.popleft())
                busy[worker.pipe] = worker
            while busy:
                for pipe in wait(list(busy)):
                    worker = busy[pipe]  # pyright: ignore[reportArgumentType]  # wait() returns its own arguments
                    kind, value = worker.receive()
                    if kind == "progress":
                        advance(value)
                        continue
                    del busy[worker.pipe]
                    if kind == "failed":
                        failure = failure or value
                    if left and failure is None:
                        worker.send(function, left.popleft())
                        busy[worker.pipe] = worker
                    if kind == "done":
                        yield value
            if failure is not None:
                raise failure
        finally:
            if not self._keeps or busy or failure is not None:
                self._end(now=bool(busy))


class _Worker:
    """The parent's end of a worker process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs, dict(environ)), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()
        self._task: object = None

    def send(self, function: Callable[..., Any], task: object) -> None:
        self._task = task
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports a dead worker
            self.pipe.send((function, task))

    def receive(self) -> tuple[str, Any]:
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_GRACE_S)
            code = self._process.exitcode
            how = f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
            why = " (often: out of memory; try fewer --workers)" if code == -signal.SIGKILL else ""
            return "failed", WorkerDiedError(f"a worker process ended {how}{why} while it did {self._task}.")

    def stop(self, *, now: bool) -> None:
        self.pipe.close()
        if now:
            self._process.terminate()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(pipe: Connection, environ: Mapping[str, str]) -> None:
    """The main function of a worker process: run the tasks that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole process group; the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as `stop` expects; the parent may have another handler
    os.environ.update(environ)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, task = pipe.recv()
            report = _Report(pipe)
            try:
                answer = "done", function(task, report)
            except Exception as error:
                if report.parent_is_gone:
                    return
                answer = "failed", portable_error(error)
            report.flush()
            pipe.send(answer)


class _Report:
    """Sends progress to the parent, at most once in `_TICK_S` seconds."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._held = 0
        self._last = time.monotonic()
        self.parent_is_gone = False

    def __call__(self, size: int) -> None:
        self._held += size
        if time.monotonic() - self._last >= _TICK_S:
            self.flush()

    def flush(self) -> None:
        try:
            self._pipe.send(("progress", self._held))
        except (BrokenPipeError, ConnectionResetError):
            self.parent_is_gone = True
            raise
        self._held, self._last = 0, time.monotonic()


def portable_error(error: Exception) -> Exception:
    """An error that can be pickled. If it is a bug and not a foreseen failure, it carries the worker's traceback."""
    if not isinstance(error, MixstreamError | OSError):
        error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process started in this block inherits that SIGINT is ignored, from its first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
