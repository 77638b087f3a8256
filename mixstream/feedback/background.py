"""One thread that runs jobs in order, beside the trainer's.

Jobs run one at a time, in the order in which they were submitted. The first that fails ends the work: every later call
raises its exception. No wait is unbounded. Nothing relies on `__del__`: `close` ends the thread, else the interpreter's
exit does.
"""

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable
from types import TracebackType

from mixstream.errors import WaitTimeoutError
from mixstream.threads import BackgroundThreads, Owner

Job = Callable[[], None]


class Background:
    """A queue of jobs and the thread that runs them, which starts with the first job.

    Args:
        name: of the thread.
        timeout: seconds that `wait` waits.
    """

    def __init__(self, *, name: str, timeout: float = 1800.0) -> None:
        self._name, self._timeout = name, timeout
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._owner = Owner(f"the thread {name}", remedy="report in the process that made the loader")
        self._thread: BackgroundThreads | None = None
        self._failure: tuple[BaseException, TracebackType | None] | None = None
        self._busy = self._closing = self._raised = False

    def submit(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            ForkedError: this is a forked child of the process that has the thread.
            BaseException: the error of an earlier job.
        """
        self._owner.check()
        with self._change:
            self.check()
            self._jobs.append(job)
            if self._thread is None:
                self._thread = BackgroundThreads(self._run, name=self._name, at_exit=self._close_quietly)
            self._change.notify_all()

    def wait(self, until: Callable[[], bool], *, what: str) -> None:
        """Wait until `until()` is true, which is tested after each job, or until no job is left.

        Raises:
            WaitTimeoutError: it took too long; the message names `what` was waited for.
            ForkedError: as `submit`.
            BaseException: the error of a job.
        """
        self._owner.check()
        with self._change:
            came = self._change.wait_for(
                lambda: self._failure or not (self._jobs or self._busy) or until(), timeout=self._timeout
            )
            self.check()
        if not came:
            raise WaitTimeoutError(f"{what} did not come in {self._timeout:g} s; is a rank stuck or gone?")

    def drain(self, *, what: str) -> None:
        """Wait until all jobs are done; as `wait`."""
        self.wait(lambda: False, what=what)

    def check(self) -> None:
        """Raise the error of a job, if one failed."""
        if self._failure is not None:
            self._raised, (error, traceback) = True, self._failure
            raise error.with_traceback(traceback)  # that of the job, however often this is raised

    def close(self, *, timeout: float = 10.0) -> None:
        """Finish the submitted jobs, within `timeout` seconds, and end the thread. A later job starts another.

        Does nothing in a forked child, which has no such thread.

        Raises:
            BaseException: the error of a job, if no call has raised it yet.
        """
        if not self._owner.here:
            return
        with self._change:
            thread, self._closing = self._thread, self._thread is not None
            self._change.notify_all()
        if thread is not None and not thread.join(timeout):
            warnings.warn(
                f"{self._name}: not done after {timeout:g} s, and left behind; is another rank stuck or gone?",
                stacklevel=3,
            )
        if not self._raised:
            self.check()

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    self._thread, self._closing = None, False  # under the lock: a later job starts another thread
                    return
                job, self._busy = self._jobs.popleft(), True
            failure = None
            try:
                job()
            except BaseException as error:
                failure = error, error.__traceback__
            del job  # what it refers to may be freed while this thread waits
            with self._change:
                self._busy, self._failure = False, failure
                self._change.notify_all()
                if failure is not None:
                    self._jobs.clear()
                    if self._thread is not None:
                        self._thread.release()
                    self._thread, self._closing = None, False
                    return
