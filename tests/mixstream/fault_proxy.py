"""A loopback HTTP proxy between a client and a real server, which goes wrong on purpose and counts what it passes on.

Rules: without a rule that fits, an exchange goes through as it is; the Host header too, since S3 signatures cover it.
A rule fits by method and path (a glob, without the query) and has its turns: it lets `skip` exchanges that fit pass,
then acts on `times` of them (None: on all), each with probability `chance`. The first rule that acts is the only one.
What rules do is in `faults.py`.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from faults import Action, Exchange, Seen  # pyright: ignore[reportMissingImports] - conftest.py sets the path
from servers import sign  # pyright: ignore[reportMissingImports]

PIECE = 1 << 16
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}  # headers that end at a proxy


@dataclass(kw_only=True)
class Rule:
    """When to act, and how; see the top of the file. `acted` counts its turns."""

    action: Action
    method: str
    path: str
    skip: int
    times: int | None
    chance: float
    dice: random.Random
    acted: int = 0
    _met: int = field(default=0, init=False)

    def takes(self, method: str, path: str) -> bool:
        """Whether it is this rule's turn, which is then taken."""
        if self.method not in {"*", method} or not fnmatchcase(path, self.path):
            return False
        self._met += 1
        if self._met <= self.skip or (self.times is not None and self.acted >= self.times):
            return False
        if self.chance < 1.0 and self.dice.random() >= self.chance:
            return False
        self.acted += 1
        return True


class FaultProxy:
    """The proxy, on threads of this process, from `with` on.

    Args:
        upstream: endpoint of the real server, "http://127.0.0.1:port".
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = str(urlsplit(upstream).netloc)
        self.seen: list[Seen] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        with socket.socket() as probe:  # a port that was asked for by number survives `refuse`
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        self._server = _Server(address, _Relay)
        self._server.proxy = self
        self.endpoint = f"http://127.0.0.1:{address[1]}"
        self._thread = threading.Thread(target=self._server.run, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.refuse()
        self._server.open.set()
        self._thread.join(timeout=10)
        self._server.server_close()

    def when(
        self,
        action: Action,
        *,
        method: str = "GET",
        path: str = "*",
        skip: int = 0,
        times: int | None = None,
        chance: float = 1.0,
        seed: int = 0,
    ) -> Rule:
        """Add a rule behind the others; return it."""
        rule = Rule(
            action=action, method=method, path=path, skip=skip, times=times, chance=chance, dice=random.Random(seed)
        )
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules: go well from now on."""
        with self._lock:
            self._rules.clear()

    def refuse(self) -> None:
        """Close the port, and RST all connections, until `accept`; who connects is refused."""
        self._server.open.clear()
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RD)  # stops listening even if a forked process has the socket
        self._server.reset_all()

    def accept(self) -> None:
        """Open the port again."""
        self._server.socket.listen(64)
        self._server.open.set()

    def count(self, path: str = "*", method: str = "GET") -> int:
        """Return the number of requests so far."""
        return len(self._matching(path, method))

    def sent(self, path: str = "*", method: str = "GET") -> int:
        """Return the bytes of bodies that clients were given so far."""
        return sum(seen.sent for seen in self._matching(path, method))

    def _matching(self, path: str, method: str) -> list[Seen]:
        with self._lock:
            return [seen for seen in self.seen if method in {"*", seen.method} and fnmatchcase(seen.path, path)]

    def begin(self, seen: Seen) -> Action | None:
        """Note an exchange; return what is to be done to it."""
        with self._lock:
            self.seen.append(seen)
            return next((rule.action for rule in self._rules if rule.takes(seen.method, seen.path)), None)

    def sleep(self, seconds: float) -> None:
        """Wait, or until the proxy ends."""
        self._ended.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, allow_reuse_address, request_queue_size = True, True, True, 64
    proxy: FaultProxy

    def __init__(self, *args: Any) -> None:
        self.open = threading.Event()
        self.open.set()
        self._clients: set[socket.socket] = set()
        super().__init__(*args)

    def run(self) -> None:
        """Serve connections until the port is closed for good."""
        while not self.proxy._ended.is_set():
            try:
                client, address = self.socket.accept()
            except OSError:  # refusing
                self.open.wait()
                continue
            self._clients.add(client)
            self.process_request(client, address)

    def shutdown_request(self, request: Any) -> None:
        """Let go of a connection."""
        self._clients.discard(request)
        with suppress(OSError):
            super().shutdown_request(request)

    def reset_all(self) -> None:
        """Break all connections: their threads meet the end when they next read or write."""
        for client in tuple(self._clients):
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up in mid-body when they time out; the tests look at clients, not at this side."""


class _Relay(BaseHTTPRequestHandler):
    """One client connection, with one connection upstream."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _upstream: http.client.HTTPConnection | None = None

    @property
    def _proxy(self) -> FaultProxy:
        assert isinstance(self.server, _Server)
        return self.server.proxy

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen = Seen(method=self.command, path=unquote(urlsplit(self.path).path), range=self.headers.get("Range"))
        action = self._proxy.begin(seen)
        exchange = Exchange(
            seen=seen,
            headers={name.lower(): value for name, value in self.headers.items()},
            ask=lambda **changes: self._ask(body, changes),
            answer=lambda *answer, **how: self._answer(seen, *answer, **how),
            sleep=self._proxy.sleep,
            reset=self._reset,
        )
        if action is None:
            self._answer(seen, *self._ask(body, {}))
        else:
            action(exchange)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _relay

    def _ask(self, body: bytes, changes: dict[str, str | None]) -> tuple[int, dict[str, str], bytes]:
        """Send the request on; a connection that upstream has closed meanwhile is replaced once."""
        for fresh in (False, True):
            if self._upstream is None or fresh:
                self._hang_up()
                self._upstream = http.client.HTTPConnection(self._proxy.upstream, timeout=60)
            try:
                return self._pass_on(self._upstream, body, changes)
            except (http.client.RemoteDisconnected, ConnectionError, BrokenPipeError):
                if fresh:
                    raise
        raise AssertionError

    def _pass_on(
        self, upstream: http.client.HTTPConnection, body: bytes, changes: dict[str, str | None]
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers = {name: value for name, value in headers.items() if name not in {"connection", "expect"}}
        if changes:
            changed = {name: value for name, value in (headers | changes).items() if value is not None}
            if "authorization" in headers:  # it covers what was changed
                changed = {name: value for name, value in changed.items() if not name.startswith(("auth", "x-amz-"))}
                changed = sign(self.command, f"http://{headers['host']}{self.path}", changed, body)
            headers = changed
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP - {"content-length"}}
        return answer.status, headers, answer.read()

    def _answer(
        self,
        seen: Seen,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        length: int | None = None,
        rate: float | None = None,
    ) -> None:
        seen.status = status
        self.send_response_only(status)
        announced = len(body) if length is None else length
        for name, value in headers.items():
            if name.lower() == "content-length":
                if self.command == "HEAD":
                    announced = int(value)
            elif name.lower() not in HOP:
                self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        if self.command == "HEAD":
            return
        step = PIECE if rate is None else max(1, int(rate / 20))
        begun = time.monotonic()
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            seen.sent += len(piece)  # before the client can have seen the end, and asks the meter
            self.wfile.write(piece)
            if rate is not None:
                self._proxy.sleep(seen.sent / rate - (time.monotonic() - begun))

    def _reset(self, *, politely: bool = False) -> None:
        """End the connection under the client's hands."""
        self.close_connection = True
        if not politely:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()  # before the server says good-bye with a FIN

    def _hang_up(self) -> None:
        if self._upstream is not None:
            self._upstream.close()

    def finish(self) -> None:
        """Close both sides."""
        self._hang_up()
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the parent
        """Say nothing."""
