"""Forks of this process: what must not be half done when one happens, and what a child has to know.

A forked child has its parent's memory and one thread of it. What another thread was in the middle of stays so for ever:
an import keeps its lock, and a client of obstore, which runs on threads of Rust, waits for answers that never come.
Rules: whatever must be whole in a child is done in `unforked`; a child of a process that had loaded obstore does not
touch it (`must_go_elsewhere`), whatever it was used for. Imported with `mixstream.storage`, so before any store is.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401 - both lock around forks too; imported in mid-fork, they would unlock without having locked
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Forks:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.elsewhere = False

    def before(self) -> None:
        self.lock.acquire()

    def after_in_parent(self) -> None:
        self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        self.elsewhere = self.elsewhere or "obstore" in sys.modules


_forks = _Forks()
os.register_at_fork(before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child)


def must_go_elsewhere() -> bool:
    """Whether this process was forked, perhaps some generations back, from one that had loaded obstore."""
    return _forks.elsewhere


@contextmanager
def unforked() -> Iterator[None]:
    """Let forks by other threads wait until the block is left. For what is short: imports, the start of a process."""
    with _forks.lock:
        yield
