"""Web archives: WARC, with pages as they were crawled, and WET, with their text.

A record is {"id", "url", "date", "type", "content_type", "status", "language", "uuid", "text"}. `id` is the header
WARC-Record-ID as it stands, `<urn:uuid:…>`, as FineWeb keeps it; `uuid` is it without brackets and `urn:uuid:`, as NeMo
Curator keeps it. The text of a `conversion` record (WET) and of a response of plain text is its own; that of HTML is
`Html`, and becomes a document only by `--extract`. A record's number counts all records of the file.

What holds no page is left out and counted: other types of records, responses that failed, other content types.
"""

from __future__ import annotations

from typing import Any

from mixstream.units import show_bytes

from ..files.source_files import OnBytes, Slice, open_slice
from .http_payload import decoded, header_of, media_type, parse_response
from .reader import MAX_RECORD, Columns, Html, OnBad, Reader, Record, Records
from .warc_records import WarcRecord, warc_records

_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXT = frozenset({"text/plain"})
_OK = range(200, 300)
_URN = "urn:uuid:"
_ABOUT = "metadata:"
"""Scheme of the URLs under which wget stores its log and its arguments."""


class _LeftOutError(Exception):
    """A record is no page; the message is its kind."""


def read_warc(source: Slice, columns: Columns, on_bad: OnBad, on_bytes: OnBytes) -> Records:
    """Yield each record that is a page or a text."""
    number = -1
    with open_slice(source, on_bytes) as stream:
        for number, record in enumerate(warc_records(stream, source.file.path)):
            try:
                value = _value(record)
            except (_LeftOutError, ValueError) as error:
                kind = str(error) if isinstance(error, _LeftOutError) else ""
                url = record.headers.get("warc-target-uri", "no URL")
                on_bad(f"{source.file.path}, record {number} ({url}): {error}", record=number, left_out=kind)
                continue
            yield Record(value, number)
    return number + 1


def _value(record: WarcRecord) -> dict[str, Any]:
    headers = record.headers
    kind = headers.get("warc-type", "").lower()
    if kind not in {"response", "resource", "conversion"}:
        raise _LeftOutError(f"WARC records of type {kind or 'none'}")
    if (url := headers.get("warc-target-uri", "").strip("<>")).startswith(_ABOUT):
        raise _LeftOutError("WARC records about the crawl")
    if record.content is None:
        raise ValueError(f"it is larger than {show_bytes(MAX_RECORD)}")
    content, content_type, status = record.content, headers.get("content-type", ""), None
    if media_type(content_type) == "application/http":
        response = parse_response(content)
        content, status = response.payload, response.status
        content_type = response.headers.get("content-type", "")
        if status not in _OK:
            raise _LeftOutError("responses of other HTTP statuses than 2xx")
    elif kind == "response":
        raise _LeftOutError("responses of other protocols than HTTP")
    media = media_type(headers.get("warc-identified-payload-type", "") or content_type)
    identifier = headers.get("warc-record-id", "")
    return {
        "id": identifier or None,
        "uuid": identifier.strip("<>").removeprefix(_URN) or None,
        "url": url or None,
        "date": header_of(headers, "warc-date"),
        "type": kind,
        "content_type": media or None,
        "status": status,
        "language": header_of(headers, "warc-identified-content-language"),
        "text": _text(content, content_type, media),
    }


def _text(content: bytes, content_type: str, media: str) -> str:
    if media in _HTML:
        return Html(decoded(content, content_type, is_html=True))
    if media in _TEXT:
        try:
            return content.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            if "charset" not in content_type.lower():
                raise ValueError(f"not UTF-8: byte {error.start} of its text, {error.reason}") from None
            return decoded(content, content_type, is_html=False)
    raise _LeftOutError("pages that are neither HTML nor plain text")


WARC = Reader(suffixes=frozenset({".warc", ".wet"}), records=read_warc)
