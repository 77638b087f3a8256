"""The records of a WARC file, one after another, as a stream gives them (WARC 0.17 to 1.1, ISO 28500).

    WARC/1.0 · header lines · blank line · Content-Length bytes · two blank lines

All of a file is read, or DamagedFileError says where it ends: a length that lies, and a file that is cut short, are not
taken for the end. Memory is bounded by a record; of one that is larger than `MAX_RECORD`, the content is not held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..files.source_files import DamagedFileError
from .reader import MAX_RECORD

_MAX_LINE = 1 << 20
_MAX_HEADERS = 1 << 12  # lines
_READ = 1 << 20
_BEGIN = b"WARC/"


@dataclass(frozen=True, kw_only=True, slots=True)
class WarcRecord:
    """A record.

    Attributes:
        headers: its fields by their names in lower case; of a repeated one, the first value.
        content: its bytes; None if there are more than `MAX_RECORD`.
        size: how many bytes there are.
    """

    headers: dict[str, str]
    content: bytes | None
    size: int


def warc_records(stream: BinaryIO, where: str) -> Iterator[WarcRecord]:
    """Yield the records; `where` names the file in errors.

    >>> import io
    >>> file = b"WARC/1.0\\r\\nWARC-Type: conversion\\r\\nContent-Length: 2\\r\\n\\r\\nhi\\r\\n\\r\\n"
    >>> [(record.headers["warc-type"], record.content) for record in warc_records(io.BytesIO(file), "a.wet")]
    [('conversion', b'hi')]

    Raises:
        DamagedFileError: it is cut short, or no record begins where one is due.
    """
    number = 0
    line = stream.readline(_MAX_LINE)
    while line:
        if not line.strip():
            line = stream.readline(_MAX_LINE)
            continue
        if not line.startswith(_BEGIN):
            raise DamagedFileError(f"{where}, record {number}: it does not begin as a WARC record")
        try:
            headers = read_headers(stream)
            length = headers.get("content-length", "")
            if not (length.isascii() and length.isdecimal()):
                raise ValueError(f"its Content-Length is {length!r}, so its end is not known")
            size = int(length)
            content = _content(stream, size)
            line = stream.readline(_MAX_LINE)
            if line.strip() and not line.startswith(_BEGIN):
                raise ValueError(f"its Content-Length, {size}, is not the length of its content")
        except ValueError as error:
            raise DamagedFileError(f"{where}, record {number}: {error}") from None
        yield WarcRecord(headers=headers, content=content, size=size)
        number += 1


def read_headers(stream: BinaryIO) -> dict[str, str]:
    """Read header lines to the blank one, as `WarcRecord.headers`. Raises ValueError if there is none."""
    headers: dict[str, str] = {}
    last = ""
    for _ in range(_MAX_HEADERS):
        line = stream.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise ValueError(
                "a header is too long" if len(line) == _MAX_LINE else "the file is cut short in its headers"
            )
        text = _decoded(line)
        if not text.strip():
            return headers
        if text[0] in " \t" and last:
            headers[last] += " " + text.strip()
            continue
        name, _, value = text.partition(":")
        last = name.strip().lower()
        headers.setdefault(last, value.strip())
    raise ValueError(f"it has more than {_MAX_HEADERS} headers")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")  # of HTTP before its headers were ASCII


def _content(stream: BinaryIO, size: int) -> bytes | None:
    """The content, read in blocks: a lying size takes no more memory than there are bytes."""
    parts: list[bytes] = []
    left = size
    while left:
        part = stream.read(min(left, _READ))
        if not part:
            raise ValueError(f"the file is cut short: {size - left} of {size} bytes of its content are there")
        left -= len(part)
        if size <= MAX_RECORD:
            parts.append(part)
    return b"".join(parts) if size <= MAX_RECORD else None
