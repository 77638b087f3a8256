"""A column of lists in a Parquet file: how many tokens its row groups have, by the footer, and what they are.

Rules. The footer is read once, with at most two reads. A leaf of lists has one value for each token, and one for each
list that is empty or null; statistics tell how many of these there are. What the footer says is an expectation: a row
group that has other lists or tokens is refused when it is read. Pages are read one after the other, so that memory is
bounded by some lists, whatever the size of a row group; their checksums are checked where they have any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, MixstreamError
from mixstream.formats.columns.arrow import read_exactly
from mixstream.formats.columns.index import Group
from mixstream.formats.columns.lists import Lists, as_little, refuse
from mixstream.formats.columns.schema import ListColumn, find_column
from mixstream.formats.columns.thrift import Each, Wanted, read_struct

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_TAIL = 1 << 16
_BUFFER = 1 << 22  # bytes of a column that are read at a time
_VALUES = 1 << 20  # that are decoded at a time, about
_COLUMN: Wanted = {3: {5: None, 7: None, 9: None, 11: None, 12: {3: None}}}
_GROUP: Wanted = {1: Each(_COLUMN), 3: None}
"""What is wanted of a row group: its rows, and of each column how many values and nulls it has, and where it lies."""


class RowGroup(NamedTuple):
    """What a footer says of the column in one row group; None for tokens if it does not say how many there are."""

    lists: int
    tokens: int | None


class Footer(NamedTuple):
    """The footer of a file; the names of all its columns."""

    metadata: pq.FileMetaData
    names: tuple[str, ...]
    column: ListColumn
    groups: tuple[RowGroup, ...]


def read_footer(stream: BinaryIO, size: int, column: str | None, *, where: str) -> Footer:
    """Return what the footer of a file of `size` bytes says of its column of token ids.

    Raises:
        ShardCorruptError: it is no Parquet file, or was cut short.
        ConfigError: it is encrypted, or has no column of token ids (`find_column`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tail = read_exactly(stream, max(size - _TAIL, 0), min(size, _TAIL), where=where)
    if tail[-4:] == _ENCRYPTED:
        raise _encrypted(where)
    if len(tail) < 12 or tail[-4:] != _MAGIC:
        refuse(where, f"it does not end with {_MAGIC.decode()}, so it is no Parquet file, or was cut short")
    (length,) = struct.unpack("<I", tail[-8:-4])
    if length + 12 > size:
        refuse(where, f"its footer would have {length} bytes, and the file has {size}")
    if length + 8 > len(tail):
        tail = read_exactly(stream, size - length - 8, length + 8, where=where)
    with _named(where):
        metadata = pq.read_metadata(pa.BufferReader(tail[-length - 8 :]))
        schema = metadata.schema.to_arrow_schema()
        names = tuple(schema.names)
    found = find_column(schema, column, where=where)
    leaf = sum(_leaves(field.type) for field in list(schema)[: found.number])
    with _named(where):
        facts, _ = read_struct(tail[-length - 8 : -8], {4: Each(_GROUP), 8: {}})
    if 8 in facts:  # its footer alone is not encrypted
        raise _encrypted(where)
    groups = tuple(_row_group(group, leaf, where) for group in facts.get(4, []))
    end = max((_end(column.get(3, {})) for group in facts.get(4, []) for column in group.get(1, [])), default=0)
    if end > size - length - 8:
        refuse(
            where, f"its columns end at byte {end}, by its footer, which begins at {size - length - 8}: bytes are lost"
        )
    return Footer(metadata, names, found, groups)


def open_table(stream: BinaryIO, metadata: pq.FileMetaData | None = None, *, where: str) -> pq.ParquetFile:
    """Return a file as pyarrow reads it, whose footer is read unless it is given.

    Raises:
        ShardCorruptError: the footer is damaged.
    """
    import pyarrow.parquet as pq

    with _named(where):
        return pq.ParquetFile(
            stream, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )


def at_a_time(group: RowGroup | Group) -> int:
    """Return how many lists of a row group are decoded at a time, by what is known of it."""
    return max(_VALUES // max((group.tokens or _VALUES) // max(group.lists, 1), 1), 1)


def read_lists(
    table: pq.ParquetFile, column: ListColumn, group: int, *, where: str, most: int = 64
) -> Iterator[tuple[Lists, NDArray[np.generic]]]:
    """Yield the lists of a row group, `most` at a time, with the values in which they lie.

    Raises:
        ShardCorruptError: the file is damaged, or there is a null among the token ids.
    """
    with _named(where):
        batches = table.iter_batches(batch_size=most, row_groups=[group], columns=[column.name], use_threads=False)
    while True:
        with _named(where):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.schema.names != [column.name]:
            refuse(where, f"reading column {column.name!r} gives {batch.schema.names}")
        yield lists_of(batch.column(0))


def lists_of(array: pa.Array) -> tuple[Lists, NDArray[np.generic]]:
    """Return an Arrow array of lists, which may be a slice, as positions and values.

    >>> import pyarrow as pa
    >>> lists, values = lists_of(pa.array([[7], [1, 2], None, [3]], pa.list_(pa.int32())).slice(1))
    >>> lists.length_N(where="here").tolist(), [values[begin:end].tolist() for begin, end in lists.ranges(0, 3)]
    ([2, 0, 1], [[1, 2, 3]])
    """
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    values = array.values
    if isinstance(array, pa.FixedSizeListArray):
        offset_N = (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * array.type.list_size
    else:
        offset_N = array.offsets.to_numpy().astype(np.int64)
    nulls_V = None
    if values.null_count:
        nulls_V = values.is_null().to_numpy(zero_copy_only=False)
        values = values.fill_null(0)
    valid_N = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    lists = Lists(offset_N=offset_N, valid_N=valid_N, values=len(values), nulls_V=nulls_V)
    return lists, as_little(values.to_numpy(zero_copy_only=True))


def _row_group(group: Mapping[int, Any], leaf: int, where: str) -> RowGroup:
    chunk = next(islice(group.get(1, []), leaf, None), {}).get(3, {})
    rows, values, nulls = group.get(3, -1), chunk.get(5, -1), chunk.get(12, {}).get(3)
    if rows < 0 or values < 0 or (nulls is not None and not 0 <= nulls <= values):
        refuse(where, f"a row group has {rows} rows, and {values} values of which {nulls} are null, by its footer")
    return RowGroup(rows, values - nulls if nulls is not None else 0 if not rows else None)


def _end(chunk: Mapping[int, int]) -> int:
    """Return the byte behind a column's pages in a row group; the dictionary is the first, if there is one."""
    pages, dictionary = chunk.get(9, 0), chunk.get(11, 0)
    return (dictionary if 0 < dictionary < pages else pages) + chunk.get(7, 0)


def _leaves(kind: pa.DataType) -> int:
    """Return how many leaf columns a column of an Arrow type has in a Parquet file."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if pa.types.is_dictionary(kind) or not kind.num_fields:
        return 1
    return sum(_leaves(kind.field(at).type) for at in range(kind.num_fields))


def _encrypted(where: str) -> ConfigError:
    return ConfigError(f"{where}: it is encrypted Parquet, which mixstream does not read; write it without encryption")


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turn errors of pyarrow into those of a damaged file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, MixstreamError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # of the store, or of the system; those of pyarrow have no number
        if "crypt" in str(error):
            raise _encrypted(where) from error
        head = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        refuse(where, f"the Parquet data is damaged or cut short: {head}", error)
