"""Threads that bring shards to disk ahead of those who read them, most urgent first.

Rules. What is fetched is decided by whoever calls `follow`; nothing here knows a store, a file or the plan. A shard is
never fetched by two threads at once. What `fetch` raises is nobody's business here: whoever comes to need the shard
fetches it himself, and meets the error in its place in the order. Nobody waits for these threads but `close`, shortly.
They keep nothing alive: they end with `close`, with the fetcher itself and with the interpreter (a daemon thread that
is inside a client when its interpreter goes may abort it), and a forked child, which has no threads of its parent,
begins its own.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from mixstream.threads import BackgroundThreads
from mixstream.types import Float64, Int64

Fetch = Callable[[int, float], bool]

_FIRST_PAUSE, _LAST_PAUSE = 0.05, 1.0  # seconds before a shard that could not be had is tried again
_MAX_WAITING = 32  # shards that are let lie: enough to pass over what the other ranks of a machine are fetching
_AFTER_ERROR = 60.0  # seconds before a shard whose fetch has failed is tried again: that had its own attempts
_PATIENCE, _PATIENCE_AT_EXIT = 0.3, 5.0  # seconds for fetches in flight


class Downloader:
    """Fetches shards in the background.

    For one thread at a time.

    Args:
        fetch: brings a shard to disk: (number, steps until it is needed) -> whether it is there now. False means that
            it cannot be had now (somebody else is at it, or there is no room): others are tried, and it again after a
            pause that grows. After an error it is let lie for a minute or more. Called from several threads.
        threads: how many shards are fetched at once.
    """

    def __init__(self, *, fetch: Fetch, threads: int = 4) -> None:
        self._fetch, self._threads = fetch, threads
        self._desk: _Desk | None = None

    def follow(self, numbers_N: Int64, steps_N: Float64) -> None:
        """Fetch these from now on, instead of what was asked for before; fetches in flight go on.

        Shards that could not be had are tried again, the most urgent ones at once: the position has moved, so there
        may be room. A shard that was fetched is fetched again only after a call that did not list it.

        Args:
            numbers_N: distinct shards, the most urgent first, int64 [N].
            steps_N: steps until each is needed, float64 [N].
        """
        desk = self._own_desk()
        if desk is None:
            if not len(numbers_N):
                return
            desk = self._open_desk()
        desk.follow(dict(zip(np.asarray(numbers_N).tolist(), np.asarray(steps_N).tolist())))

    def close(self) -> None:
        """End the threads. A fetch in flight is waited for shortly, then left to end on its own.

        A later `follow` begins anew.
        """
        desk, self._desk = self._own_desk(), None
        if desk is not None:
            self._finalizer.detach()
            desk.close(_PATIENCE)

    def _own_desk(self) -> _Desk | None:
        """Return the desk, if its threads are of this process: a forked child has a copy that nobody works at."""
        return self._desk if self._desk is not None and self._desk.ours else None

    def _open_desk(self) -> _Desk:
        desk = self._desk = _Desk(weakref.ref(self), self._threads)
        self._finalizer = weakref.finalize(self, desk.end)
        self._finalizer.atexit = False  # then there is time to wait for what is in flight: the desk's own business
        return desk


class _Desk:
    """What the threads of one fetcher in one process share: what is wanted, and what has become of it."""

    def __init__(self, downloader: weakref.ref[Downloader], threads: int) -> None:
        self._slots = threads
        self._change = threading.Condition()  # re-entrant: a collection of garbage, at any point, may end us
        self._closed = False
        self._need: dict[int, float] = {}  # what is wanted, the most urgent first
        self._fresh: Iterator[int] = iter(())  # what of it was not looked at yet
        self._flying: set[int] = set()
        self._done: set[int] = set()
        self._failed: dict[int, float] = {}  # by an error: when
        self._waiting: dict[int, tuple[float, float]] = {}  # could not be had: when to try again, the pause then
        self._workers = BackgroundThreads(
            partial(_work, self, downloader),
            name="mixstream-fetch",
            count=threads,
            at_exit=partial(self.close, _PATIENCE_AT_EXIT),
        )

    @property
    def ours(self) -> bool:
        """Whether the threads are of this process."""
        return self._workers.ours

    def end(self) -> None:
        """Let the threads go, each after what it is doing."""
        if not self.ours:
            return
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._workers.release()

    def close(self, patience: float) -> None:
        """End, and wait for the threads for so many seconds at most."""
        self.end()
        self._workers.join(patience)

    def follow(self, need: dict[int, float]) -> None:
        """Put another list in the place of the old one."""
        with self._change:
            self._need, self._fresh = need, iter(need)
            self._done &= need.keys()
            late = time.monotonic() - _AFTER_ERROR
            self._failed = {number: when for number, when in self._failed.items() if when > late}
            self._waiting = {number: wait for number, wait in self._waiting.items() if number in need}
            self._retry(self._slots)
            self._change.notify_all()

    def take(self) -> tuple[int, float] | None:
        """Return what to fetch next, as soon as there is something; None at the end."""
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
        for number in self._fresh:
            if number not in done and not any(number in known for known in others):
                return number
        return None

    def landed(self, number: int, there: bool) -> None:
        """Note that a fetch has ended."""
        with self._change:
            self._flying.discard(number)
            _, pause = self._waiting.pop(number, (0.0, 0.0))
            if there:
                self._done.add(number)
                if pause:  # what kept this one may keep others no more
                    self._retry(1)
            elif number in self._need:
                pause = min(2 * pause, _LAST_PAUSE) if pause else _FIRST_PAUSE
                self._waiting[number] = time.monotonic() + pause, pause
            self._change.notify()

    def crashed(self, number: int) -> None:
        """Note that a fetch has raised an error."""
        with self._change:
            self._flying.discard(number)
            self._waiting.pop(number, None)
            self._failed[number] = time.monotonic()
            self._change.notify()

    def _retry(self, count: int) -> None:
        """Let the most urgent of those that wait be tried at once."""
        still = sorted((self._need[number], number) for number in self._waiting if number not in self._flying)
        for _, number in still[:count]:
            self._waiting[number] = 0.0, self._waiting[number][1]


def _work(desk: _Desk, fetcher: weakref.ref[Downloader]) -> None:
    while (task := desk.take()) is not None and _attempt(desk, fetcher, *task):
        pass


def _attempt(desk: _Desk, fetcher: weakref.ref[Downloader], number: int, need: float) -> bool:
    """Fetch one shard; False if there is nobody left to do it for. Apart, so that nothing outlives it in a frame."""
    if (alive := fetcher()) is None:
        return False
    fetch = alive._fetch
    del alive  # not for as long as a fetch takes
    try:
        there = fetch(number, need)
    except BaseException:
        desk.crashed(number)
    else:
        desk.landed(number, there)
    return True
