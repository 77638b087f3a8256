"""A shard of lists, computed from the row groups or batches that have its tokens.

Rules. Memory is that of the shard, and of some lists. What a file has is compared with what its index says: a row group
of other lists or tokens is refused, so that no row is made of tokens that another row has, or that lie elsewhere.

Shape suffixes: N lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from mixstream.formats.columns.arrow import Place, list_buffers
from mixstream.formats.columns.arrow_messages import Batch
from mixstream.formats.columns.index import ColumnFile, ColumnIndex, Group
from mixstream.formats.columns.lists import Lists, refuse
from mixstream.formats.columns.parquet import at_a_time, open_table, read_lists
from mixstream.formats.columns.raw import raw_bytes, write_table
from mixstream.formats.columns.schema import ListColumn
from mixstream.formats.columns.shards import ColumnShard
from mixstream.types import UInt8


class _Piece(NamedTuple):
    """Some lists that follow each other: where they lie, and what returns the bytes of a range of their values."""

    lists: Lists
    read: Callable[[int, int], UInt8]


def make_shard(index: ColumnIndex, part: ColumnShard, file: BinaryIO, *, where: str) -> UInt8:
    """Return the bytes of a shard, uint8, as `raw.py` says.

    Args:
        index: of the store.
        part: the shard.
        file: the whole file of which it is a part, seekable.
        where: names the file in errors.

    Raises:
        ShardCorruptError: the file is damaged, or has other lists than its index says.
    """
    size, source = index.itemsize, index.files[part.file]
    read = _reader(index, source, file, where)
    raw = np.zeros(raw_bytes(part.tokens, size, part.ends), dtype=np.uint8)
    before = source.groups[: part.groups.start]
    at = sum(group.tokens for group in before) - part.token  # where the next list begins, in tokens of the shard
    ends = []
    for group in part.groups:
        place = f"{where}, {'row group' if index.kind == 'parquet' else 'batch'} {group}"
        goes_on = at + source.groups[group].tokens > part.tokens
        lists = tokens = 0
        for piece in read(group, place):
            length_N = piece.lists.length_N(where=place)
            total = int(length_N.sum())
            if index.every is not None and (length_N != index.every).any():
                odd = length_N[length_N != index.every][0]
                refuse(
                    place, f"a list of {odd} tokens, where all others have {index.every}, so lists would not be rows"
                )
            _copy(piece, at, part.tokens, size, raw)
            end_N = np.cumsum(length_N) + at
            if index.row is None:
                ends.append(end_N)
            elif index.every is None:
                ends.append(end_N[(length_N > 0) & (end_N > 0) & (end_N <= part.tokens)])
            lists, tokens, at = lists + len(length_N), tokens + total, at + total
            if goes_on and at >= part.tokens:
                break
        else:
            _compare(index, source.groups[group], Group(lists, tokens), place)
    if at < part.tokens:
        refuse(where, f"it ends {part.tokens - at} tokens before those of the rows that its index names")
    write_table(raw, part.tokens, size, np.concatenate([np.empty(0, np.int64), *ends]))
    return raw


def _copy(piece: _Piece, at: int, tokens: int, size: int, raw: UInt8) -> None:
    """Copy those tokens of a piece, which begins at token `at` of a shard of `tokens`, that the shard has."""
    to = max(at, 0)
    for begin, end in piece.lists.ranges(max(-at, 0), max(tokens - at, 0)):
        raw[to * size : (to + end - begin) * size] = piece.read(begin, end)
        to += end - begin


def _compare(index: ColumnIndex, expected: Group, found: Group, where: str) -> None:
    if (found.lists, found.tokens) != (expected.lists, expected.tokens):
        refuse(
            where,
            f"it has {found.lists} lists of {found.tokens} tokens, and its index expects {expected.lists} of "
            f"{expected.tokens}" + (" by the footer, whose count of nulls is wrong" if index.kind == "parquet" else ""),
        )


def _reader(
    index: ColumnIndex, source: ColumnFile, file: BinaryIO, where: str
) -> Callable[[int, str], Iterator[_Piece]]:
    """Return what yields the lists of a row group or batch, by its number; errors name it as they are asked to."""
    column = ListColumn(index.column, source.number, index.dtype, source.length, source.wide)
    size = index.itemsize
    if index.kind == "parquet":
        table = open_table(file, where=where)

        def read_group(group: int, place: str) -> Iterator[_Piece]:
            for lists, values in read_lists(table, column, group, where=place, most=at_a_time(source.groups[group])):
                if values.dtype != index.dtype:
                    refuse(place, f"its ids are of {values.dtype}, and its index says {index.dtype}")
                flat = np.ascontiguousarray(values).view(np.uint8)
                yield _Piece(lists, lambda begin, end, flat=flat: flat[begin * size : end * size])

        return read_group

    def read_batch(group: int, place: str) -> Iterator[_Piece]:
        entry = source.groups[group]
        batch = Batch(entry.begin, entry.end, entry.lists, 0)
        buffers = list_buffers(file, batch, column, Place(*source.place), where=place)
        yield _Piece(buffers.read_lists(file), lambda begin, end: buffers.read_values(file, begin, end))

    return read_batch
