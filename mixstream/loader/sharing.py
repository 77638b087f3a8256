"""Threads that share a loader: one at a time takes a batch or moves the position.

Rules: only the thread that holds a loader's lock takes batches or moves its position. Saving the state, reporting and
closing do not wait for the lock, since taking a batch may take as long as a download does. Threads may share an
iterator; it goes from thread to thread between batches. A forked child may use a loader that was never iterated; the
position of any other, and the threads that make its batches, are its parent's.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from mixstream.errors import ClosedError
from mixstream.threads import Owner

_REMEDY = "make a dataset and a loader in the child, or iterate over the dataset (a DataLoader's workers do)"


class LoaderLock:
    """A re-entrant lock that is pickled and copied as a new one.

    >>> lock = LoaderLock()
    >>> with lock, lock:
    ...     pass
    """

    def __init__(self) -> None:
        self._owner, self._process = Owner("this loader", remedy=_REMEDY), os.getpid()
        self._lock = threading.RLock()
        self.iterators = 0  # how many have begun

    @property
    def here(self) -> bool:
        """Whether the loader is this process's; False in a forked child that has not begun to use it."""
        return self._owner.here

    def __enter__(self) -> None:
        if os.getpid() != self._process:  # asked for each batch
            self._check()
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    @contextmanager
    def within(self, seconds: float) -> Iterator[bool]:
        """Hold the lock within the block, if it is free within `seconds`; the value says whether it is held."""
        self._check()
        held = self._lock.acquire(timeout=seconds)
        try:
            yield held
        finally:
            if held:
                self._lock.release()

    def _check(self) -> None:
        if self._owner.here:
            return
        if self.iterators:
            self._owner.check()
        self.__init__()  # in a child that is the first to use the loader; its parent may hold the lock

    def __reduce__(self) -> tuple[Any, ...]:
        return LoaderLock, ()


class SharedIterator(Iterator[Any]):
    """The iterator of one `iter(loader)`: any number of threads may share it, and each item goes to one of them.

    >>> numbers = SharedIterator(iter([1, 2]), LoaderLock())
    >>> next(numbers), list(numbers)
    (1, [2])

    Args:
        batches: the items.
        lock: the loader's.
        alone: whether it ends when another iterator of the loader begins.
    """

    def __init__(self, batches: Iterator[Any], lock: LoaderLock, *, alone: bool = False) -> None:
        self._batches, self._lock, self._alone = batches, lock, alone
        self._number: int | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            ClosedError: it is `alone`, and another has begun since.
        """
        with self._lock:
            if self._number is None:
                self._number = self._lock.iterators = self._lock.iterators + 1
            if self._alone and self._number != self._lock.iterators:
                raise ClosedError(
                    "this iterator of the StreamingDataLoader ended when a later iter() of the same loader began: a "
                    "loader has one position, and both would move it; give each loop or thread a StreamingDataLoader "
                    "of its own (over the same dataset), or let threads share one iterator"
                )
            return next(self._batches)
