"""One background thread that keeps a few finished items ready, in order.

Rules: whatever the producer raises surfaces at the consumer's next `get`, as the original exception, in its place in
the order. The producer may say that it is blocked until the consumer does something (`wake`); a consumer that waits for
a blocked producer would wait for ever, so it is told. Nothing relies on `__del__`: `close` ends the thread, and where
nobody calls it the interpreter's exit does, since a thread that is inside torch when its interpreter goes aborts.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from mixstream.errors import WaitTimeoutError
from mixstream.threads import BackgroundThreads

T = TypeVar("T")
_PATIENCE = 10.0  # seconds that `close` waits for the item that is being made: a stalled download takes minutes


class BlockedError(Exception):
    """Raised by a producer that cannot go on before the consumer acts."""


class Prefetcher(Generic[T]):
    """Items of `produce`, made ahead of time.

    Args:
        produce: makes the next item; raises `BlockedError` while it cannot, StopIteration at the end.
        depth: how many finished items are kept ready; 0 makes each one when it is asked for, in the caller's thread.
        patience: seconds that `get` waits.
    """

    def __init__(self, produce: Callable[[], T], *, depth: int, patience: float = 1800.0) -> None:
        self._produce, self._depth, self._patience = produce, depth, patience
        self._ready: deque[T | BaseException] = deque()
        self._change = threading.Condition()
        self._blocked = self._closed = self._ended = False
        self._wakes = 0
        self._thread = BackgroundThreads(self._run, name="mixstream-prefetch", at_exit=self.close) if depth else None

    def get(self) -> T:
        """Return the next item.

        Raises:
            BlockedError: the producer waits for the consumer.
            WaitTimeoutError: nothing came in time.
            BaseException: what the producer raised, StopIteration included (also after `close`).
        """
        if self._thread is None:
            return self._produce()
        with self._change:
            came = self._change.wait_for(
                lambda: self._ready or self._blocked or self._ended or self._closed, timeout=self._patience
            )
            if self._ready:
                item = self._ready.popleft()
                self._change.notify_all()
            elif self._blocked:
                raise BlockedError
            elif came:
                raise StopIteration
            else:
                raise WaitTimeoutError(
                    f"no batch in {self._patience:g} s: the background thread is still reading shards; "
                    "check the storage (a stalled network file system?)"
                )
        if isinstance(item, BaseException):
            raise item
        return item

    def wake(self) -> None:
        """Let a blocked producer try again."""
        with self._change:
            self._blocked = False
            self._wakes += 1
            self._change.notify_all()

    def close(self) -> None:
        """End the thread, after the item that it is making, waited for shortly; items that are ready are dropped."""
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    @property
    def alive(self) -> bool:
        """Whether the thread is still at an item, also after `close`, which waits for it only so long."""
        return self._thread is not None and self._thread.alive

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or (len(self._ready) < self._depth and not self._blocked))
                if self._closed:
                    return
                wakes = self._wakes
            try:
                item: T | BaseException = self._produce()
            except BlockedError:
                with self._change:
                    self._blocked = wakes == self._wakes  # else the consumer acted while we were looking
                    self._change.notify_all()
                continue
            except BaseException as error:
                item = error
            with self._change:
                if self._closed:
                    return
                self._ended = isinstance(item, BaseException)
                self._ready.append(item)
                self._change.notify_all()
                if self._ended:
                    return
