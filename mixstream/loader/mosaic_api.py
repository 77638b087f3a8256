"""Options and tables of mosaicml-streaming's dataset that mixstream itself does not need.

They are here so that programs have to change their import line only. Everything is O(shards).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.arguments import MOST, flag, text, whole
from mixstream.cached import cached_property
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError
from mixstream.formats import ShardEntry
from mixstream.plan.shuffle import ALGORITHMS
from mixstream.types import Addresses, Int64
from mixstream.units import parse_count

_CHOICES = {
    "sampling_method": ("balanced", "fixed"),
    "partition_algo": ("orig", "relaxed"),
    "shuffle_algo": tuple(ALGORITHMS),
    "batching_method": ("random", "stratified"),
    "on_bad_sample": ("raise", "refetch", "quarantine"),  # `bad_samples.RowReader`
}


_COUNTS: dict[str, tuple[int, str]] = {
    "sampling_granularity": (1, ""),
    "shuffle_block_size": (1, "samples"),
    "predownload": (0, "rows"),
    "shuffle_seed": (0, ""),
    "num_canonical_nodes": (1, "lanes"),
    "batch_size": (1, "rows"),
    "replication": (1, "ranks"),
    "lag": (0, "steps"),
}
"""The least of each, and what it counts."""
_MOST_OF = {"shuffle_seed": None, "lag": 1 << 16}  # the weights of `lag` steps are in memory and in the state
_LARGEST_EPOCH = 1 << 48
"""Shares of an epoch are computed in float64, and come out within a row."""
_SWITCHES = ("shuffle", "drop_last", "keep_zip", "allow_unsafe_types", "mixed_rows")


def check_options(**options: Any) -> dict[str, Any]:
    """Return the options with numbers and switches as Python's own (`arguments`); None stays.

    Raises:
        ConfigError: an option is not valid, or mixstream does not support it.
    """
    for key, (least, of) in _COUNTS.items():
        if options[key] is not None or key in ("shuffle_seed", "lag"):
            options[key] = whole(key, options[key], least=least, most=_MOST_OF.get(key, MOST), of=of)
    for key in _SWITCHES:
        options[key] = flag(key, options[key])
    if (method := options["batching_method"]) in ("per_stream", "device_per_stream"):
        raise ConfigError(
            f"batching_method={method!r} makes batches of one domain, which mixstream does not: its batches are mixed "
            "exactly; use 'random' or 'stratified'"
        )
    for key, choices in _CHOICES.items():
        options[key] = text(key, options[key])
        if options[key] not in choices:
            raise ConfigError(f"{key}={options[key]!r} is not known; choose one of {', '.join(choices)}")
    if (rows := options["epoch_size"]) is not None:
        size = whole("epoch_size", parse_count(rows, name="epoch_size"), most=_LARGEST_EPOCH, of="rows")
        options["epoch_size"] = size or None  # mosaicml-streaming takes 0 for no size
    if options["predownload"] is None:
        options["predownload"] = 8 * (options["batch_size"] or 8)
    return options


class ShardTables:
    """Samples and shards by number: all stored rows, domain after domain in the order of `streams`.

    Only users see these numbers; `find`, `number` and `prepare_shard` translate them to and from the plan's.
    """

    streams: Sequence[Any]
    domains: Domains

    @cached_property
    def shards(self) -> list[ShardEntry]:
        """All shards, domain after domain."""
        return [shard for domain in self.domains.listed for shard in domain.shards]

    @cached_property
    def samples_per_shard(self) -> Int64:
        """Samples of each shard, int64 [S]."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    @cached_property
    def sample_offset_per_shard(self) -> Int64:
        """Number of each shard's first sample, int64 [S]."""
        return np.cumsum(self.samples_per_shard) - self.samples_per_shard

    @cached_property
    def shards_per_stream(self) -> Int64:
        """Shards of each stream, int64 [K]."""
        return np.array([len(domain.shards) for domain in self.domains.listed], dtype=np.int64)

    @cached_property
    def shard_offset_per_stream(self) -> Int64:
        """Number of each stream's first shard, int64 [K]."""
        return np.cumsum(self.shards_per_stream) - self.shards_per_stream

    @cached_property
    def stream_per_shard(self) -> Int64:
        """The stream that each shard belongs to, int64 [S]."""
        return np.repeat(np.arange(len(self.shards_per_stream)), self.shards_per_stream)

    @cached_property
    def samples_per_stream(self) -> Int64:
        """Samples of each stream, int64 [K]."""
        samples = [sum(shard.samples for shard in domain.shards) for domain in self.domains.listed]
        return np.array(samples, dtype=np.int64)

    @cached_property
    def sample_offset_per_stream(self) -> Int64:
        """Number of each stream's first sample, int64 [K]."""
        return np.cumsum(self.samples_per_stream) - self.samples_per_stream

    @property
    def num_streams(self) -> int:
        """How many streams there are."""
        return len(self.streams)

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return int(self.shards_per_stream.sum())

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return int(self.samples_per_stream.sum())

    @property
    def size(self) -> int:
        """Number of samples in all domains, without regard to their weights."""
        return self.num_samples

    @property
    def domain_names(self) -> list[str]:
        """The domains' names; a batch's `domain` counts in this list."""
        return [domain.name for domain in self.domains.listed]

    @cached_property
    def _shard_shift(self) -> Int64:
        """What is added to the number of a shard to get its number in the plan's order, int64 [K], by stream."""
        return self.domains.shard_offset_K[:-1][self.domains.plan_K] - self.shard_offset_per_stream

    def find(self, number: int) -> tuple[int, int]:
        """Return (shard, row) of sample `number`, which may be negative, as in a list.

        The shard is numbered in the plan's order; the row is the stored one.
        """
        total = self.num_samples
        at = number + total if number < 0 else number
        if not 0 <= at < total:
            raise IndexError(f"sample {number} of a dataset that has {total}")
        shard = int(np.searchsorted(self.sample_offset_per_shard, at, side="right")) - 1
        shift = int(self._shard_shift[self.stream_per_shard[shard]])
        return shard + shift, at - int(self.sample_offset_per_shard[shard])

    def number(self, at: Addresses) -> Int64:
        """Return the numbers of the samples at `at`, int64 [B]."""
        stream_B = self.domains.listed_K[at.domain_B]
        return self.sample_offset_per_shard[at.shard_B - self._shard_shift[stream_B]] + at.row_B

    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> Any:
        """Return sample number `at`, numbered over all domains; a list of samples for a slice, list or array."""
        if isinstance(at, int | np.integer):
            return self.get_item(int(at))
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.num_samples))]
        if isinstance(at, list | tuple | np.ndarray):
            return [self[i] for i in at]
        raise ConfigError(f"a sample's number is an int, a slice, a list or an array of ints; got {type(at).__name__}")

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        """Return the decoded sample number `sample_id`: column -> value. Subclasses may override this."""
        del retry  # part of mosaicml-streaming's signature; `download_retry` is used instead
        return self.domains.sample(*self.find(sample_id))

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch shard `shard_id`, numbered over all domains, to local disk.

        Args:
            shard_id: its number.
            blocking: wait for room, and for other processes that are fetching it; without it, the shard may be missing
                afterwards.
        """
        domain, shard = self.domains.home(shard_id + int(self._shard_shift[self.stream_per_shard[shard_id]]))
        if not domain.fetch(shard, 0.0) and blocking:
            domain.map(shard)

    @property
    def cache_usage(self) -> int:
        """Bytes that the shards of all domains take in their caches."""
        return self.domains[0].files.cache_limit.usage()
