"""JSON Lines: a line is one document. A slice has the lines whose first byte lies in it.

Blank lines, and comments after `#` or `//`, hold no document and are skipped.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypedDict

import msgspec

from mixstream.units import show_bytes

from ..files.source_files import OnBytes, Slice, lines_before, open_slice
from .field_values import BadDocumentError
from .reader import Columns, OnBad, Reader, Record, Records

_MAX_LINE = 256 << 20
_PIECE = 1 << 20
_EXCERPT = 200  # bytes of a line that is no JSON


def read_jsonl(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield the slice's lines as records; their number is that of the line in the slice."""
    decode = _line_decoder(columns)
    count = -1
    with open_slice(source, on_bytes) as stream:
        offset = first = _begin(stream, source)
        while source.file.compression or offset < source.stop:
            line = stream.readline(_PIECE)
            if not line:
                break
            count += 1
            size = len(line)
            if size == _PIECE and not line.endswith(b"\n"):
                line, size = _read_long(stream, line)
            offset += size
            try:
                if size > len(line):
                    raise BadDocumentError(f"the line is longer than {show_bytes(_MAX_LINE)}", "too-long")
                if not count and not first:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if is_blank(line):
                    continue
                value = decode(line)
            except ValueError as error:
                at = _place(source, Record(None, count, first))
                excerpt = line[:_EXCERPT].decode(errors="replace")
                reason = getattr(error, "reason", "not-json")
                on_bad(f"{source.file.path}, {at}: {error}", record=count, excerpt=excerpt, reason=reason)
                continue
            line = b""  # it may be long, and is no longer needed
            yield Record(value, count, first)
    return count + 1


def _begin(stream: Any, source: Slice) -> int:
    """Move to the first line that begins in a slice; returns its byte."""
    if not source.start:
        return 0
    stream.seek(source.start - 1)
    return source.start - 1 + _skip_line(stream)


def _place(source: Slice, record: Record) -> str:
    """`line 7`, counted from 1 in the whole file; far inside an object, counted from a byte."""
    before = _lines_before(source.file, record.at)
    if before is None:
        return f"line {record.number + 1} of those from byte {record.at} on"
    return f"line {before + record.number + 1}"


_lines_before = lru_cache(maxsize=8)(lines_before)

JSONL = Reader(
    suffixes=frozenset({".jsonl", ".ndjson"}),
    records=read_jsonl,
    place=_place,
    divisible=True,
    numbered_by="slice",
)


def is_blank(line: bytes) -> bool:
    """Whether a line has no document: it is blank, or a comment (JSON has none, but files of JSON Lines do)."""
    stripped = line.lstrip()
    return not stripped or stripped.startswith((b"#", b"//"))


def _read_long(stream: Any, head: bytes) -> tuple[bytes, int]:
    """Read what follows `head` in its line; returns the line, or its beginning if it is too long, and its length."""
    pieces, size = [head], len(head)
    while size < _MAX_LINE:
        piece = stream.readline(min(_PIECE, _MAX_LINE - size))
        pieces.append(piece)
        size += len(piece)
        if not piece or piece.endswith(b"\n"):
            return b"".join(pieces), size
    pieces.clear()  # what is skipped takes no memory
    return head, size + _skip_line(stream)


def _skip_line(stream: Any) -> int:
    """Read to the beginning of the next line; returns the number of bytes skipped."""
    skipped = 0
    while line := stream.readline(_PIECE):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def _line_decoder(columns: Columns) -> Callable[[bytes], object]:
    """A function from a line to its value that raises ValueError with what is wrong.

    msgspec decodes only the fields that are needed, several times as fast as a whole object. A line that it refuses, or
    that lacks one of them, is decoded again by `json`, which accepts what other writers produce (NaN, for example),
    gives a readable error, and all fields for the error that follows.
    """
    if columns is None or any("." in name for name in columns):
        return _decode_slowly
    record = TypedDict("Record", dict.fromkeys(columns, Any))  # pyright: ignore  # msgspec skips what it does not name
    quick: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)

    def decode(line: bytes) -> object:
        try:
            return quick.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _decode_slowly(line)

    return decode


def _decoded(line: bytes) -> str:
    """The line as text. Bytes that are no UTF-8 are surrogates, as in json_values.py: they spoil one field only."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        text = line.decode(errors="surrogateescape")
        with suppress(json.JSONDecodeError, RecursionError):
            if isinstance(json.loads(text), dict):
                return text
        raise BadDocumentError(f"not UTF-8: byte {error.start} of the line, {error.reason}", "not-utf8") from None


def _decode_slowly(line: bytes) -> object:
    try:
        return json.loads(_decoded(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON document: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not a JSON document: nested too deeply") from None
