"""An unlinked file that worker processes inherit: memory that a process shares with its DataLoader workers.

A process that dies leaves nothing behind: the file has no name, and the kernel releases file locks. One that was
stopped while it held the lock is waited for, within bounds. Reads go through a mapping and make no call of the system:
that would release the GIL, and a thread that has to get it back from another one waits for some milliseconds.
"""

import fcntl
import mmap
import os
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

from mixstream.errors import WaitTimeoutError

_TIMEOUT = 60.0  # seconds that a lock is waited for; it is held for less than a millisecond


class InheritedFile:
    """An unlinked temporary file that is shared with worker processes; used as a context manager, it is locked
    against other processes and other threads.

    Pickled for a worker process that multiprocessing starts, it is the same file there. Any other copy is a new file
    with the same content.

    >>> file = InheritedFile(8)
    >>> with file:
    ...     file.write(b"step", at=2)
    >>> file.read(6, at=0)
    b'\\x00\\x00step'

    Args:
        size: size in bytes; all are zero at first.
    """

    def __init__(self, size: int) -> None:
        descriptor, path = tempfile.mkstemp(prefix="mixstream-")
        Path(path).unlink()
        try:
            os.ftruncate(descriptor, size)
            if hasattr(
                os, "posix_fallocate"
            ):  # else a mapping of a hole needs room when it is read: SIGBUS if there is none
                os.posix_fallocate(descriptor, 0, max(size, 1))
        except BaseException:
            os.close(descriptor)
            raise
        self._own(descriptor, size)

    def _own(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._thread_locks: dict[int, threading.Lock] = {}  # by process: the parent's may be held when it forks
        self._mapped: mmap.mmap | None = None
        with suppress(OSError):  # of a file system without shared mappings
            self._mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        weakref.finalize(self, os.close, descriptor)

    def read(self, size: int, at: int = 0) -> bytes:
        """Return `size` bytes from position `at`."""
        if self._mapped is None or at + size > self._size:
            return os.pread(self._descriptor, size, at)
        return self._mapped[at : at + size]

    def write(self, data: bytes, at: int = 0) -> None:
        """Write `data` at position `at`; beyond the end, the file grows."""
        os.pwrite(self._descriptor, data, at)

    def __enter__(self) -> None:
        until, nap = time.monotonic() + _TIMEOUT, 0.0005
        lock = self._thread_locks.setdefault(os.getpid(), threading.Lock())
        if not lock.acquire(timeout=_TIMEOUT):
            raise _held()
        try:
            while not self._try_lock():
                if time.monotonic() > until:
                    raise _held()
                time.sleep(nap)
                nap = min(1.5 * nap, 0.02)
        except BaseException:
            lock.release()
            raise

    def _try_lock(self) -> bool:
        """Lock the file against other processes: also those that inherited the descriptor, as a process holds it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def __exit__(self, *exception: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        self._thread_locks[os.getpid()].release()

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is None:
            size = os.fstat(self._descriptor).st_size
            return {"size": size, "content": self.read(size)}
        return {"size": self._size, "descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "descriptor" in state:
            self._own(state["descriptor"].detach(), state["size"])
        else:
            InheritedFile.__init__(self, state["size"])
            self.write(state["content"])


def _held() -> WaitTimeoutError:
    return WaitTimeoutError(
        f"gave up after {_TIMEOUT:.0f} s, waiting for a file that this process shares with its DataLoader workers: one "
        "of them holds its lock and was stopped; let it go on (kill -CONT), or start the job again from a checkpoint"
    )
