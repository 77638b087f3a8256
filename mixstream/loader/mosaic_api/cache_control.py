"""The cache of a dataset, as programs of mosaicml-streaming see and steer it: by the numbers of `ShardTables`.

Rule: only copies are evicted. Original shards, which nothing could fetch again, are refused.
"""

from typing import Any

from mixstream.data.domain import Domain
from mixstream.errors import ConfigError
from mixstream.loader.mosaic_api.shard_tables import ShardTables


class CacheControl(ShardTables):
    """The part of `StreamingDataset` that fetches and evicts shards by number."""

    def _home(self, shard_id: int) -> tuple[int, Domain, int]:
        """Return a shard's number in the plan's order, its source, and its number there.

        Raises:
            IndexError: there is no such shard.
        """
        if not 0 <= shard_id < len(self.stream_per_shard):
            raise IndexError(f"shard {shard_id} of a dataset that has {len(self.stream_per_shard)}")
        number = shard_id + int(self._shard_shift[self.stream_per_shard[shard_id]])
        return number, *self.domains.home(number)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch shard `shard_id`, numbered over all domains, to local disk.

        Args:
            shard_id: its number.
            blocking: wait for room, and for other processes that are fetching it; without it, the shard may be missing
                afterwards.
        """
        _, domain, shard = self._home(shard_id)
        if not domain.fetch(shard, 0.0) and blocking:
            domain.map(shard)

    def evict_shard(self, shard_id: int) -> None:
        """Remove the files of shard `shard_id`, numbered over all domains, from the cache; nothing if there are none.

        A reader of any process that has it open or mapped reads on, and it is fetched again when it is needed.

        Raises:
            ConfigError: its files are the originals.
        """
        number, domain, shard = self._home(shard_id)
        name = domain.shards[shard].raw.basename
        if domain.files.directory not in domain.files.cache_limit:
            raise ConfigError(
                f"shard {shard_id} ({domain.files.path(name)}) is no copy that could be fetched again, so it is not "
                "evicted: give the stream a `remote`, and a `local` directory for its cache"
            )
        domain.files.cache_limit.evict(domain.files.path(name))
        self.domains.opened.drop(number)

    def evict_coldest_shard(self) -> None:
        """Remove the shard from the cache that was opened longest ago, by any process, and that none needs now.

        Raises:
            ConfigError: there is none.
        """
        if self.domains[0].files.cache_limit.evict() is None:
            raise ConfigError(
                "Attempted shard eviction, but there are no shards present locally to evict: nothing was fetched to "
                "the cache, or all of it is about to be read"
            )

    @property
    def cache_usage(self) -> int:
        """Bytes that the shards of all domains take in their caches."""
        return self.domains[0].files.cache_limit.usage()

    @property
    def max_shard_size_across_all_streams(self) -> int:
        """The most bytes that a shard takes in the cache, raw and compressed file together."""
        shards: list[Any] = [shard for domain in self.domains for shard in domain.shards]
        return max(shard.raw_bytes + shard.zip_bytes for shard in shards)
