"""MDS as a container: `index.json` lists the shards, and each shard begins with a table of offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mixstream.formats.container import OffsetTable, UInt8
from mixstream.formats.mds.index import Index, ShardInfo, check_index_hash, parse_index
from mixstream.formats.mds.shard import decode_sample, read_offsets

_OFFSETS = OffsetTable(begins=4)


@dataclass(frozen=True, slots=True)
class MDS:
    """The shards of one MDS dataset. See `Container`.

    Args:
        index: what `index.json` says.
    """

    index: Index

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> MDS:
        """Return the container that the bytes of an `index.json` describe.

        Raises:
            IndexCorruptError: it says what cannot be.
        """
        return cls(parse_index(data, where=where))

    @staticmethod
    def check_hash(data: bytes, validate_hash: str | None, *, where: str) -> None:
        """Check the bytes of an `index.json` against its own hash, where it carries one."""
        check_index_hash(data, validate_hash, where=where)

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """All shards, in order."""
        return self.index.shards

    def rows(self, shard: int) -> OffsetTable:
        """Return where the rows of shard `shard` lie."""
        del shard
        return _OFFSETS

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """Check the bytes of a whole shard."""
        read_offsets(data, self.index.shards[shard], where=where)

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """Return a row's bytes as column to value."""
        return decode_sample(row, self.index.shards[shard], where=where)
