"""One background thread that keeps a few finished items ready, in order.

Rules: an exception of the producer is raised by the consumer's `get`, unchanged, after the items that came before it.
The producer may be blocked until the consumer does something and calls `wake`; `get` then raises `BlockedError`, since
waiting would never end. Nothing relies on `__del__`: `close` ends the thread, and so does the interpreter's exit, since
a thread that is inside torch when its interpreter exits aborts the process.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from mixstream.errors import ClosedError, WaitTimeoutError
from mixstream.metering import IDLE, TRAINER, WEIGHTS, Meter, metered
from mixstream.storage import waits
from mixstream.threads import BackgroundThreads, Owner

T = TypeVar("T")
_CLOSE_TIMEOUT = 10.0  # seconds that `close` waits for the item that is being made: a stalled download takes minutes


class BlockedError(Exception):
    """Raised by a producer that cannot make the next item until the consumer calls `Prefetcher.wake`."""


class Prefetcher(Generic[T]):
    """Items of `produce`, made ahead of time.

    >>> items = Prefetcher(iter([[10, 20], [30]]).__next__, depth=2)
    >>> items.get(), items.get(), items.get()
    (10, 20, 30)
    >>> items.close()

    Args:
        produce: makes the next items, one or several; raises `BlockedError` while it cannot, StopIteration at the end.
        depth: while fewer finished items are ready, or half as many as are made at once, more are made; with 0, `get`
            makes them in the caller's thread.
        timeout: seconds that `get` waits.
        meter: of the thread that makes the items.
    """

    def __init__(
        self, produce: Callable[[], Sequence[T]], *, depth: int, timeout: float = 1800.0, meter: Meter | None = None
    ) -> None:
        self._produce, self._depth, self._timeout = produce, depth, timeout
        self._least = depth  # items that are ready, below which more are made
        self._meter = meter or Meter()
        self._ready: deque[T | BaseException] = deque()
        self._change = threading.Condition()
        self._owner = Owner("a loader's background thread", remedy="make a loader in the child")
        self._blocked = self._closed = self._ended = self._full = False
        self._wakes = 0
        self._thread = BackgroundThreads(self._run, name="mixstream-prefetch", at_exit=self.close) if depth else None

    def get(self) -> T:
        """Return the next item.

        Raises:
            BlockedError: the producer waits for the consumer.
            WaitTimeoutError: no item was ready in time.
            StopIteration: there are no more items.
            ClosedError: `close` was called.
            ForkedError: this is a forked child of the process that has the thread.
            BaseException: what the producer raised.
        """
        if self._thread is None:
            if self._closed:
                raise _closed()
            with metered(self._meter):
                try:
                    if not self._ready:
                        self._ready.extend(self._produce())
                    return cast("T", self._ready.popleft())
                finally:
                    self._meter.clock.enter(IDLE)
        self._owner.check()
        while True:
            try:
                item = self._ready.popleft()  # atomic: no lock for each of many items that were made together
                break
            except IndexError:
                self._wait()
        if self._full and len(self._ready) < self._least:  # else the thread looks before it waits
            with self._change:
                self._change.notify_all()
        if isinstance(item, BaseException):
            raise item
        return item

    def _wait(self) -> None:
        """Wait until an item is ready; raise as `get` does if none will be."""
        with self._change:
            came = self._change.wait_for(
                lambda: self._ready or self._blocked or self._ended or self._closed, timeout=self._timeout
            )
            if self._ready:
                return
            if self._closed:
                raise _closed()
            if self._blocked:
                raise BlockedError
            if came:
                raise StopIteration
            held = "".join(f"; it waits for {line}" for line in waits())
            raise WaitTimeoutError(
                f"no batch in {self._timeout:g} s: the background thread is still reading shards; "
                f"check the storage (a stalled network file system?){held}"
            )

    @property
    def ready(self) -> int:
        """How many items are ready."""
        return len(self._ready)

    def wake(self) -> None:
        """Let a blocked producer try again."""
        self._owner.check()
        with self._change:
            self._blocked = False
            self._wakes += 1
            self._change.notify_all()

    def close(self) -> None:
        """End the thread after the item that it is making, and wait for it briefly. Drops the items that are ready.

        Does nothing in a forked child, which has no such thread.
        """
        if not self._owner.here:
            return
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)

    @property
    def alive(self) -> bool:
        """Whether the thread is running; after `close`, it may still be making an item."""
        return self._thread is not None and self._thread.alive

    def _run(self) -> None:
        with metered(self._meter):
            try:
                self._make()
            finally:
                self._meter.clock.enter(IDLE)

    def _make(self) -> None:
        clock = self._meter.clock
        while True:
            with self._change:
                self._full = True  # before it looks whether it is: `get` sees that it waits, or it sees the item gone
                self._change.wait_for(lambda: self._closed or (len(self._ready) < self._least and not self._blocked))
                self._full = False
                if self._closed:
                    return
                wakes = self._wakes
            try:
                items: Sequence[T | BaseException] = self._produce()
            except BlockedError:
                clock.enter(WEIGHTS)
                with self._change:
                    self._blocked = wakes == self._wakes  # False if the consumer called `wake` meanwhile
                    self._change.notify_all()
                continue
            except BaseException as error:
                items = [error]
            self._least = max(self._depth, len(items) // 2)  # it takes long to make many
            clock.enter(TRAINER)
            clock.cpu = time.thread_time()
            with self._change:
                if self._closed:
                    return
                self._ended = isinstance(items[-1], BaseException)
                self._ready.extend(items)
                self._change.notify_all()
                if self._ended:
                    return


def _closed() -> ClosedError:
    return ClosedError(
        "the loader was closed by another thread while this one waited for a batch; no batch was handed out: iterate "
        "over the loader again to go on"
    )
