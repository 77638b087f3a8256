"""A bound on the compressed and unpacked bytes that a process holds in memory at once, over all its threads.

Rule: what is larger than the bound is let in alone, so that no thread waits for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mixstream.storage.forks import ProcessLocal

UNPACKING = 1 << 30  # bytes


class MemoryBound:
    """A number of bytes that threads share."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._change = threading.Condition()

    @contextmanager
    def hold(self, size: int, heartbeat: Callable[[], None]) -> Iterator[None]:
        """Hold `size` bytes; `heartbeat` is called about once a second while other threads hold too many."""
        with self._change:
            while self._taken and self._taken + size > self._size:
                self._change.wait(timeout=1.0)
                heartbeat()
            self._taken += size
        try:
            yield
        finally:
            with self._change:
                self._taken -= size
                self._change.notify_all()


unpacking = ProcessLocal(lambda: MemoryBound(UNPACKING))
