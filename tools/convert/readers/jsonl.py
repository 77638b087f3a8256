"""JSON Lines: a line is one document. A slice has the lines whose first byte lies in it; blank lines are skipped."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from ..domain_names import check_domain_name
from ..files import DamagedFileError, OnBytes, Slice, SourceFile, lines_before, open_slice, split_name
from .reader import Fields, OnBad, Piece, Reader, pieces_of

_MAX_LINE = 256 << 20
_SNIFFED = 1 << 20  # bytes of a .json file's first line that are parsed to see what the file is
_check_domain = lru_cache(maxsize=1 << 16)(check_domain_name)


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
                    raise ValueError(f"the line is longer than {_MAX_LINE >> 20} MB")
                if count == 1 and not first:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.isspace() or not line:
                    continue
                text, domain = decode(line)
                if domain is not None:
                    _check_domain(domain)
            except ValueError as error:
                before = lines_before(source.file, first) if before < 0 else before
                on_bad(f"{source.file.path}, line {before + count}: {error}")
                continue
            yield from pieces_of(text, domain)


def _holds_lines(file: SourceFile) -> bool:
    """Whether a file has JSON Lines: of a .json file, whether its first line is an object. Else it is one document."""
    if split_name(file.path)[1] != ".json":
        return True
    try:
        with open_slice(file.whole) as stream:
            line = stream.readline(_SNIFFED)
        if len(line) == _SNIFFED:
            return line.startswith(b"{")
        return isinstance(json.loads(line), dict)
    except DamagedFileError:
        return True  # `read_jsonl` meets the damage again and reports it
    except (ValueError, RecursionError):
        return False


JSONL = Reader(
    suffixes=frozenset({".jsonl", ".json", ".ndjson"}),
    read=read_jsonl,
    accepts=_holds_lines,
    divisible=True,
    has_fields=True,
)


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
        raise ValueError(f"field {name!r} holds half of a surrogate pair, which is not a character") from None
    return found


def _kind(value: object) -> str:
    kinds = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")
