"""How much packed and unpacked data a process holds in memory at once, over all its threads.

Rule: whoever is larger than the bound gets in alone, so that nobody waits for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

UNPACKING = 1 << 30  # bytes


class Memory:
    """A number of bytes that threads share."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.begin()

    def begin(self) -> None:
        """Begin with nothing taken."""
        self._taken = 0
        self._change = threading.Condition()

    @contextmanager
    def hold(self, size: int, beat: Callable[[], None]) -> Iterator[None]:
        """Hold `size` bytes; `beat` is called about once a second while waiting for others to give theirs back."""
        with self._change:
            while self._taken and self._taken + size > self._size:
                self._change.wait(timeout=1.0)
                beat()
            self._taken += size
        try:
            yield
        finally:
            with self._change:
                self._taken -= size
                self._change.notify_all()


unpacking = Memory(UNPACKING)
os.register_at_fork(after_in_child=unpacking.begin)  # the parent's threads, which hold some, are not in the child
