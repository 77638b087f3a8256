"""Waits for other threads and processes: each is bounded, and says after a while for whom it waits.

Rules. A wait goes on while what it waits for makes progress. One without progress says so after some seconds, in the
log and in `waits()`, and then again at intervals that grow: what is waited for, who holds it, and since when. Nothing
of this is looked at before.
"""

import logging
import threading
import time
from collections.abc import Callable
from math import inf
from weakref import WeakSet

from mixstream.errors import WaitTimeoutError
from mixstream.storage.forks import ProcessLocal

_log = logging.getLogger("mixstream")

_TELL_AFTER, _GROWTH = 5.0, 3.0  # seconds without progress after which a wait says so; each time, three times later
_LOOK_EVERY = 1.0  # seconds
_RECENT = 2.0  # seconds: a wait that has not paused since is over


class StallTimeout:
    """A wait that goes on while what it waits for makes progress, and gives up when that has stalled for too long.

    Args:
        seconds: without progress, after which it gives up.
        file: what is waited for.
        what: what may hold it, and what to do: the end of the error.
        holder: returns who holds it, in words; empty if that is not known.
    """

    def __init__(self, seconds: float, file: str, what: str, *, holder: Callable[[], str] = lambda: "") -> None:
        self._seconds, self._file, self._what, self._holder = seconds, file, what, holder
        self._mark: object = None
        self._began = self._since = self._paused = time.monotonic()
        self._nap, self._tell_after = 0.002, _TELL_AFTER
        self._held, self._looked = "", -inf  # who holds it, and when that was looked up

    def pause(self, mark: object, sleep: Callable[[float], object] = time.sleep) -> None:
        """Sleep a little; `mark` is anything that changes when there is progress.

        Args:
            mark: it.
            sleep: waits for so many seconds, or until there is reason to look again.

        Raises:
            WaitTimeoutError: `mark` has not changed for `seconds`.
        """
        now = self._paused = time.monotonic()
        if mark != self._mark:
            self._mark, self._since, self._tell_after = mark, now, _TELL_AFTER
        stalled = now - self._since
        if stalled > _TELL_AFTER and now - self._looked > _LOOK_EVERY:  # here, where what it looks at is open
            self._held, self._looked = self._holder(), now
        if stalled > self._tell_after:
            self._tell_after = _GROWTH * stalled
            _log.warning("waiting for %s", self)
            _running.value.add(self)
        if stalled > self._seconds:
            self._paused = -inf
            held = f" (held by {holder})" if (holder := self._holder()) else ""
            raise WaitTimeoutError(
                f"gave up after {self._seconds:.0f} s without progress, waiting for {self._file}{self._what}{held}"
            )
        sleep(self._nap)
        self._nap = min(self._nap * 1.5, 0.03)

    @property
    def is_over(self) -> bool:
        """Whether nothing waits any more, or there is progress again."""
        now = time.monotonic()
        return now - self._paused > _RECENT or now - self._since < _TELL_AFTER

    def __str__(self) -> str:
        now, held = time.monotonic(), f", held by {self._held}" if self._held else ""
        return (
            f"{self._file}{held}: {now - self._began:.0f} s so far, {now - self._since:.0f} s without progress, of "
            f"{self._seconds:.0f} s at most"
        )


class WakingCount:
    """A number that grows, and wakes those that wait for it to."""

    def __init__(self) -> None:
        self.now, self._change = 0, threading.Condition()

    def add(self) -> None:
        """Make it one more, and wake them."""
        with self._change:
            self.now += 1
            self._change.notify_all()

    def beyond(self, number: int) -> Callable[[float], object]:
        """Return what waits until it is more than `number`, at most so many seconds."""

        def wait(timeout: float) -> None:
            with self._change:
                self._change.wait_for(lambda: self.now > number, timeout=timeout)

        return wait


class _Running:
    """The waits of this process that have said so. Safe to use from any thread."""

    def __init__(self) -> None:
        self._waits: WeakSet[StallTimeout] = WeakSet()
        self._lock = threading.Lock()

    def add(self, wait: StallTimeout) -> None:
        with self._lock:
            self._waits.add(wait)

    def lines(self) -> list[str]:
        with self._lock:
            waits = [wait for wait in self._waits if not wait.is_over]
        return sorted(map(str, waits))


_running = ProcessLocal(_Running)


def waits() -> list[str]:
    """Return what threads of this process wait for without progress, one text each: file, holder, and how long."""
    return _running.value.lines()
