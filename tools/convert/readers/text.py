"""Source format → documents. One function a format, listed in `READERS`; that table is where a new format enters.

A reader turns a slice of a file into text. Long documents come as several pieces, so that memory is bounded by a piece
and not by a file; a document that cannot be read is handed to `on_bad`, which raises or counts it, and never reaches
the output in part.

Invariant: the documents of a file's slices, in order, are the documents of the file, wherever it is cut.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from ..files import Format, OnBytes, Slice, SourceFile, lines_before, open_slice
from ..sources import check_domain_name

PIECE_CHARS = 4 << 20
"""Documents longer than this many characters are tokenised in pieces, cut where a line ends."""
_MAX_LINE = 256 << 20
_BOM = codecs.BOM_UTF8

OnBad = Callable[[str], None]
"""Told what is wrong with a document and where; returns if the document is to be left out."""
_check_domain = lru_cache(maxsize=1 << 16)(check_domain_name)
_LINE_START = re.compile(r"\n(?=\S)")
_WORD_START = re.compile(r"\S(?=\s)")


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    domain: str | None
    """What `--domain-key` found; None where the command line names the domain."""
    begins: bool
    ends: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """The JSON fields that hold a document's text and, if asked for, its domain; `meta.source` reaches into objects."""

    text: str
    domain: str | None = None


Reader = Callable[[Slice, Fields, OnBad, OnBytes], Iterator[Piece]]
"""Slice, fields, what to do with a bad document, what to tell of bytes read → pieces in order."""


def read_text(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
    """A file is one document; of JSON fields it knows nothing."""
    del fields
    try:
        blocks = _decoded(source, None)
        held = list(islice(blocks, 2))
        if len(held) < 2:
            on_bytes(source.stop - source.start)
            yield from _with_ends(iter(held))
            return
        # What has been handed on cannot be taken back: a longer file is checked to its end, then read again.
        for _ in blocks:
            pass
        yield from _with_ends(_cut_stream(_decoded(source, on_bytes)))
    except UnicodeDecodeError as error:
        on_bad(f"{source.file.path}: not UTF-8: {_where(source.file, error)}")


def read_jsonl(source: Slice, fields: Fields, on_bad: OnBad, on_bytes: OnBytes) -> Iterator[Piece]:
    """A line is one document; a line belongs to the slice that its first byte lies in. Blank lines are no documents."""
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
                    raise ValueError(f"the line is longer than {_MAX_LINE >> 20} MB")
                if count == 1 and not first:
                    line = line.removeprefix(_BOM)
                if line.isspace() or not line:
                    continue
                text, domain = decode(line)
                if domain is not None:
                    _check_domain(domain)
            except ValueError as error:
                before = lines_before(source.file, first) if before < 0 else before
                on_bad(f"{source.file.path}, line {before + count}: {error}")
                continue
            if 0 < len(text) <= PIECE_CHARS:
                yield Piece(text, domain, True, True)
            else:
                yield from _with_ends(_cut_stream(iter([text])), domain)


READERS: dict[Format, Reader] = {"text": read_text, "jsonl": read_jsonl}


# -- text ----------------------------------------------------------------------------------------------------------


def _decoded(source: Slice, on_bytes: OnBytes | None) -> Iterator[str]:
    """The text of a file, block by block. Raises UnicodeDecodeError with `start` counted from the file's beginning."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    consumed = 0
    with open_slice(source, on_bytes) as stream:
        while True:
            block = stream.read(PIECE_CHARS)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                error.start += consumed - pending
                raise
            consumed += len(block)
            if text := text.removeprefix("\ufeff") if consumed == len(block) else text:
                yield text
            if not block:
                return


def _where(file: SourceFile, error: UnicodeDecodeError) -> str:
    """Where and what a decoding error is, with the line where that is cheap to know."""
    line = "" if file.compression else f", line {lines_before(file, error.start) + 1}"
    return f"byte {error.start}{line}, {error.reason}"


def _cut_stream(blocks: Iterator[str]) -> Iterator[str]:
    """Text in blocks of any size → the same text in pieces of at most PIECE_CHARS, cut between lines if it has any."""
    held = ""
    for block in blocks:
        held += block
        while len(held) > PIECE_CHARS:
            at = _cut(held)
            yield held[:at]
            held = held[at:]
    if held:
        yield held


def _cut(text: str) -> int:
    """Where to end the first piece of `text`.

    A tokenizer's result must not depend on the cut. The usual pre-tokenizers end a token between a newline and a
    character that is no space, and between a word and the space before the next; that is where we cut.
    """
    low = PIECE_CHARS - (PIECE_CHARS >> 4)
    for pattern in (_LINE_START, _WORD_START):
        ends = [match.end() for match in pattern.finditer(text, low, PIECE_CHARS)]
        if ends:
            return ends[-1]
    return PIECE_CHARS


def _with_ends(texts: Iterator[str], domain: str | None = None) -> Iterator[Piece]:
    """Mark the first and the last piece of a document; an empty document is none."""
    held = next(texts, None)
    begins = True
    while held is not None:
        following = next(texts, None)
        yield Piece(held, domain, begins, following is None)
        held, begins = following, False


# -- JSON lines ----------------------------------------------------------------------------------------------------


def _skip_line(stream: Any) -> int:
    """Read on to the next line; returns the bytes passed over."""
    passed = 0
    while line := stream.readline(_MAX_LINE):
        passed += len(line)
        if line.endswith(b"\n"):
            break
    return passed


def _line_decoder(fields: Fields) -> Callable[[bytes], tuple[str, str | None]]:
    """A function from a line to (text, domain) that raises ValueError with what is wrong.

    msgspec reads just the fields we need, several times as fast as a whole object. What it refuses goes the slow way,
    which accepts what other writers do (NaN, for one) and can say what is wrong in words.
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
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _decode_slowly(line, fields)
        return found.text, (found.domain if fields.domain else None)

    return decode


def _decode_slowly(line: bytes, fields: Fields) -> tuple[str, str | None]:
    try:
        document = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} of the line, {error.reason}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON document: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not a JSON document: nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"a JSON {_kind(document)}, not an object with a field {fields.text!r}")
    text = _field(document, fields.text)
    domain = None if fields.domain is None else _field(document, fields.domain)
    return text, domain


def _field(document: dict[str, Any], name: str) -> str:
    """A field that must be a string: by its literal name, else along the dots of `name`."""
    found: Any = document
    for key in [name] if name in document else name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"no field {name!r}; the line has {', '.join(map(repr, document)) or 'no fields'}")
        found = found[key]
    if not isinstance(found, str):
        raise ValueError(f"field {name!r} is a JSON {_kind(found)}, not a string")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise ValueError(f"field {name!r} holds half of a surrogate pair, which is no character") from None
    return found


def _kind(value: object) -> str:
    kinds = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")
