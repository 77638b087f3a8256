"""Forks of this process: what must not be half done when one happens, and what a forked child must re-create.

A forked child has its parent's memory and one thread of it. What another thread was in the middle of stays so for
ever: an import keeps its lock, and a client of obstore, which runs on threads of Rust, waits for answers that never
come. Rules: whatever must be whole in a child is done in `unforked`; what belongs to one process is held in a
`ProcessLocal`; a child of a process that had loaded obstore never uses it (`must_use_proxy`), whatever the parent used
it for. Imported with `mixstream.storage`, so before any store is.
"""

import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401 - both lock around forks too; imported in mid-fork, they would unlock without having locked
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from mixstream.lazy import import_in

T = TypeVar("T")


class _Forks:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.use_proxy = False
        self.locals: WeakSet[ProcessLocal[Any]] = WeakSet()

    def before(self) -> None:
        self.lock.acquire()

    def after_in_parent(self) -> None:
        self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        self.use_proxy = self.use_proxy or "obstore" in sys.modules
        with ExitStack() as stack:  # all are re-created, even if closing one fails
            for local in self.locals:
                if local.close_inherited is not None:
                    stack.callback(local.close_inherited, local.value)
                local.value = local.make()


_forks = _Forks()
os.register_at_fork(before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child)


class ProcessLocal(Generic[T]):
    """A value that every process makes for itself: a forked child starts with a new one, not with its parent's.

    Like `threading.local`, for processes. The parent's locks may be held, and its counts be of threads that the child
    does not have.

    Args:
        make: returns a new value.
        close_inherited: called in the child with the parent's value, to close what the child should not keep open.
    """

    def __init__(self, make: Callable[[], T], close_inherited: Callable[[T], None] | None = None) -> None:
        self.make, self.close_inherited = make, close_inherited
        self.value = make()
        _forks.locals.add(self)


def must_use_proxy() -> bool:
    """Whether this process was forked, perhaps some generations back, from one that had loaded obstore."""
    return _forks.use_proxy


@contextmanager
def unforked() -> Iterator[None]:
    """Make forks by other threads wait until the block ends. For short work: imports, the start of a process."""
    with _forks.lock:
        yield


import_in(unforked)
