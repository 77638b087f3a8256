"""Which shards are fetched before their rows are read, and which are evicted last.

The forecast knows what the plan will need, the downloader fetches it, and the cache limit says what stays on disk. This
module connects the three. It changes how long a reader waits, never what it reads.

Shape suffixes: K domains, N shards of all domains.
"""

import os
import threading
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError
from mixstream.formats import raw_bytes_of, raw_names, zip_bytes_of
from mixstream.lazy import later
from mixstream.metering import PLAN, Meter, Traffic, here, metered
from mixstream.plan.forecast import Forecast
from mixstream.plan.run_plan import RunPlan
from mixstream.storage import CacheLimit, ProcessLocal
from mixstream.threads import weak_callback
from mixstream.types import Cursor, Float64, Int64, Weights
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.data.downloader import Downloader
else:
    (Downloader,) = later("mixstream.data.downloader", "Downloader")

_REFRESHES = 4  # forecasts made while as many rows are read as one of them looks ahead
_THREADS = 4, 8  # that fetch and unpack shards, at least and at most: more than cores, since they wait for stores


def limited(domains: Domains, limit: int | None) -> Domains:
    """Return `domains` with caches that hold at most `limit` bytes together; None for no limit.

    Raises:
        ConfigError: the limit is too low for any run, or two different datasets have the same cache directory.
    """
    places: dict[Path, Domain] = {}
    for domain in domains.listed:
        other = places.setdefault(domain.files.directory, domain)
        if other is not domain and other.files.original != domain.files.original:
            raise ConfigError(
                f"streams {other.name!r} and {domain.name!r} have the same `local` {domain.files.directory}, so one "
                "could read the other's shards: give each its own"
            )
    for domain in domains.listed:
        place = Path(domain.files.original[0])
        other = places.get(place)
        if other is not None and other.files.original != domain.files.original:
            raise ConfigError(
                f"stream {other.name!r} has as its `local` {place}, where the original of stream {domain.name!r} is, "
                "which would be overwritten: give it another `local`"
            )
    cache = CacheLimit(limit=limit)
    within: dict[int, Domain] = {}  # by the id of the domain before

    def limited_domain(domain: Domain) -> Domain:
        if domain.whole is not None:
            whole = limited_domain(domain.whole)
            return replace(domain, files=whole.files, whole=whole)
        if id(domain) not in within:
            within[id(domain)] = domain.within(cache)
        return within[id(domain)]

    domains = replace(domains, domains=tuple(map(limited_domain, domains)))
    read = [f for f, source in enumerate(domains.sources) if source.files.fetches and domains.used[f].any()]
    if limit is None or not read:
        return domains
    _check_limit(domains, limit, largest=max(int(_raw_bytes(domains, f).max()) for f in read))
    cached = _index_bytes(domains) + sum(_cached_bytes(domains, f) for f in range(len(domains.sources)))
    return replace(domains, unmap_after_read=limit < cached)


def _check_limit(domains: Domains, limit: int, *, largest: int) -> None:
    """Check that a limit has room for the index files, and for two shards as large as the largest.

    Raises:
        ConfigError: it has not.
    """
    indexes = _index_bytes(domains)
    if limit <= indexes:
        raise ConfigError(
            f"Minimum cache usage ({indexes} bytes of index files) is larger than the cache limit ({limit} bytes), so "
            f"no shard has room; pass cache_limit={indexes + 8 * largest} or more, or None for no limit"
        )
    if limit < max(2 * largest, indexes + largest):
        raise ConfigError(
            f"Cache limit ({limit} bytes) is too low. Increase the `cache_limit` to {indexes + 8 * largest} or more, "
            f"or pass None for no limit: the index files take {indexes} bytes and the largest shard {largest}, and two "
            "shards have to fit, better several for each process that reads"
        )


def _index_bytes(domains: Domains) -> int:
    """Return the bytes that the copies of indexes, which are never evicted, take in the caches."""
    return sum(source.files.index_bytes for source in domains.sources if source.files.fetches)


def _raw_bytes(domains: Domains, f: int) -> Int64:
    """Return the bytes of each shard of source `f` that may be read, int64."""
    return raw_bytes_of(domains.sources[f].shards)[domains.used[f]]


def _cached_bytes(domains: Domains, f: int) -> int:
    """Return the bytes that all shards of source `f` that may be read take in its cache."""
    files = domains.sources[f].files
    if not files.fetches:
        return 0
    kept_S = zip_bytes_of(domains.sources[f].shards)[domains.used[f]] if files.keep_compressed else 0
    return int((_raw_bytes(domains, f) + kept_S).sum())


def warn_of_refetching(run_plan: RunPlan, domains: Domains, limit: int | None) -> None:
    """Warn if the cache cannot hold the windows that rows are shuffled in: shards would be fetched again and again.

    Args:
        run_plan: what is drawn.
        domains: from `limited`.
        limit: of the cache, in bytes.
    """
    if not domains.unmap_after_read or limit is None:
        return
    readers = _readers(domains, run_plan)

    def window(block: int) -> float:
        """Return the bytes of the shards that rows within `block` samples come from."""
        total = 0.0
        for f, readers_of in readers.items():
            bytes_of = [
                reader.row_bytes * np.minimum(max(block, reader.least), reader.owned_L).sum() for reader in readers_of
            ]
            total += min(sum(bytes_of), _cached_bytes(domains, f))
        return total

    block = run_plan.block_size if run_plan.shuffle else 1
    if window(block) <= limit:
        return
    low, high = 1, block
    while high - low > max(low // 8, 1):  # the largest block that fits, approximately
        middle = (low + high) // 2
        low, high = (middle, high) if window(middle) <= limit else (low, middle)
    remedy = f"shuffle_block_size={low} or " if window(low) <= limit else ""
    warnings.warn(
        f"cache_limit={limit} bytes is less than the {window(block):.0f} that rows are shuffled within (windows of "
        f"{block} samples in each domain and lane), so shards will be fetched again and again; raise cache_limit, or "
        f"pass {remedy}shuffle_algo='py1s' (another order of samples)",
        stacklevel=2,
    )


class _Reader(NamedTuple):
    """A domain, or all buckets of a stream together, which are at the same shards at the same time.

    Attributes:
        row_bytes: bytes of its shards for each sample of theirs that counts.
        least: samples of a shard, about; a window is never smaller.
        owned_L: int64 [L], its samples in each lane of this machine.
    """

    row_bytes: float
    least: float
    owned_L: Int64


def _readers(domains: Domains, run_plan: RunPlan) -> dict[int, list[_Reader]]:
    """Return who reads each source that is fetched, by the number of the source."""
    lanes, owned_LK = Forecast(run_plan).machine_lanes, run_plan.plan.owned_LK
    together: dict[tuple[int, str], list[int]] = {}
    for k, domain in enumerate(domains):
        if domain.files.fetches and domain.samples:
            together.setdefault((domains.source_K[k], (domain.whole or domain).name), []).append(k)
    readers: dict[int, list[_Reader]] = {}
    for (f, _), of_K in together.items():
        samples_S = np.sum([domains[k].samples_S for k in of_K], axis=0)
        size = int(raw_bytes_of(domains.sources[f].shards)[samples_S > 0].sum())
        total, owned_L = samples_S.sum(), owned_LK[lanes.start : lanes.stop, of_K].sum(axis=1)
        least = float(total / np.count_nonzero(samples_S))
        readers.setdefault(f, []).append(_Reader(size / total, least, owned_L))
    return readers


class Predownloader:
    """Fetches the shards that a reader will need; does nothing if all of them are local files.

    One thread looks ahead; any thread may close it, also while the other looks ahead: nothing is fetched or announced
    after that.

    Args:
        run_plan: the plan to follow.
        domains: the domains whose shards are fetched.
        ahead: rows of this rank to look ahead.
        forecast: what will be needed; that of `run_plan` if not given.
        traffic: what is fetched is added to it; that of this thread's meter if not given.
    """

    def __init__(
        self, *, run_plan: Any, domains: Domains, ahead: int, forecast: Any = None, traffic: Traffic | None = None
    ) -> None:
        self._meter = Meter(traffic=traffic or here().traffic)
        self._domains, self._rows, self._first_rows = domains, max(ahead, run_plan.batch_size), run_plan.batch_size
        self._pause = max(self._rows // run_plan.batch_size // _REFRESHES, 1)
        self._looked = -self._pause
        self._share_K: Float64 | None = None
        self._there_N = np.zeros(domains.shards, dtype=bool)
        fetches = any(source.files.fetches for source in domains.sources)
        forecast = self._forecast = (forecast or Forecast(run_plan)) if fetches else None
        threads = _threads(run_plan.world)
        self._downloader = Downloader(fetch=weak_callback(self._fetch, True), threads=threads) if fetches else None
        self._evictions = _Evictions(self, domains, forecast) if forecast and domains.unmap_after_read else None
        # Re-entrant: the garbage collector may call `close` at any point of `look_ahead`.
        self._lock = ProcessLocal(threading.RLock)

    def look_ahead(self, cursor: Cursor, weights: Weights | None) -> None:
        """Fetch the shards that the steps from `cursor` on need. Call it at every step; most calls return at once.

        Args:
            cursor: before the step that is read next.
            weights: step -> weights in whole parts, or None while they are not known; None for static mixing.
        """
        here().step()
        with self._lock.value:
            self._look_ahead(cursor, weights)

    def _look_ahead(self, cursor: Cursor, weights: Weights | None) -> None:
        downloader, forecast = self._downloader, self._forecast
        if downloader is None or forecast is None or 0 <= cursor.step - self._looked < self._pause:
            return
        clock = here().clock
        stage = clock.enter(PLAN)
        if weights is not None and (weight_K := weights(cursor.step)) is not None:
            self._share_K = weight_K / weight_K.sum()
        begins, self._looked = self._looked < 0, cursor.step
        if begins and self._rows > self._first_rows:
            # The shards of the first batch are on their way while those of all others are found.
            self._follow(downloader, forecast, cursor, self._first_rows, begins=True)
        self._follow(downloader, forecast, cursor, self._rows, begins=begins)
        clock.enter(stage)

    def _follow(self, downloader: Downloader, forecast: Any, cursor: Cursor, rows: int, *, begins: bool) -> None:
        """Fetch the shards of the next `rows` rows of this rank."""
        number_N, steps_N = forecast.upcoming(cursor, self._share_K, rows)
        if self._evictions is not None:
            self._evictions.follow(cursor, self._share_K, number_N, steps_N)
            self._domains.opened.keep(self._evictions.still_there(number_N.tolist()))
        missing_N = ~self._there_N[number_N]
        number_N, steps_N = number_N[missing_N], steps_N[missing_N]
        # The first batch waits for its own shards only. Later, while a reader waits, others fill what it leaves free.
        downloader.follow(number_N, steps_N, before=int(np.count_nonzero(steps_N == 0)) if begins else 0)

    def _fetch(self, number: int, need: float) -> bool:
        with metered(self._meter):
            done = self._domains.fetch(number, need)
        if done and self._evictions is None:  # under a limit, it may be evicted before it is read
            self._there_N[number] = True
        return done

    def close(self) -> None:
        """End the threads; nothing is fetched ahead any more."""
        with self._lock.value:
            downloader, self._downloader = self._downloader, None
            if self._evictions is not None:
                self._evictions.withdraw()
        if downloader is not None:
            downloader.close()


def _threads(world: World) -> int:
    """Return how many shards a rank fetches at once: the ranks of a machine share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    least, most = _THREADS
    return min(max(cores // max(world.size // world.nodes, 1), least), most)


class _Evictions:
    """What a cache with a limit knows of the plan: which shards are needed, and when.

    Args:
        owner: when it is deleted, `withdraw` is called.
        domains: whose caches share one limit.
        forecast: of the plan.
    """

    def __init__(self, owner: Predownloader, domains: Domains, forecast: Forecast) -> None:
        self._domains, self._forecast = domains, forecast
        self._limit = domains[0].files.cache_limit  # all domains have the same
        self._numbers: dict[Path, dict[str, int]] = {}  # of shards that may be evicted, by directory and name below it
        for source, first in zip(domains.sources, domains.shard_offset_F.tolist()):
            if source.files.fetches:
                names = self._numbers.setdefault(source.files.directory, {})
                names.update({name: first + i for i, name in enumerate(raw_names(source.shards))})
        self._at: tuple[Cursor, Float64 | None] | None = None
        self._reader: int | None = None  # the thread that maps shards
        self._limit.unmap = weak_callback(self._unmap, None)
        self.withdraw = weakref.finalize(owner, self._limit.close)
        answer = weak_callback(self._next_use, None)  # the limit outlives this object
        self._limit.next_use = lambda paths: answer(paths) or [inf] * len(paths)

    def follow(self, cursor: Cursor, share_K: Float64 | None, number_N: Int64, steps_N: Float64) -> None:
        """Answer from `cursor` and `share_K` from now on, and announce to other processes what is needed soon.

        They honour the announcement until `withdraw` is called or this process exits.
        """
        self._at, self._reader = (cursor, share_K), threading.get_ident()
        self._limit.announce([self._path(number) for number in number_N.tolist()], steps_N.tolist())

    def still_there(self, numbers: Sequence[int]) -> list[int]:
        """Return these shards, without those that are mapped and that another process has evicted."""
        mapped = self._domains.opened.table.data
        return [number for number in numbers if number not in mapped or self._path(number).exists()]

    def _path(self, number: int) -> Path:
        domain, shard = self._domains.home(number)
        return domain.files.path(domain.shards[shard].raw.basename)

    def _next_use(self, paths: Sequence[Path]) -> Sequence[float]:
        """Return the steps until the plan needs each of these files; inf for never."""
        steps_N = np.full(len(paths), inf)
        if self._at is not None:
            numbers = [self._number(path) for path in paths]
            known_N = np.array([number is not None for number in numbers], dtype=bool)
            asked = np.array([number for number in numbers if number is not None], dtype=np.int64)
            steps_N[known_N] = self._forecast.distance(*self._at, asked)
            mapped = self._domains.opened.table.data  # would take room after they were evicted
            steps_N[[place for place, number in enumerate(numbers) if number in mapped]] = 0.0
        return steps_N.tolist()

    def _unmap(self, path: Path) -> None:
        """Unmap the shard of a raw file, if this is the thread that reads; others evict none that is mapped."""
        if threading.get_ident() == self._reader and (number := self._number(path)) is not None:
            self._domains.opened.drop(number)

    def _number(self, path: Path) -> int | None:
        for directory in path.parents:
            if (names := self._numbers.get(directory)) is not None:
                return names.get(path.relative_to(directory).as_posix())
        return None
