"""The payload of an HTTP response as a crawler stored it: transfer and content encodings undone, bytes → text.

Rule: memory is bounded by `MAX_RECORD`, whatever the bytes claim or unpack to. What cannot be undone is a ValueError.
"""

from __future__ import annotations

import codecs
import io
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import zstandard

from mixstream.units import show_bytes

from .reader import MAX_RECORD
from .warc_records import read_headers

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;\"'>/]+)", re.IGNORECASE)
_META = re.compile(rb"<meta\s[^>]*?charset\s*=\s*[\"']?\s*([^\s;\"'>/]+)", re.IGNORECASE)
_META_WITHIN = 4096  # bytes; HTML asks for 1024, and pages do not keep to it
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_WIDER = {
    **dict.fromkeys(("iso8859-1", "ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "iso8859-11": "cp874",
}
"""Encodings that browsers read as a wider one (the WHATWG's Encoding Standard), by Python's names."""


class Response(NamedTuple):
    """A response: its status, its headers by names in lower case, and its payload with all encodings undone."""

    status: int
    headers: dict[str, str]
    payload: bytes


def parse_response(content: bytes) -> Response:
    """Return the response that a record holds. Raises ValueError if it is none."""
    stream = io.BytesIO(content)
    status = _STATUS.match(stream.readline(1 << 16))
    if status is None:
        raise ValueError("its content is no HTTP response")
    try:
        headers = read_headers(stream)
    except ValueError:
        headers = {}  # a crawler may have stored the headers alone
    body = content[stream.tell() :]
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(body)
    for name in reversed(headers.get("content-encoding", "").lower().split(",")):
        body = _unpacked(body, name.strip())
    return Response(int(status[1]), headers, body)


def media_type(content_type: str) -> str:
    """`Text/HTML; charset=utf-8` → `text/html`."""
    return content_type.partition(";")[0].strip().lower()


def decoded(payload: bytes, content_type: str, *, is_html: bool) -> str:
    """Return the text of a payload as a browser reads it: by its mark, its header, its `<meta>`, else UTF-8.

    What is no UTF-8, and does not say what it is, is Windows-1252. Bytes that are no character become U+FFFD.
    """
    for mark, name in _BOMS:
        if payload.startswith(mark):
            return payload[len(mark) :].decode(name, "replace")
    named = _CHARSET.search(content_type)
    meta = _META.search(payload[:_META_WITHIN]) if is_html else None
    labels = [named[1] if named else "", meta[1].decode("ascii", "replace") if meta else ""]
    known = [name for label in labels if (name := _codec(label)) is not None]
    for name in [*known, "utf-8"]:
        try:
            return payload.decode(name)
        except UnicodeDecodeError:
            continue
    return payload.decode(known[0] if known else "cp1252", "replace")


def _codec(label: str) -> str | None:
    try:
        found = codecs.lookup(label)
    except (LookupError, ValueError):
        return None
    return _WIDER.get(found.name, found.name) if found._is_text_encoding else None  # `rot13` is none


def _unchunked(body: bytes) -> bytes:
    """The chunks of a body, joined. Many crawlers keep the header, and store the body without chunks: then as it is."""
    parts: list[bytes] = []
    at = 0
    while (end := body.find(b"\n", at, at + 1024)) >= 0:
        digits = body[at:end].partition(b";")[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            break
        at = end + 1
        if size == 0:
            return b"".join(parts)
        parts.append(body[at : at + size])
        at += size
        at += 2 if body[at : at + 2] == b"\r\n" else body[at : at + 1] == b"\n"
    if not parts:
        return body
    raise ValueError("its chunks are cut short")


def _unpacked(body: bytes, name: str) -> bytes:
    """A body without one content encoding. Many crawlers keep the header of a body that they have unpacked."""
    if name in {"gzip", "x-gzip"} and body.startswith(b"\x1f\x8b"):
        return _inflated(body, 16 + zlib.MAX_WBITS)
    if name == "deflate" and body:
        try:
            return _inflated(body, zlib.MAX_WBITS)
        except zlib.error:
            return body
    if name == "zstd" and body.startswith(b"\x28\xb5\x2f\xfd"):
        with zstandard.ZstdDecompressor().stream_reader(body) as stream:
            return _checked(stream.read(MAX_RECORD + 1))
    if name == "br" and body:
        return _unbrotlied(body)
    return body


def _inflated(body: bytes, bits: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    return _checked(inflater.decompress(body, MAX_RECORD + 1))


def _unbrotlied(body: bytes) -> bytes:
    try:
        import brotli
    except ModuleNotFoundError:
        raise ValueError(
            "its payload is compressed by brotli, and the package is not installed: pip install brotli"
        ) from None
    unpacker: Any = brotli.Decompressor()
    try:
        return _checked(unpacker.process(body, output_buffer_limit=MAX_RECORD + 1))
    except brotli.error:
        return body


def _checked(payload: bytes) -> bytes:
    if len(payload) > MAX_RECORD:
        raise ValueError(f"its payload is larger than {show_bytes(MAX_RECORD)}, decompressed")
    return payload


def header_of(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header, None if it is missing or empty."""
    return headers.get(name) or None
