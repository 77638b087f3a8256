"""What a container is: how samples lie in files. One protocol for every file format that a domain can be read from.

A container says which shards there are and what they hold, where a row's bytes lie in a shard, and what these bytes
decode to. It opens no file. Plan, cache and loaders know containers by this protocol only, so that a further format is
a further implementation. MDS (`mds/container.py`) is the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One file: its path below the dataset's directory, its size in bytes, its hashes (name to hexadecimal)."""

    basename: str
    bytes: int
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OffsetTable:
    """Rows of any length: a table of u32 in the shard holds where each begins, and where the last ends.

    >>> shard = np.array([2, 16, 19, 24], dtype="<u4").view(np.uint8)  # two samples: bytes 16 to 19, and 19 to 24
    >>> OffsetTable(begins=4).span(shard, row=1)
    (19, 24)

    Attributes:
        begins: byte of the shard at which the table begins.
    """

    begins: int

    def span(self, data: UInt8, row: int) -> tuple[int, int]:
        """Return the bytes [begin, end) that row `row` takes, as the shard `data` says; they are not checked."""
        at = self.begins + 4 * row
        begin, end = data[at : at + 8].view("<u4").tolist()
        return begin, end


RowLayout = OffsetTable
"""Where the rows of a shard lie. A format whose rows have a fixed stride, or lie in spans, adds its own kind."""


class ShardEntry(Protocol):
    """One shard as the container's index describes it.

    Shards whose columns (names, encodings, sizes) are equal have rows of one kind, which are gathered together.
    """

    @property
    def samples(self) -> int:
        """Rows that the shard stores."""
        ...

    @property
    def raw(self) -> FileInfo:
        """The uncompressed file, whether or not it is stored."""
        ...

    @property
    def zip(self) -> FileInfo | None:
        """The compressed file; None if there is none."""
        ...

    @property
    def compression(self) -> str | None:
        """How it is compressed, as `formats.decompress` takes it."""
        ...

    @property
    def hashes(self) -> tuple[str, ...]:
        """Names of the hashes that the files carry."""
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns in the order in which they stand in a row."""
        ...

    @property
    def column_encodings(self) -> tuple[str, ...]:
        """Their encodings, in the words of MDS (`"ndarray:uint16:2048"`)."""
        ...

    @property
    def column_sizes(self) -> tuple[int | None, ...]:
        """Bytes of each column of fixed size; None for the others."""
        ...

    @property
    def columns(self) -> dict[str, str]:
        """Encoding of each column, by name."""
        ...


class Container(Protocol):
    """A dataset's shards in one file format."""

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """All shards, in order."""
        ...

    def rows(self, shard: int) -> RowLayout:
        """Return where the rows of shard `shard` lie."""
        ...

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """Check the bytes of a whole shard, once, before any row of it is used; `where` names the file in errors.

        Raises:
            ShardCorruptError: they are not what the index says.
        """
        ...

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """Return a row's bytes as column to value; `where` names file and row in errors.

        Raises:
            ShardCorruptError: the bytes are not a row of this shard.
        """
        ...
