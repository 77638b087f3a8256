"""CSV and TSV: a row is a document. The first row names the columns.

Fields may be quoted, as RFC 4180 says: a quoted one holds delimiters and line ends as they are, and `""` for a quote.
TSV has tabs. The delimiter of CSV is the first of `,` `;` tab `|` that its first row has outside of quotes.

Rules. A row with more or fewer fields than the first is bad. Where quotes are not as they should be, the end of a row
is not known, so the rest of the file is reported as lost: it may be the inside of a text. Memory is bounded by a row.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import BinaryIO

from mixstream.units import show_bytes

from ..files.source_files import OnBytes, Slice, SourceError, open_slice
from .reader import Columns, OnBad, Reader, Record, Records

_MOST = 256 << 20  # bytes of a line, and characters of a field
_DELIMITERS = ",;\t|"
_RETURN = re.compile(r"\r(?!\n|\Z)")
_END = re.compile(r"(?<=\r)(?!\n|\Z)")
_STAND_IN = "\ud800"  # for a return that ends no line, which Python's parser refuses; no text has it
_EXCERPT = 200  # characters of a row


def read_csv(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the rows of a CSV file as records."""
    return _read(source, columns, on_bad, on_bytes, None)


def read_tsv(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the rows of a file with tabs as records."""
    return _read(source, columns, on_bad, on_bytes, "\t")


def delimiter_of(first_row: str) -> str:
    """The delimiter of a table, by its first row.

    >>> delimiter_of('"id, or number";text')
    ';'
    """
    for delimiter in _DELIMITERS:
        if len(next(csv.reader([first_row], delimiter=delimiter), [])) > 1:
            return delimiter
    return _DELIMITERS[0]


def _read(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes, delimiter: str | None) -> Records:
    path, number, begin = source.file.path, 0, 1
    csv.field_size_limit(_MOST)
    with open_slice(source, on_bytes) as stream:
        try:
            lines = _Lines(stream)
            rows = csv.reader(lines, delimiter=delimiter or delimiter_of(lines.peek()), strict=True)
            names = next((row for row in rows if row), None)
            if names is None:
                return 0
            wanted = _wanted(path, names, columns)
            begin = lines.count + 1
            for number, row in enumerate(rows, 1):
                line, begin = begin, lines.count + 1
                if len(row) == len(names):
                    value = {name: row[at] for at, name in wanted}
                    if lines.has_returns:
                        value = {name: field.replace(_STAND_IN, "\r") for name, field in value.items()}
                    yield Record(value, number - 1, line)
                elif row:
                    on_bad(
                        f"{path}, line {line}: {len(row)} fields, and the first row names {len(names)} columns",
                        record=number - 1,
                        excerpt=repr(row)[:_EXCERPT],
                    )
        except (csv.Error, _LongLineError) as error:
            lost = "where this row ends is not known, so the rest of the file is lost"
            on_bad(f"{path}, line {begin}: {_explained(error)}; {lost}", record=number)
            number += 1
    return number


def _wanted(path: str, names: list[str], columns: Columns) -> list[tuple[int, str]]:
    """Place and name of the columns that are needed; all, where one is not there, so that errors can name them."""
    twice = [name for name, count in Counter(names).items() if count > 1 and (columns is None or name in columns)]
    if twice:
        raise SourceError(
            f"{path}: {Counter(names)[twice[0]]} columns are called {twice[0]!r}, so it is not clear which one is "
            "meant. The first row has to name each column once: rename them, or put such a row in front"
        )
    all_there = columns is not None and columns <= {*names}
    return [(at, name) for at, name in enumerate(names) if columns is None or not all_there or name in columns]


def _explained(error: Exception) -> str:
    text = str(error)
    if "field larger" in text:
        return f"a field of more than {show_bytes(_MOST)}, or a quote that is not closed"
    if "unexpected end of data" in text:
        return "a quote is not closed"
    return f"not CSV: {text}" if isinstance(error, csv.Error) else text


class _LongLineError(ValueError):
    """A line is too long."""


class _Lines:
    """The lines of a stream as text with their ends, and how many were taken.

    Bytes that are no UTF-8 become lone surrogates, so that they spoil one document and not the file. A return alone
    ends a line if it does so in the first line. Else it belongs to a field, which the writers of Python and pandas do
    not quote then; it is `_STAND_IN`, and `has_returns` says that there was one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead: deque[str] = deque()
        self.count, self.has_returns = 0, False
        line = self._line().removeprefix("\ufeff")
        self._returns_end = _RETURN.search(line) is not None
        self._add(line)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self._ahead:
            self._add(self._line())
        if not self._ahead:
            raise StopIteration
        self.count += 1
        return self._ahead.popleft()

    def peek(self) -> str:
        """The first line; empty if there is none."""
        return self._ahead[0] if self._ahead else ""

    def _line(self) -> str:
        line = self._stream.readline(_MOST)
        if len(line) == _MOST and not line.endswith(b"\n"):
            raise _LongLineError(f"a line of more than {show_bytes(_MOST)}")
        return line.decode(errors="surrogateescape")

    def _add(self, line: str) -> None:
        if "\r" in line and _RETURN.search(line) is not None:
            if self._returns_end:
                self._ahead.extend(_END.split(line))
                return
            self.has_returns = True
            line = _RETURN.sub(_STAND_IN, line)
        if line:
            self._ahead.append(line)


CSV = Reader(suffixes=frozenset({".csv"}), records=read_csv, place=lambda source, record: f"line {record.at}")
TSV = Reader(suffixes=frozenset({".tsv", ".tab"}), records=read_tsv, place=lambda source, record: f"line {record.at}")
