"""JSON Lines: a line is one document. A slice has the lines whose first byte lies in it.

Blank lines, and comments after `#` or `//`, hold no document and are skipped.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mixstream.units import show_bytes

from ..files import OnBytes, Slice, lines_before, open_slice
from .documents import checked, document_of
from .reader import Fields, OnBad, Piece, Reader, pieces_of

_MAX_LINE = 256 << 20


def read_jsonl(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
    """Yield the slice's lines as documents."""
    decode = _line_decoder(fields)
    with open_slice(source, on_bytes) as stream:
        offset = first = source.start
        if source.start:
            stream.seek(source.start - 1)
            offset = first = source.start - 1 + _skip_line(stream)
        count, before = 0, -1
        while source.file.compression or offset < source.stop:
            line = stream.readline(_MAX_LINE)
            if not line:
                break
            count += 1
            offset += len(line)
            try:
                if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                    offset += _skip_line(stream)
                    raise ValueError(f"the line is longer than {show_bytes(_MAX_LINE)}")
                if count == 1 and not first:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if is_blank(line):
                    continue
                text, domain = decode(line)
            except ValueError as error:
                before = lines_before(source.file, first) if before < 0 else before
                on_bad(f"{source.file.path}, line {before + count}: {error}")
                continue
            yield from pieces_of(text, domain)


JSONL = Reader(
    suffixes=frozenset({".jsonl", ".ndjson"}),
    read=read_jsonl,
    divisible=True,
    has_fields=True,
)


def is_blank(line: bytes) -> bool:
    """Whether a line has no document: it is blank, or a comment (JSON has none, but files of JSON Lines do)."""
    stripped = line.lstrip()
    return not stripped or stripped.startswith((b"#", b"//"))


def _skip_line(stream: Any) -> int:
    """Read to the beginning of the next line; returns the number of bytes skipped."""
    skipped = 0
    while line := stream.readline(_MAX_LINE):
        skipped += len(line)
        if line.endswith(b"\n"):
            break
    return skipped


def _line_decoder(fields: Fields) -> Callable[[bytes], tuple[str, str | None]]:
    """A function from a line to (text, domain) that raises ValueError with what is wrong.

    msgspec decodes only the fields that are needed, several times as fast as a whole object. A line that it refuses is
    decoded again by `json`, which accepts what other writers produce (NaN, for example) and gives a readable error.
    """
    simple = "." not in fields.text and "." not in (fields.domain or "")
    wanted = {"text": fields.text} | ({"domain": fields.domain} if fields.domain else {})
    if not simple or len(set(wanted.values())) < len(wanted):
        return lambda line: _decode_slowly(line, fields)
    record = msgspec.defstruct("Record", [(name, str) for name in wanted], rename=wanted, gc=False)
    quick: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)

    def decode(line: bytes) -> tuple[str, str | None]:
        try:
            found = quick.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _decode_slowly(line, fields)
        return checked(found.text, found.domain if fields.domain else None, fields)

    return decode


def _decode_slowly(line: bytes, fields: Fields) -> tuple[str, str | None]:
    try:
        return document_of(json.loads(line.decode()), fields)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} of the line, {error.reason}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON document: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not a JSON document: nested too deeply") from None
