"""Requests over HTTP whose answers take no more memory than was asked for, and whose credentials stay in their place.

What lives here: one request, the redirects that it may follow, and the reading of its answer; no stores. Rules:

- A body is read into memory of a size that the caller names before its first byte, never decoded (`Content-Encoding` is
  left as it is). What is longer is not read to its end: the connection is closed. So is that of an error, of whose
  body `Answer.words` takes the beginning.
- Credentials go to the scheme, host and port of the first URL and nowhere else. A redirect to another one carries the
  headers that say what is wanted (`Range`, `If-Match`) and none besides: neither `Authorization`, nor tokens, nor
  cookies, which are not kept either. `Referer` is never sent. A redirect from https:// to http:// is refused, and so is
  one of a request that writes.
- The logs of the libraries, which hold URLs and canonical requests, are silent about requests that are made here.
- Every wait for the server ends at the deadline of the request, its headers and body included (`timed_connections`).
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

from urllib3 import exceptions
from urllib3.util import Timeout

from mixstream.errors import StoreFaultError
from mixstream.records import dataclass
from mixstream.storage.redaction import redact
from mixstream.storage.stores.client_errors import Operation, failed
from mixstream.storage.stores.connections import Connections
from mixstream.storage.stores.timed_connections import TimedBody, until

Sign = Callable[[str, str, dict[str, str], Any], dict[str, str]]
"""(method, URL, headers, body) -> headers with credentials."""

_CONNECT = 20.0  # seconds: no network is slower, and a host that is down should not use up a whole timeout
_REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_PIECE = 1 << 18  # bytes of one read from a socket, which seldom has more
_WORDS = 1 << 16  # bytes of an error's body in which its code is looked for

# What urllib3 says, and our text for it; {server} is where the request went.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    ((exceptions.NameResolutionError,), "", "the host name of {server} was not found"),
    ((exceptions.SSLError, ssl.SSLError), "certificate", "the TLS certificate of {server} was not accepted"),
    ((exceptions.ProxyError,), "", "no connection to {server} could be made through the proxy that is set"),
    ((Exception,), "refused", "the connection to {server} was refused"),
    ((Exception,), "timed out", "{server} did not answer in time"),
    ((exceptions.NewConnectionError,), "", "no connection to {server} could be made"),  # it is a TimeoutError too
    ((exceptions.TimeoutError, TimeoutError), "", "{server} did not answer in time"),
    ((Exception,), "reset", "the connection to {server} was reset"),
    ((Exception,), "brokenpipe", "the connection to {server} was reset"),
    ((Exception,), "remotedisconnected", "the connection was closed before the answer"),
    ((Exception,), "incompleteread", "the connection was closed before the end of the body"),
    ((Exception,), "badstatusline", "the server at {server} does not speak HTTP"),
    ((Exception,), "unknownprotocol", "the server at {server} does not speak HTTP"),
    (
        (exceptions.InvalidHeader,),
        "",
        "the answer of {server} has headers that contradict themselves, of its length too",
    ),
    ((Exception,), "headers", "the answer of {server} has more headers than any store's"),
    ((exceptions.LocationParseError, exceptions.LocationValueError, UnicodeError), "", "it has a URL that is none"),
)


_here = threading.local()
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry", "botocore.auth"):
    logging.getLogger(_name).addFilter(lambda record: not getattr(_here, "asking", False))


@contextmanager
def _unlogged() -> Iterator[None]:
    """Let libraries log nothing of what this thread does."""
    _here.asking = True
    try:
        yield
    finally:
        _here.asking = False


def origin_of(url: str) -> tuple[str, str, int]:
    """Return what credentials are bound to: scheme, host and port.

    >>> origin_of("HTTPS://me:secret@Host/a?key=1"), origin_of("http://host:8080")
    (('https', 'host', 443), ('http', 'host', 8080))
    """
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.hostname or "", parts.port or (443 if parts.scheme.lower() == "https" else 80)


def _server_of(url: str) -> str:
    """Return the server of a URL, for errors."""
    scheme, host, port = origin_of(url)
    named = f"[{host}]" if ":" in host else host
    return redact(f"{scheme}://{named}") + ("" if port == (443 if scheme == "https" else 80) else f":{port}")


@dataclass(eq=False)
class Answer:
    """What a server answered, its body yet unread.

    Args:
        response: of urllib3.
        operation: what was asked, for errors.
        server: that was asked, without credentials.
        deadline: of the request, on the monotonic clock.
    """

    response: Any
    operation: Operation
    server: str
    deadline: float

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self.response.status

    def header(self, name: str) -> str | None:
        """Return a header, or None."""
        return self.response.headers.get(name)

    def length(self) -> int:
        """Return how many bytes the body has.

        Raises:
            StoreFaultError: the answer does not say.
        """
        text = (self.header("Content-Length") or "").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise self.fault("the answer has no length" if not text else f"the answer's length is {text[:40]!r}")
        return int(text)

    def exactly(self, size: int) -> bytearray:
        """Return a body of `size` bytes, of which the caller knows that it wants them.

        Raises:
            StoreFaultError: it ends before, or not in time.
        """
        data = bytearray(size)
        view = memoryview(data)

        def write(piece: memoryview, at: int) -> None:
            view[at : at + len(piece)] = piece

        self.hand_over(size, write)
        return data

    def hand_over(self, size: int, write: Callable[[memoryview, int], None]) -> None:
        """Give a body of `size` bytes to `write`, with where they begin, piece by piece as they arrive.

        Raises:
            StoreFaultError: it ends before, or not in time.
        """
        view, done, filled = memoryview(bytearray(min(_PIECE, size))), 0, 0
        while done + filled < size:
            if not (piece := self._piece(min(len(view) - filled, size - done - filled))):
                raise self.fault("the connection was closed before the end of the body")
            if not filled and 2 * len(piece) > len(
                view
            ):  # as it is: small ones are put together, to be written at once
                write(memoryview(piece), done)
                done += len(piece)
                continue
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            if filled == len(view) or done + filled == size:
                write(view[:filled], done)
                done, filled = done + filled, 0

    def at_most(self, size: int, what: str) -> bytes:
        """Return a body of unknown length.

        Raises:
            StoreFaultError: it is longer than `size`, or does not end in time.
        """
        data = bytearray()
        while piece := self._piece(_PIECE):
            data += piece
            if len(data) > size:
                raise self.fault(f"{what} of more than {size} bytes, which no store sends: the rest was not read")
        return bytes(data)

    def words(self) -> str:
        """Return the beginning of an error's body."""
        data = bytearray()
        try:
            while len(data) < _WORDS and (piece := self._piece(_WORDS - len(data))):
                data += piece
        except StoreFaultError:
            pass  # the status says what went wrong
        return data.decode(errors="replace")

    def drain(self) -> None:
        """Read a short body that nobody wants, so that the connection can be used again."""
        if (left := self.response.length_remaining) is not None and left <= _WORDS:
            self.words()

    def fault(self, words: str) -> StoreFaultError:
        """Return the error for an answer that is not what was asked for."""
        return StoreFaultError(f"{failed(self.operation)}: {words}")

    def _piece(self, size: int) -> bytes:
        if time.monotonic() >= self.deadline:  # also of what has come already
            raise self.fault(f"{self.server} did not answer in time")
        try:
            return self.response.read1(size, decode_content=False) or b""
        except (exceptions.HTTPError, OSError, ValueError) as error:
            raise self.fault(_reason(error, self.server)) from None


@dataclass(eq=False, kw_only=True)
class Transport:
    """Makes requests over connections that are kept and shared by threads.

    Args:
        timeout: seconds for a request, its body included.
        authorities: certificates to trust besides the system's, PEM.
    """

    timeout: float
    authorities: bytes | None = None

    def __post_init__(self) -> None:
        self._connections = Connections(authorities=self.authorities)

    @contextmanager
    def ask(
        self,
        operation: Operation,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview | BinaryIO | None = None,
        sign: Sign | None = None,
        moved: Callable[[Answer], None] = lambda answer: None,
    ) -> Iterator[Answer]:
        """Make a request; the connection is kept if the body was read to its end, and closed otherwise.

        Args:
            operation: what is asked, for errors.
            method: GET, HEAD, PUT, …
            url: percent-encoded, without user and password.
            headers: without credentials.
            body: is sent with its length, a file from where it stands.
            sign: adds credentials, for `url` and where a redirect stays at its scheme, host and port.
            moved: called before a redirect is followed; may raise.

        Raises:
            StoreFaultError: no answer came, or it leads somewhere else too often.
            ConfigError: the environment sets a proxy that cannot be used.
        """
        home, plain = origin_of(url), {"User-Agent": "mixstream", **(headers or {})}
        deadline = time.monotonic() + self.timeout
        hops = 0
        while True:
            server = _server_of(url)
            if origin_of(url) != home:
                sign = None  # from here on: who leads back may choose the path
            with _unlogged():
                sent = sign(method, url, dict(plain), body) if sign is not None else plain
                response = self._send(operation, server, deadline, method=method, url=url, headers=sent, body=body)
            answer = Answer(response, operation, server, deadline)
            if (target := answer.header("Location") if answer.status in _MOVED else None) is None:
                break
            with self._dropped(response):
                moved(answer)
                answer.drain()
                if hops == _REDIRECTS:
                    raise answer.fault(f"it was redirected more than {_REDIRECTS} times, at last by {server}")
                url, hops = _next_url(answer, method, url, target), hops + 1
        with self._dropped(response):
            yield answer

    def _send(self, operation: Operation, server: str, deadline: float, *, url: str, body: Any, **what: Any) -> Any:
        left = max(0.001, deadline - time.monotonic())
        timeout = Timeout(connect=min(left, _CONNECT), read=left)
        unread: dict[str, Any] = {
            "redirect": False,
            "retries": False,
            "preload_content": False,
            "decode_content": False,
        }
        sent, pool = TimedBody(body, deadline) if body is not None else None, self._connections.pool(*origin_of(url))
        try:
            with until(deadline):
                return pool.urlopen(url=url, body=sent, timeout=timeout, **what, **unread)
        except (exceptions.HTTPError, OSError, ValueError) as error:
            raise StoreFaultError(f"{failed(operation)}: {_reason(error, server)}") from None

    @staticmethod
    @contextmanager
    def _dropped(response: Any) -> Iterator[None]:
        """At the end, keep the connection if nothing is left on it, and close it otherwise: a body may never end."""
        try:
            yield
        finally:
            if response.closed or response.length_remaining == 0:
                response.read(decode_content=False)  # nothing, but the connection is not free before
                response.release_conn()
            else:
                response.close()


def _next_url(answer: Answer, method: str, url: str, target: str) -> str:
    """Return the URL that a redirect leads to."""
    try:
        parts = urlsplit(urljoin(url, target.strip()))
        found = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        origin = origin_of(found)
    except ValueError:
        raise answer.fault("it was redirected to a URL that is none") from None
    if origin[0] not in ("http", "https") or not origin[1]:
        raise answer.fault("it was redirected to something else than http:// and https://")
    if (origin_of(url)[0], origin[0]) == ("https", "http"):
        raise answer.fault(
            f"{answer.server} redirected it from https:// to http://{origin[1]}, which anyone could read"
        )
    if method not in ("GET", "HEAD"):
        raise answer.fault(
            f"{answer.status}, {answer.server} redirected it to {origin[0]}://{origin[1]}: what is written goes to the "
            "server that was named, so name that one"
        )
    return found


def _reason(error: BaseException, server: str) -> str:
    """Return our words for an exception of urllib3, whose own hold URLs."""
    chain, cause = [error], error
    while (cause := cause.__cause__ or cause.__context__) is not None and len(chain) < 8:
        chain.append(cause)
    chain += [one for one in error.args if isinstance(one, BaseException)]
    said = " ".join(f"{type(one).__name__} {one.args[0] if one.args else ''}" for one in chain).lower()
    for kinds, word, words in _REASONS:
        if word in said and any(isinstance(one, kinds) for one in chain):
            return words.format(server=server)
    return f"the request failed before {server} answered"
