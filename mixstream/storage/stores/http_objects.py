"""Objects of a plain web server, by GET and HEAD; of a WebDAV server, also by PUT, DELETE and PROPFIND.

Rules: an answer is checked against the request before its body is read: status, range, length, size and version.
Only errors of `mixstream.errors` are raised. Requests are made by `transport`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as ET

from mixstream.errors import NoRangesError, StoreError
from mixstream.records import dataclass
from mixstream.storage.store import ObjectBytes, ObjectInfo, Take, check_whole
from mixstream.storage.stores.answers import check_answer
from mixstream.storage.stores.client_errors import Operation, failed, refused_answer
from mixstream.storage.stores.transport import Answer, Sign, Transport

PAGE = 32 << 20  # bytes of one answer to a listing: a thousand names of a kilobyte each, and their markup, are 3 MB
_RANGE = re.compile(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})\s*", re.ASCII | re.IGNORECASE)
_DAV = "{DAV:}"


@dataclass(frozen=True, kw_only=True)
class HttpObjects:
    """The objects below a URL.

    Args:
        base: URL of the directory, percent-encoded, without user, query and fragment.
        transport: makes the requests.
        sign: adds credentials; None where there are none.
        query: of every URL, which may be a signature.
    """

    base: str = field(repr=False)
    transport: Transport = field(repr=False)
    sign: Sign | None = field(default=None, repr=False)
    query: str = field(default="", repr=False)

    def url(self, path: str, **query: str) -> str:
        """Return the URL of an object."""
        words = [self.query, *(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())]
        asked = "&".join(filter(None, words))
        return f"{self.base}/{quote(path, safe='/~')}" + (f"?{asked}" if asked else "")

    def get(self, operation: Operation, path: str, *, if_match: str | None, most: int) -> ObjectBytes:
        """Return the bytes of an object that `operation` names, no more than `most` where it names no end."""
        with self._got(operation, path, if_match, most) as (answer, info, length):
            return ObjectBytes(data=answer.exactly(length), info=info)

    def get_into(self, operation: Operation, path: str, take: Take, *, if_match: str | None) -> None:
        """Give the bytes that `operation` names, which has an end, to `take` as they arrive."""
        with self._got(operation, path, if_match, 0) as (answer, info, length):
            answer.hand_over(length, take(info))

    @contextmanager
    def _got(
        self, operation: Operation, path: str, if_match: str | None, most: int
    ) -> Iterator[tuple[Answer, ObjectInfo, int]]:
        """Ask for the bytes of an object; yield the answer, which was checked, what it says, and its body's length."""
        begin, end = operation.begin, operation.end
        headers = {"Range": f"bytes={begin}-{end - 1}"} if end is not None else {}
        if if_match is not None:
            headers["If-Match"] = if_match
        with self.ask(operation, "GET", self.url(path), headers) as answer:
            length = 0 if answer.status == 204 else answer.length()
            if end is not None and answer.status == 200:
                raise self.no_ranges(operation)
            size, got = length, (0, length)
            if answer.status == 206:
                if (found := _RANGE.fullmatch(answer.header("Content-Range") or "")) is None:
                    raise answer.fault("the answer does not name its range")
                size, got = int(found[3]), (int(found[1]), int(found[2]) + 1)
            info = _info(answer, size)
            if end is None:
                check_whole(operation.place, size, most)
            check_answer(operation, info, got, length)
            yield answer, info, length

    def head(self, operation: Operation, path: str) -> ObjectInfo:
        """Return what the server says of an object."""
        with self.ask(operation, "HEAD", self.url(path)) as answer:
            return _info(answer, answer.length())

    def put(self, operation: Operation, path: str, data: bytes | Path) -> None:
        """Write an object."""
        with opened(data) as (body, size), self.ask(operation, "PUT", self.url(path), sized(size), body):
            pass

    def delete(self, operation: Operation, path: str) -> None:
        """Remove an object."""
        with self.ask(operation, "DELETE", self.url(path)):
            pass

    def pages(self, operation: Operation, prefix: str, limit: int | None) -> Iterator[list[str]]:
        """Yield the paths of all objects below the base, in pages; only WebDAV servers have such a thing."""
        headers = {"Depth": "infinity"}
        with self.ask(operation, "PROPFIND", self.url(""), headers) as answer:
            if answer.status != 207:
                raise StoreError(f"{failed(operation)}: this kind of store cannot do that")
            tree = parse_xml(answer, "a listing")
        above = unquote(urlsplit(self.base).path).rstrip("/") + "/"
        page: list[str] = []
        for entry in tree.iter(f"{_DAV}response"):
            path = unquote(urlsplit((entry.findtext(f"{_DAV}href") or "").strip()).path)
            is_directory = entry.find(f".//{_DAV}collection") is not None or path.endswith("/")
            if path.startswith(above) and not is_directory:
                page.append(path.removeprefix(above))
        yield page

    def date(self, operation: Operation, url: str) -> float | None:
        """Return the server's time, from the Date of any answer to a request without credentials."""
        with self.transport.ask(operation, "HEAD", url) as answer:
            try:
                return _when(answer.header("Date") or "").timestamp()
            except ValueError:
                return None

    def moved(self, operation: Operation, answer: Answer) -> None:
        """Look at a redirect before it is followed."""

    def refused(self, operation: Operation, method: str, answer: Answer) -> Exception:
        """Return what to raise for an answer that is no success."""
        words = "" if method == "HEAD" else answer.words()
        return refused_answer(answer.status, words, operation)

    def no_ranges(self, operation: Operation) -> StoreError:
        """Return what to raise where a range was asked for and the whole object comes."""
        return NoRangesError(f"{failed(operation)}: the server sends whole objects only, no ranges")

    @contextmanager
    def ask(
        self, operation: Operation, method: str, url: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> Iterator[Answer]:
        """Make a request; what is no success is raised."""
        with self.transport.ask(
            operation,
            method,
            url,
            headers=headers,
            body=body,
            sign=self.sign,
            moved=lambda answer: self.moved(operation, answer),
        ) as answer:
            if not 200 <= answer.status < 300:
                raise self.refused(operation, method, answer)
            yield answer


def parse_xml(answer: Answer, what: str) -> ET.Element:
    """Return the body of an answer as XML."""
    data = answer.at_most(PAGE, what).strip()  # S3 sends blanks while it is busy
    try:
        return ET.fromstring(data)  # noqa: S314 - expat bounds what entities may grow to
    except ET.ParseError:
        raise answer.fault(f"{what} that is no XML") from None


@contextmanager
def opened(data: bytes | Path) -> Iterator[tuple[bytes | BinaryIO, int]]:
    """Yield what is to be written, and its size."""
    if not isinstance(data, Path):
        yield data, len(data)
        return
    with data.open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def sized(size: int) -> dict[str, str]:
    """Return the header of a body of `size` bytes."""
    return {"Content-Length": str(size)}


def _info(answer: Answer, size: int) -> ObjectInfo:
    """Return size and version of an object; for a server without ETags, the date is the version."""
    version, text, modified = answer.header("ETag"), answer.header("Last-Modified"), None
    if text:
        try:
            when = _when(text)
        except ValueError:
            raise answer.fault("the answer has an invalid date") from None
        modified = when.timestamp() or None
        if version is None and modified is not None:
            version = f"date {when.isoformat()} size {size}"
    return ObjectInfo(size=size, version=version, modified=modified)


def _when(text: str) -> datetime:
    """Return a date of HTTP, in UTC, as is one without a zone; raise ValueError for another text."""
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (OverflowError, IndexError, TypeError) as error:
        raise ValueError(text) from error
