"""MDS as a container: `index.json` lists the shards, and a table of offsets in each shard locates its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixstream.formats.container import OffsetTable
from mixstream.formats.mds.index import Index, ShardInfo
from mixstream.formats.mds.shard import decode_sample, read_offsets
from mixstream.records import dataclass
from mixstream.types import UInt8

_OFFSETS = OffsetTable(begins=4)


@dataclass(frozen=True, slots=True)
class MDS:
    """The shards of one MDS dataset. See `Container`.

    >>> import numpy as np
    >>> from mixstream.formats.mds.index import FileInfo, dump_index, parse_index
    >>> from mixstream.formats.mds.shard import encode_config, encode_sample, encode_shard
    >>> columns = {"names": ("id", "text"), "encodings": ("uint8", "str"), "sizes": (1, None)}
    >>> samples = [encode_sample({"id": i, "text": text}, **columns) for i, text in enumerate(["red", "blue"])]
    >>> samples[1]  # u32 size of the column that varies, then the columns: 1 and "blue"
    b'\\x04\\x00\\x00\\x00\\x01blue'
    >>> shard = encode_shard(samples, config={})
    >>> entry = ShardInfo(
    ...     samples=2, column_names=columns["names"], column_encodings=columns["encodings"],
    ...     column_sizes=columns["sizes"], compression=None, hashes=(), size_limit=None, zip=None,
    ...     raw=FileInfo(basename="shard.00000.mds", bytes=len(shard), hashes={}),
    ... )
    >>> dataset = MDS(parse_index(dump_index(Index(shards=(entry,), extra={})), where="index.json"))
    >>> data = np.frombuffer(shard, dtype=np.uint8)
    >>> dataset.check(0, data, where="shard.00000.mds")
    >>> len(shard) - len(dataset.header(0, data))  # the bytes of both samples
    17
    >>> begin, end = dataset.rows(0).span(data, row=1)
    >>> row = dataset.decode(0, shard[begin:end], where="shard.00000.mds, row 1")
    >>> int(row["id"]), row["text"]
    (1, 'blue')

    Args:
        index: the content of `index.json`.
    """

    index: Index

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """All shards, in order."""
        return self.index.shards

    @property
    def extra(self) -> Mapping[str, object]:
        """See `Container.extra`."""
        return self.index.extra

    def rows(self, shard: int) -> OffsetTable:
        """See `Container.rows`."""
        del shard
        return _OFFSETS

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """See `Container.check`."""
        read_offsets(data, self.index.shards[shard], where=where)

    def header(self, shard: int, data: UInt8) -> UInt8:
        """See `Container.header`: number of samples, offsets, and the JSON of the columns."""
        del shard
        return data[: int(data[4:8].view("<u4")[0])]

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """See `Container.decode`."""
        return decode_sample(row, self.index.shards[shard], where=where)
