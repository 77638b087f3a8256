"""What one file has of a column of token ids, without its tokens: the lists and tokens of its row groups or batches.

Rules. Of a Parquet file the footer is read; of an Arrow file, which has none that tells this, the positions of all
lists, since the metadata of batches counts values that no list covers too. Nothing else is read, but for Parquet
without statistics, whose lists are counted by reading them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.formats.columns.arrow import buffered, list_buffers, place_in, read_exactly, read_layout, read_schema
from mixstream.formats.columns.arrow_messages import CONTINUED, FILE_MAGIC, Batch
from mixstream.formats.columns.index import ColumnFile, Group, Kind
from mixstream.formats.columns.lists import one_length, refuse
from mixstream.formats.columns.parquet import at_a_time, open_table, read_footer, read_lists
from mixstream.formats.columns.schema import MASK, TARGETS, ListColumn, find_column
from mixstream.records import dataclass

if TYPE_CHECKING:
    import pyarrow as pa

_HEAD = 64  # lists of which other columns are compared with the token ids


class Described(Protocol):
    """What is known of a file."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def identity(self) -> str:
        """What changes whenever the file does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """What a file says.

    Attributes:
        kind: of the file: "parquet" or "arrow".
        dtype: of its token ids.
        column: the name of its column.
        every: the length that all its lists have, as far as is known without reading them; -1 if they differ, None if
            there are none.
        file: its entry in the index.
    """

    kind: Kind
    dtype: str
    column: str
    every: int | None
    file: ColumnFile


def describe(file: BinaryIO, name: str, known: Described, column: str | None, *, where: str) -> ColumnFacts:
    """Return what a file has of its column of token ids.

    Args:
        file: the file, seekable; it may be one of a store, of which the ranges are fetched that are read.
        name: below the directory of the store.
        known: its size and version.
        column: the name that the user gave; None for `schema.NAMES`.
        where: names the file in errors.

    Raises:
        ShardCorruptError: it is damaged, or was cut short.
        ConfigError: it is neither Parquet nor Arrow, is encrypted, or has no column of token ids.
    """
    with buffered(file) as stream:
        head = read_exactly(stream, 0, min(8, known.size), where=where)
        if head.startswith(b"PAR"):
            return _parquet(stream, name, known, column, where)
        if head.startswith((FILE_MAGIC, CONTINUED)):
            return _arrow(stream, name, known, column, where)
    raise ConfigError(
        f"{where}: neither a Parquet nor an Arrow file: it begins with {head!r} (Feather of version 1 and "
        "compressed files are not read); write it again, or leave it out"
    )


def check_others(file: BinaryIO, facts: ColumnFacts, *, where: str) -> None:
    """Refuse a file whose other columns say that some of the tokens are not to be learned, or are padding.

    The first lists are compared: labels have to be the token ids, as they are or shifted, and masks all ones.

    Raises:
        ConfigError: they are not.
    """
    first = next((at for at, group in enumerate(facts.file.groups) if group.lists), None)
    if first is None:
        return
    with buffered(file) as stream:
        schema, read = (_parquet_head if facts.kind == "parquet" else _arrow_head)(stream, facts, first, where)
        names = [name for name in (*TARGETS, MASK) if name in schema.names and name != facts.column]
        for name in names:
            # A label that is no list is one of a whole text.
            if hasattr(schema.field(name).type, "value_type") and not _is_implied(read, facts.column, name):
                what = "marks padding" if name == MASK else "says which tokens are learned"
                raise ConfigError(
                    f"{where}: column {name!r} {what}, and differs from the token ids: what it says would be lost; "
                    f"write the tokens that count into a column of their own, or pass column={facts.column!r}"
                )


def begins_with_lists_of(file: BinaryIO, facts: ColumnFacts, length: int, *, where: str) -> bool:
    """Return whether the first lists of a Parquet file, about a million tokens, have this length."""
    first = next((at for at, group in enumerate(facts.file.groups) if group.lists), None)
    if first is None or facts.kind != "parquet":
        return True
    footer = read_footer(file, facts.file.bytes, facts.column, where=where)
    table = open_table(file, footer.metadata, where=where)
    most = at_a_time(facts.file.groups[first])
    lists, _ = next(read_lists(table, footer.column, first, where=where, most=most))
    return bool((lists.length_N(where=where) == length).all())


def _is_implied(read: _ReadHead, column: str, other: str) -> bool:
    """Return whether a column says nothing that the token ids do not say, in the first lists."""
    try:
        pairs = list(zip(read(column), read(other)))
    except ConfigError:  # no integers
        return False
    if any(len(ids) != len(found) for ids, found in pairs):
        return False
    if other not in {"labels", "label_ids"}:
        return all(bool(found.all()) for _, found in pairs)
    is_shifted = all(np.array_equal(ids[1:], found[:-1]) for ids, found in pairs)
    return is_shifted or all(np.array_equal(ids, found) for ids, found in pairs)


def _parquet(stream: BinaryIO, name: str, known: Described, column: str | None, where: str) -> ColumnFacts:
    footer = read_footer(stream, known.size, column, where=where)
    found, groups, every = footer.column, [], footer.column.length
    for number, group in enumerate(footer.groups):
        tokens = group.tokens
        if tokens is None:
            if not groups or all(each.tokens is not None for each in footer.groups[:number]):
                warnings.warn(
                    f"{where}: row groups of column {found.name!r} have no statistics, so their tokens are counted by "
                    "reading all of them, at every start; write the file with statistics",
                    RuntimeWarning,
                    stacklevel=2,
                )
            lists = read_lists(open_table(stream, footer.metadata, where=where), found, number, where=where)
            tokens = sum(int(each.length_N(where=where).sum()) for each, _ in lists)
        if tokens < 0:
            refuse(where, f"row group {number} would have {tokens} tokens, by its footer")
        groups.append(Group(group.lists, tokens))
        if group.lists and every != -1:
            each, rest = divmod(tokens, group.lists)
            every = each if not rest and every in (None, each) else -1
    return _facts("parquet", found, every, name, known, place=(0, 0, 0), groups=groups)


def _arrow(stream: BinaryIO, name: str, known: Described, column: str | None, where: str) -> ColumnFacts:
    layout, schema = read_layout(stream, known.size, where=where)
    found = find_column(schema, column, where=where)
    place, groups, every = place_in(schema, found, where=where), [], None
    itemsize = np.dtype(found.dtype).itemsize
    for number, batch in enumerate(layout.batches):
        at = f"{where}, batch {number}"
        buffers = list_buffers(stream, batch, found, place, where=at)
        lists = buffers.read_lists(stream)
        length_N = lists.length_N(where=at)
        tokens = int(length_N.sum())
        every = one_length(length_N, every)
        ranges = lists.ranges(0, tokens)
        is_plain = buffers.codec is None and len(ranges) == 1
        values = buffers.data.begin + ranges[0][0] * itemsize if is_plain else -1
        groups.append(Group(len(lists), tokens, batch.begin, batch.end, values))
    before = place.nodes, place.buffers, place.views
    return _facts("arrow", found, every, name, known, place=before, groups=groups)


def _facts(
    kind: Kind,
    found: ListColumn,
    every: int | None,
    name: str,
    known: Described,
    *,
    place: tuple[int, int, int],
    groups: Sequence[Group],
) -> ColumnFacts:
    file = ColumnFile(
        name=name,
        bytes=known.size,
        version=known.identity,
        number=found.number,
        length=found.length,
        wide=found.wide,
        place=place,
        groups=tuple(groups),
    )
    return ColumnFacts(kind=kind, dtype=found.dtype, column=found.name, every=every, file=file)


class _ReadHead(Protocol):
    def __call__(self, column: str) -> list[NDArray[Any]]:
        """Return the first lists of a column."""
        ...


def _parquet_head(stream: BinaryIO, facts: ColumnFacts, group: int, where: str) -> tuple[pa.Schema, _ReadHead]:
    footer = read_footer(stream, facts.file.bytes, facts.column, where=where)
    schema, table = footer.metadata.schema.to_arrow_schema(), open_table(stream, footer.metadata, where=where)

    def read(column: str) -> list[NDArray[Any]]:
        found = find_column(schema, column, where=where)
        lists, values = next(read_lists(table, found, group, where=where, most=_HEAD))
        return _first(lists.offset_N, values)

    return schema, read


def _arrow_head(stream: BinaryIO, facts: ColumnFacts, group: int, where: str) -> tuple[pa.Schema, _ReadHead]:
    schema = read_schema(stream, where=where)
    entry = facts.file.groups[group]
    batch = Batch(entry.begin, entry.end, entry.lists, 0)

    def read(column: str) -> list[NDArray[Any]]:
        found = find_column(schema, column, where=where)
        buffers = list_buffers(stream, batch, found, place_in(schema, found, where=where), where=where)
        offset_N = buffers.read_lists(stream).offset_N[: _HEAD + 1]
        begin, end = int(offset_N[0]), int(offset_N[-1])
        return _first(offset_N - begin, buffers.read_values(stream, begin, end).view(found.dtype))

    return schema, read


def _first(offset_N: NDArray[np.int64], values: NDArray[Any]) -> list[NDArray[Any]]:
    pairs = zip(offset_N[:_HEAD].tolist(), offset_N[1 : _HEAD + 1].tolist())
    return [values[begin:end] for begin, end in pairs]
