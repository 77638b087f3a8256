"""The index of a store of columns: a small JSON document that is made from the footers of its files.

    {"mixstream_columns": {"kind", "column", "dtype", "seq_len", "overlap", "every", "shard_bytes", "files": [...]}}

Rules: it has all that decides which shards there are, what tells one version of the files from another, and what is
expected to be in them; it is O(row groups), whatever the number of lists. Equal files and options give equal bytes.
"""

from typing import Literal

import msgspec
import numpy as np

from mixstream.errors import IndexCorruptError

Kind = Literal["parquet", "arrow"]


class Group(msgspec.Struct, frozen=True, array_like=True):
    """A row group of Parquet, or a batch of Arrow.

    Args:
        lists: how many it has.
        tokens: in all of them.
        begin: of a batch, the first byte of its message; 0 for a row group.
        end: the byte behind it.
        values: byte at which the tokens stand in the file, one after the other; -1 if they do not.
    """

    lists: int
    tokens: int
    begin: int = 0
    end: int = 0
    values: int = -1


class ColumnFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file.

    Args:
        name: below the directory of the store.
        bytes: its size.
        version: what the store says of its version.
        number: place of the column in the file.
        length: of every list, if the column's type says it.
        wide: whether positions of lists take 8 bytes.
        place: nodes, buffers and arrays of views before the column in each Arrow batch.
        groups: in their order.
    """

    name: str
    bytes: int
    version: str
    number: int
    length: int | None
    wide: bool
    place: tuple[int, int, int]
    groups: tuple[Group, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all its lists."""
        return sum(group.tokens for group in self.groups)


class ColumnIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A store of columns, and how it is read.

    Args:
        kind: of its files.
        column: name of the column of token ids.
        dtype: of the ids.
        seq_len: tokens from the begin of a row to that of the next; None if lists are samples.
        overlap: tokens of a row beyond that, which are also the first ones of the next row: 0 or 1.
        every: the length of all lists, if they have one and are rows, or rows are cut out of them; None otherwise.
        shard_bytes: `SHARD_BYTES`, as of token files, when the index was made.
        files: in the order in which they are read.
    """

    kind: Kind
    column: str
    dtype: str
    seq_len: int | None
    overlap: int
    every: int | None
    shard_bytes: int
    files: tuple[ColumnFile, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return np.dtype(self.dtype).itemsize

    @property
    def row(self) -> tuple[int, int] | None:
        """Tokens from the begin of a row to that of the next, and tokens of a row; None if lists are documents."""
        if self.every is not None and (self.seq_len is None or self.seq_len + self.overlap == self.every):
            return self.every, self.every
        return None if self.seq_len is None else (self.seq_len, self.seq_len + self.overlap)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mixstream_columns: ColumnIndex


_decode = msgspec.json.Decoder(_Document).decode  # made here: threads that are the first to decode one type can crash


def dump_column_index(index: ColumnIndex) -> bytes:
    """Return the bytes of an index: the same for equal indexes."""
    return msgspec.json.encode(_Document(index))


def parse_column_index(data: bytes, *, where: str) -> ColumnIndex:
    """Return the index that `dump_column_index` wrote; `where` names the file in errors.

    Raises:
        IndexCorruptError: it is none.
    """
    try:
        return _decode(data).mixstream_columns
    except msgspec.DecodeError as error:
        raise IndexCorruptError(
            f"{where}: not the index of columns of tokens ({error}); another version of mixstream may have made it: "
            "remove it"
        ) from error
