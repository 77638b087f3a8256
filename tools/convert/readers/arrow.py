"""Arrow: files, of which Feather is one, and streams as `save_to_disk` of Hugging Face writes them.

A row is a document. A slice has the batches that begin in its bytes.

Rules. Memory is bounded by some rows, whatever the size of a batch: a large one is mapped (arrow_bytes.py), and
decompressed on disk before that (arrow_unpack.py). Every array is validated before a value of it is read: Arrow has no
checksums, and lengths that lie would crash the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

from mixstream.formats.columns import CONTINUED, FILE_MAGIC, Layout, layout_of

from ..files.source_files import DamagedFileError, OnBytes, Slice, SourceFile, open_random
from .arrow_bytes import HELD, ArrowBytes, Range
from .arrow_tables import Progress, columns_to_read, named_errors
from .arrow_unpack import unpack
from .arrow_values import bytes_type, rows_of
from .reader import Columns, OnBad, Reader, Record, Records

if TYPE_CHECKING:
    import pyarrow as pa

_REPORTED = 256  # rows


def read_arrow(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the rows of the slice's batches as records; their number is that of the row in the file."""
    file = source.file
    with open_random(file) as stream, named_errors(file, "Arrow"):
        try:
            layout = _layout(replace(file, fields=None))
        except DamagedFileError:
            if source.stop < file.size:
                return 0  # the slice that has the footer reports it
            raise
        number = first = sum(batch.rows for batch in layout.batches if batch.begin < source.start)
        mine = [at for at, batch in enumerate(layout.batches) if source.start <= batch.begin < source.stop]
        progress = Progress(on_bytes, source, sum(layout.batches[at].rows for at in mine))
        for value in _rows(stream, file, layout, mine, columns):
            yield Record(value, number)
            number += 1
            if not number % _REPORTED:
                progress.read(number - first)
        if layout.damage is not None and source.start <= layout.damage[0] < source.stop:
            raise DamagedFileError(f"{file.path}: the Arrow data is damaged: {layout.damage[1]}")
        progress.end()
        return number - first


@lru_cache(maxsize=8)
def _layout(file: SourceFile) -> Layout:
    """Where the batches lie; kept, since each slice of a file asks for it."""
    with open_random(file) as stream:
        try:
            return layout_of(stream, file.size)
        except ValueError as error:
            raise DamagedFileError(f"{file.path}: the Arrow data is damaged: {error}") from error


def _rows(
    stream: BinaryIO, file: SourceFile, layout: Layout, mine: list[int], columns: Columns
) -> Iterator[dict[str, object]]:
    """The rows of some batches; a large compressed one is decompressed on disk."""
    for numbers in _runs(layout, mine):
        ranges = [Range(stream, *each) for each in layout.stream_of(numbers)]
        if layout.batches[numbers[0]].unpacked <= HELD:
            yield from _rows_of_stream(ranges, file, layout, numbers, columns)
            continue
        with tempfile.TemporaryFile() as copy:
            ranges[-1] = Range(copy, 0, unpack(stream, layout.batches[numbers[0]], copy))
            yield from _rows_of_stream(ranges, file, layout, numbers, columns)


def _runs(layout: Layout, mine: list[int]) -> Iterator[list[int]]:
    """Batches that are read together: all up to one that takes much memory decompressed, and that one alone."""
    run: list[int] = []
    for at in mine:
        if layout.batches[at].unpacked <= HELD:
            run.append(at)
            continue
        if run:
            yield run
        yield [at]
        run = []
    if run:
        yield run


def _rows_of_stream(
    ranges: list[Range], file: SourceFile, layout: Layout, numbers: list[int], columns: Columns
) -> Iterator[dict[str, object]]:
    """The rows of a stream of some batches."""
    import pyarrow as pa

    place = ArrowBytes(ranges, before=layout.schema)
    source = pa.PythonFile(place, mode="r")
    schema = pa.ipc.open_stream(source).schema
    names = columns_to_read(file, schema.names, columns)
    chosen = [] if names is None else [schema.get_field_index(name) for name in names]
    source.seek(0)
    reader = pa.ipc.open_stream(source, options=pa.ipc.IpcReadOptions(use_threads=False, included_fields=chosen))
    for at in numbers:
        # No name holds the batch, so it is gone before the next one is read.
        yield from rows_of(_read(reader, file, at, layout.batches[at].rows), on_step=place.release)


def _read(reader: pa.ipc.RecordBatchStreamReader, file: SourceFile, at: int, rows: int) -> pa.RecordBatch:
    """The next batch, if its offsets and indices lie inside of it; text that is no UTF-8 is met later, row by row."""
    batch = reader.read_next_batch()
    if batch.num_rows != rows:
        raise DamagedFileError(f"{file.path}: batch {at} has {batch.num_rows} rows and not {rows}")
    for column in batch.columns:
        column.view(bytes_type(column.type)).validate(full=True)
    return batch


ARROW = Reader(
    suffixes=frozenset({".arrow", ".feather", ".ipc"}),
    magic=(FILE_MAGIC + b"\0\0", CONTINUED),
    records=read_arrow,
    place=lambda source, record: f"row {record.number}",
    divisible=True,
)
