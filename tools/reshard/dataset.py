"""One dataset of a resharding: its new shards' entry, their borders, and the parts in which they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.formats import ShardInfo, dump_index
from mixstream.storage import Retry, is_local, local_path, open_store

from ..shared.datasets import Dataset
from ..shared.parts import PartOptions
from .cuts import cut, cut_fixed, deal, room_of
from .rows import Conversion, sizes_of
from .shuffled import Scattered
from .target import Target
from .write import Source

SCATTER_BYTES = 256 << 20
"""Of rows that a scattering holds in memory; also of the rows of a part that is gathered."""
_SHARDS_PER_PART = 16


@dataclass(frozen=True, kw_only=True)
class Reshard:
    """One dataset of a job.

    Args:
        name: below the URL and below the output; "" if the URL is a dataset.
        dataset: as it was found.
        target: what its new shards are like.
        retry: of requests.
    """

    name: str
    dataset: Dataset
    target: Target
    retry: Retry

    def __post_init__(self) -> None:
        """Refuse shards that are no MDS, or of different columns."""
        where = self.dataset.shown
        for info in self.dataset.shards:
            if info.format != "mds":
                raise ConfigError(f"{where}: {info.raw.basename} is of the format {info.format!r}; reshard reads MDS.")
            if info.columns != self.dataset.shards[0].columns:
                raise ConfigError(f"{where}: its shards have different columns, so their rows cannot share shards.")

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(info.samples for info in self.dataset.shards)

    @cached_property
    def entry(self) -> ShardInfo:
        """The entry of a new shard, without samples and files."""
        return self.target.entry(self.dataset.shards[0])

    @property
    def bytes(self) -> int:
        """Bytes of the old shards, uncompressed."""
        return sum(info.raw_bytes for info in self.dataset.shards)

    @property
    def source(self) -> Source:
        """What workers need of it."""
        return Source(
            url=absolute_url(self.dataset.store.url), shards=self.dataset.shards, entry=self.entry, retry=self.retry
        )

    def digest(self) -> str:
        """Return a hash of the old index: its shards with their hashes, and what else it says."""
        assert self.dataset.index is not None, "unreadable datasets are refused before"
        return hashlib.sha256(dump_index(self.dataset.index)).hexdigest()

    def borders(self, scattered: Sequence[Path]) -> list[int]:
        """Return where the new shards begin; of rows of different sizes, all sizes are read."""
        row_bytes = Conversion.between(self.dataset.shards[0], self.entry).row_bytes
        if row_bytes is not None:
            return cut_fixed(self.rows, row_bytes, room_of(self.entry))
        if scattered:
            return cut(Scattered(directories=scattered).sizes(), room_of(self.entry))
        store = open_store(self.dataset.store.url, timeout=self.retry.timeout)
        sizes = (
            sizes_of(store, info, Conversion.between(info, self.entry), self.retry) for info in self.dataset.shards
        )
        return cut(sizes, room_of(self.entry))

    def parts(self, borders: Sequence[int], options: PartOptions) -> list[tuple[int, int]]:
        """Return the shards of each part; they do not depend on the machine."""
        shards = len(borders) - 1
        each = _SHARDS_PER_PART
        if self.target.seed is not None:  # a part is in memory
            each = max(min(each, SCATTER_BYTES // max(self.bytes // max(shards, 1), 1)), 1)
        count = min(options.count(shards, per_part=each, least=1), max(shards, 1))
        return deal(borders, count if options.single is None else options.single[1])


def absolute_url(url: str) -> str:
    """Return a local path as an absolute one: a worker on another machine has another current directory."""
    return str(local_path(url).absolute()) if is_local(url) else url
