"""Background threads that end with their owner or, at the latest, with the interpreter; and which process owns what.

A daemon thread that runs torch or a client while the interpreter shuts down aborts the process. The threads are
therefore given a bounded time to end at exit. A forked child has none of its parent's threads and may have inherited
locks that they held, so nothing here touches the threads of another process. An object that needs its threads, or
that writes what only one process may write, has an `Owner` (or an `OwnedLock`), which refuses a child at once; what
such an object does when it is closed or deleted, it leaves out in a child.
"""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Self

from mixstream.errors import ForkedError


class Owner:
    """The process that an object belongs to: the one that made it. A pickled or copied object belongs to its reader.

    >>> owner = Owner("this loader", remedy="make one in the child")
    >>> owner.here
    True
    >>> owner.check()

    Args:
        what: the object, for errors.
        remedy: what to do in a forked child.
    """

    def __init__(self, what: str, *, remedy: str) -> None:
        self._what, self._remedy, self._process = what, remedy, os.getpid()

    @property
    def here(self) -> bool:
        """Whether this process is the owner; False in a forked child."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Check that this process is the owner.

        Raises:
            ForkedError: it is a forked child of the owner.
        """
        if os.getpid() != self._process:
            raise ForkedError(
                f"{self._what} belongs to process {self._process}, and this is process {os.getpid()}, a forked child "
                f"of it, without its threads: it would wait for ever, or change what its parent works on; "
                f"{self._remedy}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _owner, (self._what, self._remedy)


def _owner(what: str, remedy: str) -> Owner:
    return Owner(what, remedy=remedy)


class OwnedLock:
    """A re-entrant lock that raises in a forked child, where another thread's hold would never end."""

    def __init__(self, owner: Owner) -> None:
        self._owner, self._lock = owner, threading.RLock()

    def __enter__(self) -> Self:
        self._owner.check()
        self._lock.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class BackgroundThreads:
    """Daemon threads of this process. The constructor starts them.

    >>> stop = threading.Event()
    >>> workers = BackgroundThreads(stop.wait, name="worker", at_exit=stop.set, count=2)
    >>> workers.alive
    True
    >>> stop.set()
    >>> workers.join(timeout=10.0)
    True

    Args:
        target: the function that each thread runs.
        name: the name of a single thread; the prefix of the names of several.
        count: the number of threads.
        at_exit: called if the interpreter exits before `release` or `join`; it asks the threads to end and joins them.
    """

    def __init__(self, target: Callable[[], None], *, name: str, at_exit: Callable[[], None], count: int = 1) -> None:
        self._owner, self._at_exit = os.getpid(), at_exit
        names = [name] if count == 1 else [f"{name}-{i}" for i in range(count)]
        self._threads = [threading.Thread(target=target, name=each, daemon=True) for each in names]
        for thread in self._threads:
            thread.start()
        atexit.register(self._leave)

    @property
    def ours(self) -> bool:
        """Whether this process started the threads; False in a forked child."""
        return os.getpid() == self._owner

    @property
    def alive(self) -> bool:
        """Whether any thread runs."""
        return any(thread.is_alive() for thread in self._threads)

    def release(self) -> None:
        """Stop calling `at_exit` when the interpreter exits: the threads were asked to end."""
        atexit.unregister(self._leave)
        self._at_exit = lambda: None  # it kept their owner alive

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds in total for all threads; return whether they have ended.

        A thread that calls this does not wait for itself.
        """
        self.release()
        deadline = time.monotonic() + timeout
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(timeout=max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in others)

    def _leave(self) -> None:
        if self.ours:
            self._at_exit()


def weak_callback(method: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
    """Return a callback that calls the bound `method` without keeping its object alive.

    Once the object is collected, a call returns `otherwise`, or raises it if it is an exception.

    >>> class Names:
    ...     def count(self) -> int:
    ...         return 2
    >>> names = Names()
    >>> count = weak_callback(names.count, otherwise=0)
    >>> count()
    2
    >>> del names
    >>> count()
    0
    """
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        if (bound := reference()) is not None:
            return bound(*args)
        if isinstance(otherwise, BaseException):
            raise otherwise
        return otherwise

    return call
