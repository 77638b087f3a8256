"""What a file is: the reader that it needs, or the format that no reader has. Its content decides, and then its suffix.

Rules. Text never comes from guessing: a file that looks like another format than its reader's is a `Foreign`. Only the
first bytes are looked at, decompressed; the reader meets what follows, and reports every document that is bad.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from .files import DamagedFileError, SourceFile, open_slice, split_name
from .foreign import (
    BINARY,
    JSON_VALUE,
    OTHER,
    READABLE,
    UTF8_MARK,
    Foreign,
    by_content,
    by_suffix,
    by_text,
    packed_as,
)
from .readers import DEFAULT, READERS, FieldError, Fields, document_of, is_blank, values_of

_HEAD = 1 << 16
_NUL_WITHIN = 8000  # bytes; git calls a file binary if there is a NUL in the first 8000
_DOCUMENTS = 20
_LINE = 16 << 20  # bytes of a line; a longer one is not looked at
_LINES = frozenset({*READERS["jsonl"].suffixes})
_JSON = _LINES | READERS["json"].suffixes
_PLAIN = frozenset({"", ".txt", ".text"})
"""Suffixes that say nothing of the content."""
_OBJECT = re.compile(rb'\{\s*(#.*|//.*|\s)*"')
_ARRAY = re.compile(rb'\[[\s\[]*\{\s*("|\})')


class Sniffed(NamedTuple):
    """A file with the format that reads it; or what it is, if that is none of convert's."""

    file: SourceFile
    foreign: Foreign | None = None


def sniff(file: SourceFile, *, forced: bool = False, as_text: bool = False) -> Sniffed:
    """Look at the beginning of a file.

    Args:
        file: with the format of `--format`, if that is `forced`; else any.
        forced: whether the format is the user's.
        as_text: whether the user takes the file as text whatever it holds, unless it is binary.
    """
    suffix = split_name(file.path)[1]
    known = next((name for name, reader in READERS.items() if suffix in reader.suffixes), None)
    if not forced:
        file = replace(file, format=known or DEFAULT)
    raw, head = _heads(file)
    if file.compression and raw and packed_as(raw) != file.compression:
        way = f"it is no {file.compression} data: rename it, or fetch it again"
        return Sniffed(file, Foreign(name=f"a file whose name ends in .{file.compression}", way=way))
    foreign = by_content(head, suffix)
    if foreign is None and b"\0" in head[:_NUL_WITHIN]:
        foreign = BINARY if known else by_suffix(suffix) or OTHER
    if foreign is not None and not (foreign.is_text and (forced or as_text)):
        return Sniffed(file, foreign)
    if forced:
        return Sniffed(file)
    if as_text:
        return Sniffed(replace(file, format=DEFAULT))
    whole = len(head) < _HEAD
    if found := by_suffix(suffix) or (
        by_text(head, whole=whole) if suffix in _PLAIN | _JSON or known is None else None
    ):
        return Sniffed(file, found)
    format_, foreign = _json_or(known, head, suffix, whole=whole)
    return Sniffed(replace(file, format=format_ or file.format), foreign)


def field_fault(file: SourceFile, fields: Fields) -> FieldError | None:
    """Return what is wrong with a field of the first documents of a file, if it is wrong with all of them.

    This finds a `--text-key` that the documents do not have, before anything is converted.
    """
    if not READERS[file.format].has_fields:
        return None
    first: FieldError | None = None
    try:
        for value in islice(_values(file), _DOCUMENTS):
            try:
                document_of(value, replace(fields, forbidden=()))
            except FieldError as error:
                first = first or error
            except ValueError:
                continue
            else:
                return None
    except (DamagedFileError, ValueError):
        pass  # the reader meets it again and reports it
    return first


def _values(file: SourceFile) -> Iterator[object]:
    """Yield the first JSON values of a file; raises ValueError at what is none."""
    with open_slice(file.whole) as stream:
        if file.format == "json":
            yield from (value for value, _ in values_of(stream))
            return
        for line in iter(lambda: stream.readline(_LINE), b""):
            if not is_blank(line := line.removeprefix(UTF8_MARK)):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    return


def _heads(file: SourceFile) -> tuple[bytes, bytes]:
    """The first bytes of a file as stored, and decompressed as far as they can be."""
    stored = replace(file, compression="")
    with open_slice(stored.whole) as stream:
        raw = stream.read(_HEAD)
    if not file.compression or packed_as(raw) not in READABLE:
        return raw, raw if not file.compression else b""
    try:
        with open_slice(file.whole) as stream:
            return raw, stream.read(_HEAD)
    except DamagedFileError:
        return raw, b""  # the reader meets the damage again and reports it


def _json_or(known: str | None, head: bytes, suffix: str, *, whole: bool) -> tuple[str | None, Foreign | None]:
    """The format of JSON, by its first lines; or what is no format of documents, under a suffix of JSON."""
    if suffix not in _PLAIN | _JSON and known is not None:
        return None, None
    lines = [line.strip() for line in head.removeprefix(UTF8_MARK).split(b"\n") if not is_blank(line)]
    if not lines:
        return None, None
    found = _shape(lines, whole=whole)
    if suffix in _LINES:  # a line that is not as it should be is the line's fault, not the file's
        spans = found == "json" and (lines[0].startswith(b"[") or _goes_on(lines[0]))
        return ("json" if spans else None), None
    if suffix in _JSON:
        return found, None if found else JSON_VALUE
    return (found if _is_surely(found, lines) else None), None


def _shape(lines: list[bytes], *, whole: bool) -> str | None:
    """`jsonl` if the first line is an object, `json` if one spans lines or is in an array; None for anything else."""
    first = lines[0]
    if first.startswith(b"["):
        return "json"
    if not first.startswith(b"{"):
        return None
    if len(lines) == 1 and not whole:
        return "jsonl"  # a long line
    try:
        return "jsonl" if isinstance(json.loads(first), dict) else None
    except (ValueError, RecursionError):
        return "json"


def _is_surely(found: str | None, lines: list[bytes]) -> bool:
    """Whether a text whose name says nothing is JSON: its second line too is an object, or its first values are."""
    if found == "jsonl":
        return all(line.startswith(b"{") for line in lines[:2]) and bool(_OBJECT.match(lines[0]) or lines[0] == b"{}")
    start = b"\n".join(lines[:4])
    return found == "json" and bool(_ARRAY.match(start) or (_OBJECT.match(start) and _goes_on(lines[0])))


def _goes_on(line: bytes) -> bool:
    """Whether a line that begins an object is not all of it, or has a second one behind it."""
    if line[-1:] in b"{[,:":
        return True
    try:
        text = line.decode()
        return text[json.JSONDecoder().raw_decode(text)[1] :].lstrip().startswith("{")
    except (ValueError, RecursionError):
        return False
