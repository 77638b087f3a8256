"""What a loader's time and traffic go into: counters that its threads add to while they work.

What lives here: the counters, and which of them a thread adds to. `loader.stats` says what the numbers mean to users.
Rules. A thread adds to the meter that it is in (`metered`), so work of storage counts for the loader that asked for it
and two loaders never mix; a thread that is in none adds to one that no one reads. A clock has one thread that turns it,
which holds no lock: a stage costs about two readings of the system's clock. Traffic is counted under a lock, a few
times per shard.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

STAGES = ("plan", "locate", "open", "shards", "gather", "collate", "transform", "copy", "weights", "trainer")
PLAN, LOCATE, OPEN, SHARDS, GATHER, COLLATE, TRANSFORM, COPY, WEIGHTS, TRAINER = range(len(STAGES))
IDLE = len(STAGES)
"""Not at work for a batch: not counted."""


class StageClock:
    """In which stage a thread is, and how long it has been in each. One thread turns it; any thread reads it.

    >>> clock = StageClock()
    >>> clock.enter(PLAN) == IDLE, clock.enter(GATHER) == PLAN
    (True, True)
    >>> seconds = dict(zip(STAGES, clock.seconds()))
    >>> seconds["plan"] > 0, seconds["gather"] > 0, seconds["copy"]  # gather goes on, and counts until now
    (True, True, 0.0)

    Attributes:
        cpu: CPU seconds of the thread, as it notes them itself.
    """

    __slots__ = ("_now", "_spent", "cpu")

    def __init__(self) -> None:
        self.cpu = 0.0
        self._spent = [0] * (len(STAGES) + 1)  # nanoseconds
        self._now: tuple[int, int] | None = IDLE, time.perf_counter_ns()

    def enter(self, stage: int) -> int:
        """Turn to `stage`; return the one before."""
        before, since = self._now  # type: ignore[misc] - None only while this very method runs, in the same thread
        self._now, now = None, time.perf_counter_ns()
        self._spent[before] += now - since
        self._now = stage, now
        return before

    def seconds(self) -> list[float]:
        """Return the seconds in each stage so far, in the order of `STAGES`, the running one included."""
        while True:
            if (now := self._now) is not None:
                spent = self._spent.copy()
                if self._now is now:
                    break
            time.sleep(0)  # it is being turned
        spent[now[0]] += time.perf_counter_ns() - now[1]
        return [value / 1e9 for value in spent[:IDLE]]


class NoClock(StageClock):
    """The clock of threads whose stages are not told apart. Any number of threads may turn it."""

    __slots__ = ()

    def enter(self, stage: int) -> int:
        """Do nothing."""
        return stage

    def seconds(self) -> list[float]:
        """Return zeros."""
        return [0.0] * len(STAGES)


class Traffic:
    """What one loader asks of storage: requests, bytes, shards. Safe to use from any thread, and in a forked child.

    Attributes:
        counts: name -> count or seconds, by the names of `TRAFFIC`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Any] = {name: 0.0 if name in _SECONDS else 0 for name in TRAFFIC}
        self._locks: dict[int, threading.Lock] = {}  # by process: the parent's may be held when it forks
        self._under_way, self._since = 0, 0.0
        self._known: set[tuple[str, str]] = set()

    @property
    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def add(self, name: str, value: float = 1) -> None:
        """Add to a count."""
        with self._lock:
            self.counts[name] += value

    def attempt(self, number: int) -> None:
        """Count a request to a store, the `number`-th attempt at it, from 1."""
        with self._lock:
            self.counts["requests"] += 1
            self.counts["retries"] += number > 1

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the time of a request for bytes."""
        began = time.perf_counter()
        with self._lock:
            self._since = self._since if self._under_way else began
            self._under_way += 1
        try:
            yield
        finally:
            ended = time.perf_counter()
            with self._lock:
                self._under_way -= 1
                self.counts["fetch"] += ended - began
                if not self._under_way:
                    self.counts["fetching"] += ended - self._since

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a count."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    def filled(self, directory: object, name: str) -> None:
        """Count a file that was put into a cache, and whether this happened before."""
        with self._lock:
            self.counts["fetched"] += 1
            self.counts["refetched"] += (key := (str(directory), name)) in self._known
            self._known.add(key)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts, with requests under way counted until now in "fetching"."""
        with self._lock:
            going = time.perf_counter() - self._since if self._under_way else 0.0
            return self.counts | {"fetching": self.counts["fetching"] + going}


_SECONDS = ("fetch", "fetching", "decompress")
TRAFFIC = (
    "fetch",
    "fetching",
    "decompress",
    "requests",
    "retries",
    "store_bytes",
    "fetched",
    "refetched",
    "hits",
    "misses",
    "evicted",
)


class Meter:
    """The counters of one loader, as one kind of its threads sees them. A pickled or copied meter begins at zero.

    Args:
        clock: of the thread; none if not given.
        traffic: of the loader.
    """

    __slots__ = ("clock", "traffic")

    def __init__(self, clock: StageClock | None = None, traffic: Traffic | None = None) -> None:
        self.clock = clock or NoClock()
        self.traffic = traffic or Traffic()

    def step(self) -> None:
        """Note that the thread begins a step of rows. A meter of threads that read sample by sample turns the clock."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Meter, ()


class SampleMeter(Meter):
    """The meter of a thread that reads the rows of a step one by one, as others ask for them, and collates them."""

    __slots__ = ()

    def step(self) -> None:
        """Turn the clock to the reading of samples."""
        self.clock.enter(COLLATE)


class _Here(threading.local):
    meter = Meter()


_here = _Here()


def here() -> Meter:
    """Return the meter that this thread adds to."""
    return _here.meter


def enter_meter(meter: Meter) -> None:
    """Let this thread, which is that of one loader for good, add to `meter`."""
    _here.meter = meter


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Let this thread add to `meter` in the block.

    >>> mine = Meter()
    >>> with metered(mine):
    ...     here().traffic.add("hits")
    >>> here().traffic.add("hits")
    >>> mine.traffic.counts["hits"]
    1
    """
    before, _here.meter = _here.meter, meter
    try:
        yield
    finally:
        _here.meter = before


def carried(target: Callable[..., T]) -> Callable[..., T]:
    """Return `target`, for another thread, which then adds to the meter that this thread is in now."""
    meter = here()

    def run(*args: Any) -> T:
        with metered(meter):
            return target(*args)

    return run
