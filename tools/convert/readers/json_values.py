"""JSON files whose values span lines: an array of objects, or objects one after another. Each object is one document.

Memory is bounded by the largest object, not by the file. A document that is not as it should be is reported and the
next is read; where the file is no JSON any more, the rest is reported as lost, because no end of a value is known.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mixstream.units import show_bytes

from ..files.source_files import OnBytes, Slice, open_slice
from .reader import Columns, OnBad, Reader, Record, Records

_BLOCK = 1 << 20
_MAX_VALUE = 256 << 20  # characters
_NEAR_END = 16  # characters; an error closer to the end of what was read may be due to what was not
_SPACE = re.compile(r"[ \t\n\r]*")
_MARK = "\ufeff"
_decoder = json.JSONDecoder()


class Value(NamedTuple):
    """A value, and the number of the line where it begins."""

    value: object
    line: int


def values_of(stream: BinaryIO) -> Iterator[Value]:
    """Yield the values of a stream; raises ValueError where it is no JSON any more.

    >>> import io
    >>> [each.value for each in values_of(io.BytesIO(b'[{"text": "a"}, 7]'))]
    [{'text': 'a'}, 7]
    """
    return _Values(stream)


def read_json(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the file's values as records."""
    number = 0
    with open_slice(source, on_bytes) as stream:
        values = _Values(stream)
        while True:
            try:
                value, line = next(values)
            except StopIteration:
                return number
            except ValueError as error:
                on_bad(
                    f"{source.file.path}, line {values.line}: not JSON: {error}; the rest of it is lost",
                    record=number,
                    reason="not-json",
                )
                return number
            yield Record(value, number, line)
            number += 1


class _Values:
    """The elements of the array that a stream holds, or its values one after another.

    Bytes that are no UTF-8 become lone surrogates, so that they spoil one document and not the file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at, self._ended = "", 0, False
        self.line = 1
        self._read(_BLOCK)
        self._at = len(_MARK) if self._text.startswith(_MARK) else 0
        while self._peek() in {"#", "/"}:  # comments before the first value, as in JSON Lines
            self._skip_line()
        self._is_array = self._peek() == "["
        self._move(self._at + self._is_array)
        self._first = True

    def __iter__(self) -> Iterator[Value]:
        return self

    def __next__(self) -> Value:
        char = self._peek()
        if self._is_array:
            if char == "]":
                self._move(self._at + 1)
                if self._peek():
                    raise ValueError("there is more after the end of the array")
                self._is_array = False
                raise StopIteration
            if char and not self._first:
                if char != ",":
                    raise ValueError(f"{char!r} where ',' is due")
                self._move(self._at + 1)
                char = self._peek()
            if not char:
                raise ValueError("the file ends inside the array")
            self._first = False
        elif not char:
            raise StopIteration
        return self._value()

    def _value(self) -> Value:
        """Decode the value that begins here, with as much of the stream as it takes."""
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _NEAR_END
                if self._ended or not may_go_on:
                    raise ValueError(f"{error.msg}, {error.pos - self._at} characters into the value") from None
            else:
                if end < len(self._text) or self._ended:  # a number at the end of what was read may go on
                    line = self.line
                    self._move(end)
                    return Value(value, line)
            size = len(self._text) - self._at
            if size > _MAX_VALUE:
                raise ValueError(f"a value of more than {show_bytes(_MAX_VALUE)}")
            self._read(min(max(_BLOCK, size), _MAX_VALUE + _BLOCK - size))

    def _peek(self) -> str:
        """Move to the next character that is not a space and return it; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._move(found.end() if found else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read(_BLOCK)

    def _skip_line(self) -> None:
        while (end := self._text.find("\n", self._at)) < 0 and not self._ended:
            self._move(len(self._text))
            self._read(_BLOCK)
        self._move(end if end >= 0 else len(self._text))

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _read(self, size: int) -> None:
        """Read more of the stream; what was passed is forgotten."""
        block = self._stream.read(size)
        self._ended = not block
        more = self._decode(block, final=not block)
        del block  # a value may be large: no copy more than is needed
        self._text, self._at = self._text[self._at :] + more, 0


JSON = Reader(suffixes=frozenset({".json"}), records=read_json, place=lambda source, record: f"line {record.at}")
