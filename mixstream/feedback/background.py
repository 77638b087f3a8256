"""One thread that does jobs in order, beside the trainer's.

Rules: jobs are done one at a time, in the order in which they were handed in. The first that fails ends the work; its
exception surfaces, as it is, at every later call. No wait is unbounded. Nothing relies on `__del__`: `close` ends the
thread, and where nobody calls it the interpreter's exit does.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable
from types import TracebackType

from mixstream.errors import WaitTimeoutError
from mixstream.threads import BackgroundThreads

Job = Callable[[], None]


class Background:
    """A queue of jobs and the thread that does them, which begins with the first job.

    Args:
        name: of the thread.
        patience: seconds that `wait` waits.
    """

    def __init__(self, *, name: str, patience: float = 1800.0) -> None:
        self._name, self._patience = name, patience
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._busy = self._closed = self._told = False
        self._thread: BackgroundThreads | None = None

    def submit(self, job: Job) -> None:
        """Hand in a job.

        Raises:
            BaseException: what an earlier job raised.
        """
        with self._change:
            self._check()
            self._jobs.append(job)
            if self._thread is None:
                self._thread = BackgroundThreads(self._run, name=self._name, at_exit=self._leave)
            self._change.notify_all()

    def wait(self, until: Callable[[], bool], *, what: str) -> None:
        """Wait until `until()` holds, which is looked at after each job, or until no job is left.

        Raises:
            WaitTimeoutError: it took too long; the message says for `what` we waited.
            BaseException: what a job raised.
        """
        with self._change:
            came = self._change.wait_for(lambda: self._error or self._idle() or until(), timeout=self._patience)
            self._check()
        if not came:
            raise WaitTimeoutError(f"{what} did not come in {self._patience:g} s; is a rank stuck or gone?")

    def drain(self, *, what: str) -> None:
        """Wait until all jobs are done; as `wait`."""
        self.wait(lambda: False, what=what)

    def check(self) -> None:
        """Raise what a job raised, if one did."""
        with self._change:
            self._check()

    def close(self, *, patience: float = 10.0) -> None:
        """Finish the jobs that are handed in, for so many seconds at most, and end the thread. A later job begins anew.

        Raises:
            BaseException: what a job raised, if nobody was told yet.
        """
        with self._change:
            thread = self._thread
            if thread is not None:
                self._closed = True
                self._change.notify_all()
        if thread is not None and not thread.join(patience):
            warnings.warn(
                f"{self._name}: not done after {patience:g} s, and left behind; is another rank stuck or gone?",
                stacklevel=3,
            )
        with self._change:
            if not self._told:
                self._check()

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _idle(self) -> bool:
        return not self._jobs and not self._busy

    def _check(self) -> None:
        if self._error is not None:
            self._told = True
            raise self._error.with_traceback(self._traceback)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    self._thread, self._closed = None, False  # under the lock: a later job begins another thread
                    return
                job, self._busy = self._jobs.popleft(), True
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            del job  # what it refers to may go while we wait for the next
            with self._change:
                self._busy = False
                if error is not None:
                    self._error, self._traceback = error, error.__traceback__
                    self._jobs.clear()
                    if self._thread is not None:
                        self._thread.release()
                    self._thread, self._closed = None, False
                self._change.notify_all()
                if error is not None:
                    return
