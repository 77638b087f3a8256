"""Background threads that fetch shards before they are read, the most urgent first.

Rules. The caller of `follow` decides what is fetched; nothing here knows a store, a file or the plan. A shard is never
fetched by two threads at once. Errors of `fetch` are swallowed here: the reader fetches the shard again when it needs
it, so the error surfaces at the right batch. Only `close` waits for the threads, and only briefly. The threads keep no
object alive: they end with `close`, with the downloader and with the interpreter (a daemon thread that is inside a
client when its interpreter exits may abort it). A forked child has no threads of its parent, and starts its own.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from mixstream.threads import BackgroundThreads
from mixstream.types import Float64, Int64

Fetch = Callable[[int, float], bool]

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # seconds before a shard that was not available is tried again
_MAX_WAITING = 32  # shards set aside for later: enough to skip those that the machine's other ranks are fetching
_AFTER_ERROR = 60.0  # seconds before a shard whose fetch failed is tried again: `fetch` has made its own attempts
_TIMEOUT, _TIMEOUT_AT_EXIT = 0.3, 5.0  # seconds that closing waits for fetches in flight


class Downloader:
    """Fetches shards in the background. Used by one thread at a time.

    >>> fetched, done = [], threading.Event()
    >>> def fetch(number: int, need: float) -> bool:
    ...     fetched.append(number)
    ...     if number == 2:
    ...         done.set()
    ...     return True
    >>> downloader = Downloader(fetch=fetch, threads=1)
    >>> downloader.follow(np.array([7, 5, 2]), np.array([0.0, 1.0, 4.0]))
    >>> done.wait(timeout=10), fetched
    (True, [7, 5, 2])
    >>> downloader.close()

    Args:
        fetch: brings a shard to disk: (number, steps until it is needed) -> whether it is on disk now. False means that
            it is not available now (another process is fetching it, or there is no room): the shard is tried again
            after a pause that grows, and others are fetched meanwhile. After an error, a shard is skipped for at least
            a minute. Called from several threads.
        threads: how many shards are fetched at once.
    """

    def __init__(self, *, fetch: Fetch, threads: int = 4) -> None:
        self._fetch, self._threads = fetch, threads
        self._queue: _Queue | None = None

    def follow(self, numbers_N: Int64, steps_N: Float64, *, before: int = 0) -> None:
        """Fetch these shards from now on, instead of those of the last call; fetches in flight go on.

        The most urgent of the shards that were not available are tried again at once: the position has moved, so there
        may be room. A shard that was fetched is fetched again only after a call that did not list it.

        Args:
            numbers_N: distinct shards, the most urgent first, int64 [N].
            steps_N: steps until each is needed, float64 [N].
            before: how many of them have to be there before the fetch of any other begins, so that those have the
                whole line; shards whose fetch failed do not count.
        """
        if (queue := self._own_queue()) is None:
            if not len(numbers_N):
                return
            queue = self._queue = _Queue(self, self._threads)
        numbers = np.asarray(numbers_N).tolist()
        queue.follow(dict(zip(numbers, np.asarray(steps_N).tolist())), set(numbers[:before]))

    def close(self) -> None:
        """End the threads. Waits briefly for a fetch in flight, which then ends on its own.

        A later `follow` starts new threads.
        """
        queue, self._queue = self._own_queue(), None
        if queue is not None:
            queue.close(_TIMEOUT)

    def _own_queue(self) -> _Queue | None:
        """Return the queue, if its threads are of this process; a forked child has a copy without threads."""
        return self._queue if self._queue is not None and self._queue.ours else None


class _Queue:
    """What the threads of one downloader share: the shards to fetch, and how each fetch ended."""

    def __init__(self, downloader: Downloader, threads: int) -> None:
        self._slots = threads
        self._change = threading.Condition()  # re-entrant: the garbage collector may call `end` at any point
        self._closed = False
        self._need: dict[int, float] = {}  # the shards to fetch, the most urgent first
        self._fresh = deque[int]()  # those of them that were not looked at yet
        self._first: set[int] = set()  # those that are to be there before the fetch of any other begins
        self._flying: set[int] = set()
        self._done: set[int] = set()
        self._failed: dict[int, float] = {}  # shard -> when its fetch raised an error
        self._waiting: dict[int, tuple[float, float]] = {}  # not available: when to try again, and the pause then
        self._finalizer = weakref.finalize(downloader, self.end)
        self._finalizer.atexit = False  # the threads have an exit handler, which waits for fetches in flight
        self._workers = BackgroundThreads(
            partial(_work, self, weakref.ref(downloader)),
            name="mixstream-fetch",
            count=threads,
            at_exit=partial(self.close, _TIMEOUT_AT_EXIT),
        )

    @property
    def ours(self) -> bool:
        """Whether the threads are of this process."""
        return self._workers.ours

    def end(self) -> None:
        """Let each thread end after its fetch in flight."""
        if not self.ours:
            return
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._workers.release()

    def close(self, timeout: float) -> None:
        """End the threads, and wait for them for at most `timeout` seconds."""
        self._finalizer.detach()
        self.end()
        self._workers.join(timeout)

    def follow(self, need: dict[int, float], first: set[int]) -> None:
        """Replace the list of shards to fetch."""
        with self._change:
            self._need, self._fresh = need, deque(need)
            self._done &= need.keys()
            late = time.monotonic() - _AFTER_ERROR
            self._failed = {number: when for number, when in self._failed.items() if when > late}
            self._first = first - self._done - self._failed.keys()
            self._waiting = {number: wait for number, wait in self._waiting.items() if number in need}
            self._retry(self._slots)
            self._change.notify_all()

    def take(self) -> tuple[int, float] | None:
        """Return (number, steps until it is needed) of the next shard to fetch; wait for one. None at the end."""
        with self._change:
            while not self._closed:
                if (number := self._next()) is not None:
                    self._flying.add(number)
                    return number, self._need[number]
                dues = [due for number, (due, _) in self._waiting.items() if number not in self._flying]
                self._change.wait(max(min(dues) - time.monotonic(), 0.0) if dues else None)
        return None

    def _next(self) -> int | None:
        now = time.monotonic()
        due = [n for n, (at, _) in self._waiting.items() if at <= now and n not in self._flying]
        if due:
            return min(due, key=self._need.__getitem__)
        if len(self._waiting) >= _MAX_WAITING:
            return None
        done, others = self._done, (self._flying, self._failed, self._waiting)
        while self._fresh:
            number = self._fresh[0]
            if number not in done and not any(number in known for known in others):
                if self._first and number not in self._first:
                    return None  # it stays the next
                return self._fresh.popleft()
            self._fresh.popleft()
        return None

    def landed(self, number: int, there: bool) -> None:
        """Note that a fetch has ended, and whether the shard is on disk."""
        with self._change:
            self._flying.discard(number)
            _, pause = self._waiting.pop(number, (0.0, 0.0))
            if there:
                self._done.add(number)
                self._first.discard(number)
                if pause:  # it was not available before, so others may have become available too
                    self._retry(1)
            elif number in self._need:
                pause = min(2 * pause, _LAST_PAUSE) if pause else _FIRST_PAUSE
                self._waiting[number] = time.monotonic() + pause, pause
            self._change.notify_all()

    def crashed(self, number: int) -> None:
        """Note that a fetch has raised an error."""
        with self._change:
            self._flying.discard(number)
            self._waiting.pop(number, None)
            self._failed[number] = time.monotonic()
            self._first.discard(number)
            self._change.notify_all()

    def _retry(self, count: int) -> None:
        """Let the most urgent of the shards that wait be tried at once."""
        still = sorted((self._need[number], number) for number in self._waiting if number not in self._flying)
        for _, number in still[:count]:
            self._waiting[number] = 0.0, self._waiting[number][1]


def _work(queue: _Queue, downloader: weakref.ref[Downloader]) -> None:
    while (task := queue.take()) is not None and _attempt(queue, downloader, *task):
        pass


def _attempt(queue: _Queue, downloader: weakref.ref[Downloader], number: int, need: float) -> bool:
    """Fetch one shard; return False if the downloader is gone. Not inlined, so that no frame keeps anything alive."""
    if (alive := downloader()) is None:
        return False
    fetch = alive._fetch
    del alive  # so that it may be deleted during the fetch
    try:
        there = fetch(number, need)
    except BaseException:
        queue.crashed(number)
    else:
        queue.landed(number, there)
    return True
