"""Parquet: a row is a document. A slice has whole row groups.

Rules. Memory is bounded by some pages of the needed columns and by `_BATCH_BYTES` of rows, whatever the size of a row
group: columns are read page by page, and no more rows at a time than fit. Checksums of pages are checked where the file
has them, and so is the number of rows: a file that holds fewer than its footer says is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from ..files.source_files import DamagedFileError, OnBytes, Slice, open_random
from .arrow_tables import Progress, columns_to_read, groups_of, named_errors
from .arrow_values import rows_of
from .reader import Columns, OnBad, Reader, Record, Records

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_BUFFER, _BUFFER_OF_STORE = 1 << 20, 2 << 20  # bytes of a column that are read at a time
_BATCH_BYTES = 4 << 20
_MOST_ROWS = 1024


def read_parquet(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the rows of the slice's row groups as records; their number is that of the row in the file."""
    file = source.file
    with open_random(file) as stream, named_errors(file, "Parquet"):
        try:
            table = _open(stream, source)
        except DamagedFileError:
            if source.stop < file.size:
                return 0  # the slice that has the footer reports it
            raise
        names = columns_to_read(file, table.schema_arrow.names, columns)
        rows = [table.metadata.row_group(at).num_rows for at in range(table.num_row_groups)]
        groups, leaves = groups_of(source, len(rows)), _leaves(table, names)
        number = first = sum(rows[: groups.start])
        total = sum(rows[at] for at in groups)
        progress = Progress(on_bytes, source, total)
        for group in groups:
            begin = number
            _check_readable(table, group, names)
            for batch in table.iter_batches(
                batch_size=_rows_at_a_time(table.metadata.row_group(group), leaves),
                row_groups=[group],
                columns=names,
                use_threads=False,
            ):
                for value in rows_of(batch):
                    yield Record(value, number)
                    number += 1
                progress.read(number - first)
            if number - begin != rows[group]:
                raise DamagedFileError(
                    f"{file.path}: row group {group} holds {number - begin} rows, and its footer says {rows[group]}"
                )
        progress.end()
        return total


def _open(stream: BinaryIO, source: Slice) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    with named_errors(source.file, "Parquet"):
        buffer = _BUFFER if source.file.stored is None else _BUFFER_OF_STORE
        return pq.ParquetFile(stream, buffer_size=buffer, pre_buffer=False, page_checksum_verification=True)


def _check_readable(table: pq.ParquetFile, group: int, names: list[str] | None) -> None:
    """Read a row; raises what pyarrow says of encrypted columns, while asking for their sizes ends the process."""
    next(table.iter_batches(batch_size=1, row_groups=[group], columns=names, use_threads=False), None)


def _leaves(table: pq.ParquetFile, names: list[str] | None) -> list[int]:
    """The numbers of the needed columns, as a footer counts them: each field of a struct is one."""
    schema = table.schema
    paths = [schema.column(at).path for at in range(len(schema))]
    return [at for at, path in enumerate(paths) if names is None or path in names or path.partition(".")[0] in names]


def _rows_at_a_time(group: pq.RowGroupMetaData, leaves: list[int]) -> int:
    """How many rows of a row group fit into memory, by the sizes that its footer names.

    A value in a dictionary may stand in every row, so a row may be as large as a dictionary page.
    """
    row = 1
    for chunk in map(group.column, leaves):
        size, stored = max(chunk.total_uncompressed_size, 0), max(chunk.total_compressed_size, 1)
        row += size // max(group.num_rows, 1)
        if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
            row += size * max(chunk.data_page_offset - chunk.dictionary_page_offset, 0) // stored
    return max(1, min(_BATCH_BYTES // row, _MOST_ROWS, max(group.num_rows, 1)))


PARQUET = Reader(
    suffixes=frozenset({".parquet", ".pq"}),
    magic=(b"PAR1",),
    records=read_parquet,
    place=lambda source, record: f"row {record.number}",
    divisible=True,
)
