"""A column of token ids as a container: its shards are computed from row groups and batches, or are bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Self

import numpy as np

from mixstream.formats.columns.arrow import buffered
from mixstream.formats.columns.index import ColumnIndex
from mixstream.formats.columns.lists import refuse
from mixstream.formats.columns.making import make_shard
from mixstream.formats.columns.raw import check_raw, cuts_of, raw_bytes, table_at
from mixstream.formats.columns.shards import ColumnShard, left_over, shards_of
from mixstream.formats.container import FileInfo, FilePart, FixedStride, ShardEntry, TailRows, part_name
from mixstream.formats.cuts import Cuts
from mixstream.records import dataclass
from mixstream.types import Buffer, UInt8

_HEADER = 1 << 12  # bytes of a shard that tell it from another one of equally many rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The shards of a store of columns. See `Container`.

    Args:
        index: the content of its index.
        parts: all shards, as parts of files.
        shards: all shards, in order.
        dropped: tokens that are in no row, at the ends of files.
    """

    index: ColumnIndex
    parts: tuple[ColumnShard, ...]
    shards: tuple[ShardEntry, ...]
    dropped: int

    @classmethod
    def of(cls, index: ColumnIndex) -> Self:
        """Return the shards of an index."""
        parts = tuple(shards_of(index))
        shards = tuple(_entry(index, part) for part in parts)
        return cls(index=index, parts=parts, shards=shards, dropped=left_over(index))

    @property
    def row_tokens(self) -> int | None:
        """Tokens of a row; None if samples are documents."""
        return None if self.index.row is None else self.index.row[1]

    @property
    def extra(self) -> Mapping[str, object]:
        """See `Container.extra`: nothing."""
        return {}

    def rows(self, shard: int) -> FixedStride | TailRows:
        """See `Container.rows`."""
        size = self.index.itemsize
        if self.index.row is None:
            return TailRows(ends=table_at(self.parts[shard].tokens, size) + 8, itemsize=size)
        stride, row = self.index.row
        return FixedStride(begins=0, stride=stride * size, size=row * size)

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """See `Container.check`."""
        part, entry = self.parts[shard], self.shards[shard]
        if len(data) != entry.raw.bytes:
            refuse(where, f"it has {len(data)} bytes, its index says {entry.raw.bytes}")
        if part.begin is None:
            lists = part.samples if self.index.row is None else None
            check_raw(data, part.tokens, self.index.itemsize, lists=lists, where=where)

    def header(self, shard: int, data: UInt8) -> UInt8:
        """See `Container.header`: the first tokens, which tell it from others, and where documents end."""
        part = self.parts[shard]
        ends = data[table_at(part.tokens, self.index.itemsize) :]  # none, if the shard is bytes of the file
        return np.concatenate((data[:_HEADER], ends))

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """See `Container.decode`."""
        del shard
        size = self.index.itemsize
        if len(row) % size or (self.index.row is not None and len(row) != self.index.row[1] * size):
            refuse(where, f"a row of {len(row)} bytes, in a column of {self.index.dtype}")
        return {"tokens": np.frombuffer(row, np.dtype(self.index.dtype).newbyteorder("<")).copy()}

    def lists_borders(self) -> bool:
        """Return whether all shards list where documents end: lists are not rows, and shards are computed."""
        return self.index.every is None and all(part.begin is None for part in self.parts)

    def cuts(self, shard: int, read: Callable[[int], UInt8]) -> tuple[Cuts, int] | None:
        """Return where documents end in a shard, and 0, its token at which it begins; None if lists are rows.

        Args:
            shard: its number.
            read: number -> the bytes of a shard, checked.
        """
        part = self.parts[shard]
        if part.begin is not None or self.index.every is not None:
            return None
        return cuts_of(read(shard), part.tokens, self.index.itemsize), 0

    def make(self, shard: int, file: BinaryIO) -> Buffer:
        """Compute a shard from its file. See `ComputesShards`.

        Args:
            shard: its number.
            file: the whole file, seekable.

        Returns:
            Its bytes, as `raw.py` says.

        Raises:
            ShardCorruptError: the file is damaged, or has other lists than when its index was made.
        """
        part = self.parts[shard]
        place = str(getattr(file, "name", self.index.files[part.file].name))
        if self.index.kind == "parquet":  # pyarrow reads large pieces
            return make_shard(self.index, part, file, where=place).data
        with buffered(file) as stream:
            return make_shard(self.index, part, stream, where=place).data


def _entry(index: ColumnIndex, part: ColumnShard) -> ShardEntry:
    file = index.files[part.file]
    shape = "" if index.row is None else f":{index.row[1]}"
    size = None if index.row is None else index.row[1] * index.itemsize
    tokens = part.tokens * index.itemsize
    return ShardEntry(
        samples=part.samples,
        column_names=("tokens",),
        column_encodings=(f"ndarray:{index.dtype}{shape}",),
        column_sizes=(size,),
        compression=None,
        hashes=(),
        raw=FileInfo(
            basename=part_name(file.name, part.part),
            bytes=tokens if part.begin is not None else raw_bytes(part.tokens, index.itemsize, part.ends),
            hashes={},
        ),
        zip=None,
        part=FilePart(name=file.name, bytes=file.bytes, begin=part.begin),
    )
