"""Loads numba in a thread of its own, while the references of the compiled loops serve.

Rules: a fork waits for what the thread is in the middle of, an import or a loop, since its locks would stay held in the
child; the child goes on in a thread of its own. The interpreter's exit waits for that too, as it would end LLVM at
work. A failure is logged, and the references stay.
"""

import contextlib
import threading
import time

from mixstream.plan import compiled
from mixstream.storage import ProcessLocal, unforked
from mixstream.threads import BackgroundThreads

_CLOSE_TIMEOUT = 10.0  # seconds that the interpreter's exit waits for a loop that is being compiled
_PAUSE = 0.001  # seconds between two parts, in which a fork, or whatever else waits, goes on


class _Loading:
    """The thread of this process, if one is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: BackgroundThreads | None = None
        self._closed = False

    def begin(self) -> None:
        """Start the thread, if it does not run."""
        with self._lock:
            if self._closed or (self._threads is not None and self._threads.alive):
                return
            if self._threads is not None:
                self._threads.release()
            with contextlib.suppress(RuntimeError):  # the interpreter exits and starts no more threads
                self._threads = BackgroundThreads(self._run, name="mixstream-compile", at_exit=self._close)

    def _run(self) -> None:
        parts = compiled.parts()
        try:
            while not self._closed:
                with unforked():
                    if (part := next(parts, None)) is None:
                        return
                    part()
                time.sleep(_PAUSE)
        except Exception as error:
            compiled.give_up(error)

    def _close(self) -> None:
        self._closed = True
        if self._threads is not None:
            self._threads.join(_CLOSE_TIMEOUT)


_loading = ProcessLocal(_Loading)


def begin() -> None:
    """Compile the loops that were called, in the background. Returns at once."""
    _loading.value.begin()
