"""A server on loopback that says what a test gives it, byte for byte, and does not come to an end by itself."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

LONGEST = 192 << 20
"""Bytes after which a connection is closed, so that a client that does not stop fails its test and not the machine."""

Respond = Callable[[str, str, dict[str, str]], tuple[bytes, Iterable[bytes]]]


@dataclass
class EndlessServer:
    """The server of a test.

    Args:
        url: of its root.
        respond: (method, path and query, headers in lower case) -> head, and the pieces of the body.

    Attributes:
        asked: method, path and headers of each request.
        sent: bytes of bodies that clients took, those in the buffers of sockets included.
        connections: how many were made.
    """

    url: str
    respond: Respond = lambda method, path, headers: (b"HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", ())
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    connections: int = 0


def pieces(data: bytes = bytes(1 << 16)) -> Iterator[bytes]:
    """Return a body without end."""
    return itertools.repeat(data)


def chunked(body: Iterable[bytes]) -> Iterator[bytes]:
    """Return a body in chunks; without end if `body` is."""
    for piece in body:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def head(status: int, **headers: object) -> bytes:
    """Return the head of an answer."""
    lines = [f"HTTP/1.1 {status} Words", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def endless_server() -> Iterator[EndlessServer]:
    """Serve on a free loopback port until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = EndlessServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=_accept, args=(listener, server), daemon=True).start()
        try:
            yield server
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, server: EndlessServer) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server.connections += 1
        threading.Thread(target=_serve, args=(client, server), daemon=True).start()


def _serve(client: socket.socket, server: EndlessServer) -> None:
    with client, client.makefile("rb") as lines, suppress(OSError):
        client.settimeout(20)
        while first := lines.readline():
            method, path, _ = first.decode().split(" ", 2)
            headers = dict(line.decode().rstrip("\r\n").split(": ", 1) for line in iter(lines.readline, b"\r\n"))
            headers = {name.lower(): value for name, value in headers.items()}
            lines.read(int(headers.get("content-length", 0)))
            server.asked.append((method, path, headers))
            start, body = server.respond(method, path, headers)
            client.sendall(start)
            sent = 0
            for piece in body if method != "HEAD" else ():
                client.sendall(piece)
                server.sent, sent = server.sent + len(piece), sent + len(piece)
                if sent > LONGEST:
                    return
            if b"Connection: close" in start:
                return
