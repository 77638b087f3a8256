"""An unlinked file that worker processes inherit: memory that a process shares with its DataLoader workers.

A process that dies leaves nothing behind: the file has no name, and the kernel releases file locks.
"""

import fcntl
import os
import tempfile
import threading
import weakref
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any


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
        os.ftruncate(descriptor, size)
        self._own(descriptor, size)

    def _own(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._thread_locks: dict[int, threading.Lock] = {}  # by process: the parent's may be held when it forks
        weakref.finalize(self, os.close, descriptor)

    def read(self, size: int, at: int = 0) -> bytes:
        """Return `size` bytes from position `at`."""
        return os.pread(self._descriptor, size, at)

    def write(self, data: bytes, at: int = 0) -> None:
        """Write `data` at position `at`; beyond the end, the file grows."""
        os.pwrite(self._descriptor, data, at)

    def __enter__(self) -> None:
        self._thread_locks.setdefault(os.getpid(), threading.Lock()).acquire()
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)  # held by a process, so inherited descriptors exclude each other

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
