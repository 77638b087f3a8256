"""Samples and shards by number, as programs of mosaicml-streaming count them. Everything is O(shards)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.arguments import shown, whole
from mixstream.cached import cached_property
from mixstream.data.domains import Domains
from mixstream.errors import ConfigError
from mixstream.formats import ShardEntry, samples_of
from mixstream.loader.mosaic_api.stream import Spanner
from mixstream.types import Addresses, Int64


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
        samples = [samples_of(domain.shards) for domain in self.domains.listed]
        return np.concatenate([np.empty(0, dtype=np.int64), *samples])

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
        samples = [int(samples_of(domain.shards).sum()) for domain in self.domains.listed]
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

    @cached_property
    def spanner(self) -> Spanner:
        """The shard and the row in it of each sample."""
        return Spanner(self.samples_per_shard)

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
            raise IndexError(f"sample {shown(number)} of a dataset that has {total}")
        shard = int(np.searchsorted(self.sample_offset_per_shard, at, side="right")) - 1
        shift = int(self._shard_shift[self.stream_per_shard[shard]])
        return shard + shift, at - int(self.sample_offset_per_shard[shard])

    def number(self, at: Addresses) -> Int64:
        """Return the numbers of the samples at `at`, int64 [B]."""
        stream_B = self.domains.listed_K[at.domain_B]
        return self.sample_offset_per_shard[at.shard_B - self._shard_shift[stream_B]] + at.row_B

    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> Any:
        """Return sample number `at`, numbered over all domains; a list of samples for a slice, list or array."""
        if isinstance(at, np.ndarray) and at.ndim == 0:
            at = at[()]
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
        return self.domains.sample(*self.find(whole("sample_id", sample_id)))
