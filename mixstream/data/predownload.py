"""Shards on local disk before their rows are read, and what makes room for them last.

It joins three that do not know each other: the forecast (what the plan will need), the fetcher (threads that get it)
and the cache limit (what may stay on disk). It changes how long a reader waits, never what it reads.

Shape suffixes: K domains, N shards of all domains.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Self

import numpy as np

from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.data.downloader import Downloader
from mixstream.errors import ConfigError
from mixstream.plan.forecast import Forecast
from mixstream.plan.run_plan import RunPlan
from mixstream.storage import CacheLimit
from mixstream.threads import weak_callback
from mixstream.types import Cursor, Float64, Weights

_REFRESHES = 4  # times that the forecast is made anew while as many rows are read as it looks ahead


def limited(domains: Domains, limit: int | None) -> Domains:
    """Return `domains`, whose caches hold `limit` bytes together; None for no limit.

    Raises:
        ConfigError: the limit is less than any run could do with.
    """
    places: dict[Path, Domain] = {}
    for domain in domains.listed:
        other = places.setdefault(domain.files.directory, domain)
        if other is not domain and other.files.describe() != domain.files.describe():
            raise ConfigError(
                f"streams {other.name!r} and {domain.name!r} have the same `local` {domain.files.directory}, where the "
                "one's shards could be taken for the other's: give each its own"
            )
    cache = CacheLimit(limit=limit)
    domains = replace(domains, domains=tuple(domain.within(cache) for domain in domains))
    if limit is None or not any(domain.files.fetches for domain in domains):
        return domains
    largest = max(shard.raw.bytes for domain in domains if domain.files.fetches for shard in domain.shards)
    if limit < 2 * largest:
        raise ConfigError(
            f"cache_limit={limit} bytes is too low: the largest shard has {largest}, and room for two is the least; "
            f"some for each process that reads is better; pass {8 * largest} or more, or None for no limit"
        )
    return replace(domains, unmap_after_read=limit < sum(map(_cached_bytes, domains)))


def _cached_bytes(domain: Domain) -> int:
    """Return what all shards of a domain take in its cache."""
    packed = domain.files.keep_compressed
    shards = domain.shards if domain.files.fetches else ()
    return sum(shard.raw.bytes + (shard.zip.bytes if packed and shard.zip else 0) for shard in shards)


def warn_of_refetching(run_plan: RunPlan, domains: Domains, limit: int | None) -> None:
    """Warn where the cache cannot hold the windows that rows are shuffled in: their shards would come again and again.

    Args:
        run_plan: what is drawn.
        domains: from `limited`.
        limit: that of the cache, in bytes.
    """
    if not domains.unmap_after_read or limit is None:
        return
    lanes, owned_LK = Forecast(run_plan).machine_lanes, run_plan.plan.owned_LK
    sizes = [
        (sum(shard.raw.bytes for shard in domain.shards) / domain.samples, domain.samples_S.mean(), k)
        for k, domain in enumerate(domains)
        if domain.files.fetches and domain.samples
    ]

    def window(block: int) -> float:
        """Return the bytes of the shards that rows within `block` samples come from."""
        return sum(
            size * min(max(block, least), float(owned_LK[lane, k])) for size, least, k in sizes for lane in lanes
        )

    block = run_plan.block_size if run_plan.shuffle else 1
    if window(block) <= limit:
        return
    low, high = 1, block
    while high - low > max(low // 8, 1):  # the largest block that fits, about
        middle = (low + high) // 2
        low, high = (middle, high) if window(middle) <= limit else (low, middle)
    remedy = f"shuffle_block_size={low} or " if window(low) <= limit else ""
    warnings.warn(
        f"cache_limit={limit} bytes is less than the {window(block):.0f} that rows are shuffled within (windows of "
        f"{block} samples in each domain and lane), so shards will be fetched again and again; raise cache_limit, or "
        f"pass {remedy}shuffle_algo='py1s' (another order of samples)",
        stacklevel=2,
    )


class Predownloader:
    """Fetches the shards that a reader is about to need; does nothing where all of them lie on local disk.

    Args:
        run_plan: what is followed.
        domains: where shards are fetched into.
        ahead: rows of this rank that are looked ahead.
    """

    def __init__(self, *, run_plan: RunPlan, domains: Domains, ahead: int) -> None:
        self._domains, self._rows = domains, max(ahead, run_plan.batch_size)
        self._pause = max(self._rows // run_plan.batch_size // _REFRESHES, 1)
        self._looked = -self._pause
        self._share_K: Float64 | None = None
        self._cursor: Cursor | None = None
        self._closed = False
        self._there_N = np.zeros(domains.shards, dtype=bool)
        self._fetcher: Downloader | None = None
        if any(domain.files.fetches for domain in domains):
            self._forecast, self._fetcher = Forecast(run_plan), Downloader(fetch=weak_callback(self._fetch, True))
            if domains.unmap_after_read:
                self._numbers = _numbers_of(domains)
                self._withdraw = weakref.finalize(self, self._cache_limit.close)  # others believe it as long as we live
                asked = weak_callback(self._next_use, None)  # the limit outlives us
                self._cache_limit.next_use = lambda paths: asked(paths) or [inf] * len(paths)

    def look_ahead(self, cursor: Cursor, weights: Weights | None) -> None:
        """Have the shards fetched that the steps from `cursor` on need. To be called at every step; cheap.

        Args:
            cursor: before the step that is read next.
            weights: step -> weights in whole parts, or None while they are not known; None for static mixing.
        """
        if self._fetcher is None or self._closed or 0 <= cursor.step - self._looked < self._pause:
            return
        if weights is not None and (weight_K := weights(cursor.step)) is not None:
            self._share_K = weight_K / weight_K.sum()
        self._looked, self._cursor = cursor.step, cursor
        number_N, steps_N = self._forecast.upcoming(cursor, self._share_K, self._rows)
        if self._domains.unmap_after_read:
            self._cache_limit.announce([self._path(number) for number in number_N.tolist()], steps_N.tolist())
        missing_N = ~self._there_N[number_N]
        self._fetcher.follow(number_N[missing_N], steps_N[missing_N])

    def _fetch(self, number: int, need: float) -> bool:
        done = self._domains.fetch(number, need)
        if done and not self._domains.unmap_after_read:  # under a limit, it may be gone when it is needed again
            self._there_N[number] = True
        return done

    @property
    def _cache_limit(self) -> CacheLimit:
        return self._domains[0].files.cache_limit  # all of them have the one

    def _path(self, number: int) -> Path:
        domain, shard = self._domains.home(number)
        return domain.files.path(domain.shards[shard].raw.basename)

    def _next_use(self, paths: Sequence[Path]) -> Sequence[float]:
        """Return the steps until the plan needs each of these files; inf for never."""
        if (cursor := self._cursor) is None:
            return [inf] * len(paths)
        numbers = [self._number(path) for path in paths]
        steps_N = np.full(len(paths), inf)
        known_N = np.array([number is not None for number in numbers], dtype=bool)
        asked = np.array([number for number in numbers if number is not None], dtype=np.int64)
        steps_N[known_N] = self._forecast.distance(cursor, self._share_K, asked)
        return steps_N.tolist()

    def _number(self, path: Path) -> int | None:
        for directory in path.parents:
            if (names := self._numbers.get(directory)) is not None:
                return names.get(path.relative_to(directory).as_posix())
        return None

    def close(self) -> None:
        """End the threads; nothing is fetched ahead any more."""
        self._closed = True
        if self._fetcher is not None:
            self._fetcher.close()
            if self._domains.unmap_after_read:
                self._withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _numbers_of(domains: Domains) -> dict[Path, dict[str, int]]:
    """Return the number of every shard that may be evicted, by directory and name below it."""
    numbers: dict[Path, dict[str, int]] = {}
    for domain, first in zip(domains, domains.shard_offset_K.tolist()):
        if domain.files.fetches:
            names = numbers.setdefault(domain.files.directory, {})
            names.update({shard.raw.basename: first + i for i, shard in enumerate(domain.shards)})
    return numbers
