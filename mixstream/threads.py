"""Background threads that end: with their owner, or with the interpreter, and never in a forked child.

A daemon thread that is inside torch or a client when its interpreter goes aborts the process, so the interpreter's exit
gives the threads a bounded time to end. A forked child has none of its parent's threads, and may have inherited locks
that they held, so nothing here touches a thread of another process.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any


class BackgroundThreads:
    """Daemon threads of this process, running from now on.

    Args:
        target: what each thread runs.
        name: name of a single thread; of several, what their names begin with.
        count: how many.
        at_exit: called when the interpreter exits while they run; asks them to end and joins them.
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
        """Whether they are threads of this process; False in a forked child."""
        return os.getpid() == self._owner

    @property
    def alive(self) -> bool:
        """Whether any of them runs."""
        return any(thread.is_alive() for thread in self._threads)

    def release(self) -> None:
        """Let the interpreter's exit not wait for them any more: they were asked to end."""
        atexit.unregister(self._leave)
        self._at_exit = _nothing  # which keeps their owner alive

    def join(self, timeout: float) -> bool:
        """Wait for them, `timeout` seconds in all at most; return whether they have ended.

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


def _nothing() -> None:
    pass


def weak_callback(method: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
    """Return `method` as a callback that does not keep its object alive.

    Once the object is gone, a call returns `otherwise`, or raises it if it is an exception.
    """
    reference = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        if (bound := reference()) is not None:
            return bound(*args)
        if isinstance(otherwise, BaseException):
            raise otherwise
        return otherwise

    return call
