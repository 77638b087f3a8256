"""What a loader has done, in numbers: `LoaderStats`, and the counters that a loader keeps for it.

What lives here: what each number means to users, and how they are put together. `metering` counts; `describe` says in
words which stage starves the trainer.
"""

import time
from collections.abc import Mapping
from dataclasses import field, fields
from functools import partial
from typing import Any, Self

from mixstream.metering import STAGES, Meter, SampleMeter, StageClock, Traffic
from mixstream.records import dataclass
from mixstream.units import show_bytes

_NOW = ("depth", "ready")  # of this moment; all others are totals


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderStats:
    """What a loader of this process has done since it was made; `after - before` is what it did in between.

    Times are wall-clock seconds. None: not known of this loader. One thread of a `Loader` makes its batches, and each
    moment of it belongs to one stage, so the stages from `plan` to `trainer` add up to its time. Those of a
    `StreamingDataLoader` are of this process without workers; with workers, the sum of theirs, as they were when each
    worker finished a step.

    >>> before = LoaderStats(seconds=10.0, batches=100, wait=1.0, gather=2.0, waited_for={"gather": 1.0})
    >>> after = LoaderStats(seconds=20.0, batches=300, wait=1.5, gather=5.0, waited_for={"gather": 1.5})
    >>> window = after - before
    >>> window.batches, window.gather, window.wait_share, dict(window.waited_for)
    (200, 3.0, 0.05, {'gather': 0.5})
    >>> window.as_dict("data/")["data/batches"]  # wandb.log(window.as_dict("data/"), step=step)
    200

    Attributes:
        seconds: since the first batch was asked for.
        batches: handed to the trainer.
        rows: in them, of this rank.
        wait: the trainer was in `next()`, the taking of a ready batch (some 20 µs) included, first batches not.
        first: likewise for first batches, which none can have made ahead: at the start, after a move to another place.
        waited_for: stage -> the part of `wait` in which the thread that makes batches was in it, over the batches that
            were not ready when they were asked for.
        plan: which rows are next: from weights to draws, and which shards they will need.
        locate: from draws to shards and rows.
        open: mapping and checking shards that were on local disk.
        shards: no batch could be made, since a shard was not on local disk: it was being fetched or unpacked, by any
            thread or process.
        gather: rows were copied into a batch.
        collate: samples were read one by one and collated: with `collate_fn`, `__getitem__` or rows of many shapes.
        transform: the columns of documents, and `transforms`.
        copy: to the device.
        weights: no batch could be made, since weights depend on losses that were not reported yet (`lag`).
        trainer: enough batches were ready, and the trainer took none: time to spare.
        cpu: CPU seconds of the thread that makes batches; far less than its stages at work take where it waits for the
            GIL, for a core, or for pages of files from the disk.
        depth: while fewer batches are ready, more are made; small ones several at once.
        ready: batches that are ready now.
        ready_seen: sum of `ready` over all `next()` of the trainer; `mean_ready` is their mean.
        empty: how often `next()` found none ready, those of `first` included.
        fetch: requests for bytes of shards, from asking to the last byte, summed: 16 at once for 1 s are 16 s.
        fetching: at least one such request was under way.
        decompress: shards were decompressed and compared with hashes, summed over threads; where shards are computed
            from Parquet, with the requests for its pages.
        requests: to stores, retries included, those that ask for no bytes too.
        retries: those after a fault, a request to slow down, or a refusal.
        store_bytes: bytes that came from stores.
        fetched: files of shards that were put into the cache, downloaded or unpacked, by this loader.
        refetched: those that this loader had put there before: they were evicted, deleted or damaged since.
        hits: files of shards that were on local disk when a batch needed them, each time that they were mapped.
        misses: those that were not.
        evicted: shards removed from the cache to make room for what this loader fetched.
    """

    seconds: float = 0.0
    batches: int = 0
    rows: int = 0
    wait: float = 0.0
    first: float = 0.0
    waited_for: Mapping[str, float] = field(default_factory=dict)
    plan: float | None = None
    locate: float | None = None
    open: float | None = None
    shards: float | None = None
    gather: float | None = None
    collate: float | None = None
    transform: float | None = None
    copy: float | None = None
    weights: float | None = None
    trainer: float | None = None
    cpu: float | None = None
    depth: int | None = None
    ready: int | None = None
    ready_seen: int | None = None
    empty: int | None = None
    fetch: float | None = None
    fetching: float | None = None
    decompress: float | None = None
    requests: int | None = None
    retries: int | None = None
    store_bytes: int | None = None
    fetched: int | None = None
    refetched: int | None = None
    hits: int | None = None
    misses: int | None = None
    evicted: int | None = None

    def __sub__(self, before: Self) -> Self:
        """Return what was done since `before`, an earlier record of the same loader; depth and ready are those now."""
        changed = {}
        for item in fields(self):
            now, then = getattr(self, item.name), getattr(before, item.name)
            if item.name == "waited_for":
                changed[item.name] = {
                    stage: waited for stage, value in now.items() if (waited := value - then.get(stage, 0.0))
                }
            elif item.name in _NOW or now is None or then is None:
                changed[item.name] = now
            else:
                changed[item.name] = now - then
        return type(self)(**changed)

    @property
    def wait_share(self) -> float:
        """The part of the time that the trainer waited, first batches left out of both; 0 to 1."""
        return self.wait / (self.seconds - self.first) if self.seconds > self.first else 0.0

    @property
    def mean_ready(self) -> float | None:
        """Batches that `next()` found ready, on average."""
        return self.ready_seen / self.batches if self.ready_seen is not None and self.batches else None

    @property
    def bytes_per_second(self) -> float | None:
        """From stores, while requests were under way."""
        return self.store_bytes / self.fetching if self.store_bytes is not None and self.fetching else None

    @property
    def requests_at_once(self) -> float | None:
        """Requests under way together, on average while there were any."""
        return self.fetch / self.fetching if self.fetch is not None and self.fetching else None

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Return all known numbers by name, for W&B, TensorBoard and the like; those by stage as "waited_for/gather".

        Args:
            prefix: begins each name.
        """
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "waited_for"}
        found |= {name: getattr(self, name) for name in _DERIVED}
        found |= {f"waited_for/{stage}": value for stage, value in self.waited_for.items()}
        return {prefix + name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        """Return the numbers that are known and not 0, in groups."""
        waited = f"waited {self.wait:.2f} s ({self.wait_share:.1%}), and {self.first:.2f} s for first batches"
        lines = [f"trainer  {self.batches:,} batches, {self.rows:,} rows in {self.seconds:.2f} s; {waited}"]
        stages = [(name, getattr(self, name)) for name in STAGES]
        if shown := [f"{name} {value:.2f}" for name, value in stages if value]:
            lines.append(f"stages   {', '.join(shown)} s" + (f"; {self.cpu:.2f} s of CPU" if self.cpu else ""))
        if self.mean_ready is not None:
            ready = f"{self.mean_ready:.1f} batches ready on average (prefetch={self.depth})"
            lines.append(f"queue    {ready}, {self.empty:,} times none")
        if self.requests:
            rate = self.bytes_per_second
            lines.append(
                f"store    {show_bytes(self.store_bytes or 0)} in {self.requests:,} requests, {self.retries:,} retries"
                + (f"; {show_bytes(int(rate))}/s over {self.requests_at_once or 0:.1f} at once" if rate else "")
            )
        if self.hits or self.misses or self.fetched:
            lines.append(
                f"cache    {self.hits or 0:,} hits, {self.misses or 0:,} misses, {self.fetched or 0:,} fetched, "
                f"{self.refetched or 0:,} of them again, {self.evicted or 0:,} evicted"
            )
        return "\n".join(lines)


_DERIVED = ("wait_share", "mean_ready", "bytes_per_second", "requests_at_once")


class Work:
    """The counters of one loader: those of its trainer's thread, and where those of its other threads are.

    Args:
        depth: batches that are kept ready.
    """

    def __init__(self, *, depth: int) -> None:
        self._depth, self._traffic = depth, Traffic()
        self._clock, self._ended, self._cpu = None, [0.0] * len(STAGES), 0.0  # the running clock; of those before
        self._began: float | None = None
        self._asked, self._found, self._is_first = 0.0, 0, True
        self._before: list[float] | None = None
        self._batches = self._rows = self._ready = self._empty = 0
        self._wait = self._first = 0.0
        self._waited_for = [0.0] * len(STAGES)
        self._samples: SampleMeter | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Work, depth=self._depth), ()  # a copy has done nothing yet

    @property
    def samples(self) -> SampleMeter:
        """The meter of a loader whose samples are read in the thread that asks for them."""
        if self._samples is None:
            meter = self.begin()
            self._samples = SampleMeter(meter.clock, meter.traffic)
        return self._samples

    def begin(self) -> Meter:
        """Return a meter with a clock for the thread that makes batches from now on."""
        self._clock, self._is_first = StageClock(), True
        return Meter(self._clock, self._traffic)

    def end(self) -> None:
        """Keep what the clock has counted; its thread may still be at work, which does not count any more."""
        if (clock := self._clock) is not None:
            self._clock, self._ended, self._cpu = None, self._stages(clock), self._cpu + clock.cpu

    def _stages(self, clock: StageClock | None) -> list[float]:
        return self._ended if clock is None else [a + b for a, b in zip(self._ended, clock.seconds())]

    def ask(self, asked: float, ready: int, *, is_first: bool = False) -> None:
        """Note that the trainer wants a batch since `asked`, how many are ready, and whether none can be."""
        self._is_first = self._is_first or is_first
        if self._began is None:
            self._began = asked
        self._asked, self._found = asked, ready
        clock = self._clock
        self._before = clock.seconds() if not ready and not self._is_first and clock is not None else None

    def take(self, rows: int) -> None:
        """Note that the trainer has its batch of so many rows."""
        seconds = time.perf_counter() - self._asked
        if self._is_first:
            self._first, self._is_first = self._first + seconds, False
        else:
            self._wait += seconds
        if self._before is not None and (clock := self._clock) is not None:
            spent = zip(self._waited_for, self._before, clock.seconds())
            self._waited_for = [waited + (after - before) for waited, before, after in spent]
        self._batches, self._rows = self._batches + 1, self._rows + rows
        self._ready, self._empty = self._ready + self._found, self._empty + (not self._found)

    def stats(self, *, ready: int = 0) -> LoaderStats:
        """Return the numbers now; `ready` batches are ready."""
        clock = self._clock
        stages = dict(zip(STAGES, self._stages(clock)))
        ahead = {"ready": ready, "ready_seen": self._ready, "empty": self._empty} if self._depth else {}
        return LoaderStats(
            seconds=time.perf_counter() - self._began if self._began is not None else 0.0,
            batches=self._batches,
            rows=self._rows,
            wait=self._wait,
            first=self._first,
            waited_for={stage: value for stage, value in zip(STAGES, self._waited_for) if value},
            cpu=self._cpu + (clock.cpu if clock is not None else 0.0) if self._depth else None,
            depth=self._depth,
            **stages,
            **ahead,
            **self._traffic.snapshot(),
        )
