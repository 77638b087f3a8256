"""Connections as the environment wants them: proxies, certificates, signs of life; and bodies that are sent in time."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from endless_server import EndlessServer, endless_server, head  # pyright: ignore[reportMissingImports]
from urllib3.connection import HTTPConnection

from mixstream.errors import ConfigError, StoreError, StoreFaultError
from mixstream.storage import open_store
from mixstream.storage.stores import transport
from mixstream.storage.stores.connections import Connections, proxy_of
from mixstream.storage.stores.obstore import ObjectStore

DATED = {"ETag": '"0f"', "Last_Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[EndlessServer]:
    with endless_server() as one:
        yield one


@pytest.mark.parametrize(
    ("excepted", "host", "port", "direct"),
    [
        ("10.0.0.0/8,localhost", "10.1.2.3", 9000, True),
        ("10.0.0.0/8", "11.1.2.3", 9000, False),
        ("10.0.0.0/8", "ten.example", 80, False),
        ("fd00::/8", "fd00::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("minio:9000", "minio", 9000, True),
        ("minio:9000", "minio", 9001, False),
        (".example", "store.example", 443, True),
        ("*", "anything", 443, True),
        ("", "anything", 443, False),
    ],
)
def test_no_proxy_names_hosts_ports_domains_and_networks(
    excepted: str, host: str, port: int, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", excepted)
    assert proxy_of("http", host, port) == ("" if direct else "http://proxy:3128")


def test_a_password_of_a_proxy_is_decoded(server: EndlessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss%3A@{server.url.removeprefix('http://')}")
    server.respond = lambda method, path, headers: (
        head(206, Content_Length=1, Content_Range="bytes 0-0/9", **DATED),
        [b"x"],
    )
    assert bytes(open_store("http://store.invalid/dir", timeout=5).read("a", 0, 1).data) == b"x"
    _, path, headers = server.asked[-1]
    assert path == "http://store.invalid/dir/a"
    assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")) == b"me:p@ss:"


@pytest.mark.parametrize("proxy", ["socks5h://me:SECRETWORD@host:1080", "http://", "http://host:port", "http://[a"])
def test_a_proxy_that_cannot_be_used_is_refused_by_name(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match=r"the proxy that the environment sets.*NO_PROXY") as refused:
        open_store("http://store.invalid/dir", timeout=5).info("a")
    assert "SECRETWORD" not in str(refused.value)


@pytest.mark.parametrize("named", [True, False])
def test_where_the_system_has_no_certificates_there_are_others(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ssl.get_default_verify_paths()._replace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(ssl, "create_default_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    if named:
        monkeypatch.setenv("SSL_CERT_FILE", "/of/the/user")
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = Connections().pool("https", "host", 443).connection_pool_kw["ssl_context"]
    assert (context.cert_store_stats()["x509_ca"] > 20) is not named


def test_an_idle_connection_is_asked_for_signs_of_life(server: EndlessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    connect = HTTPConnection.connect

    def connected(self: Any) -> None:
        connect(self)
        alive.append(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    monkeypatch.setattr(HTTPConnection, "connect", connected)
    server.respond = lambda method, path, headers: (head(200, Content_Length=1, **DATED), [b"x"])
    open_store(f"{server.url}/dir", timeout=5).info("a")
    assert alive == [1]


def test_a_redirect_costs_no_connection(server: EndlessServer) -> None:
    def respond(method: str, path: str, headers: dict[str, str]) -> tuple[bytes, list[bytes]]:
        if path == "/dir/a":
            return head(302, Location="/other/a", Content_Length=900), [bytes(900)]
        return head(206, Content_Length=1, Content_Range="bytes 0-0/9", **DATED), [b"x"]

    server.respond = respond
    store = open_store(f"{server.url}/dir", timeout=5)
    for _ in range(3):
        assert bytes(store.read("a", 0, 1).data) == b"x"
    assert (len(server.asked), server.connections) == (6, 1)


def test_blanks_before_a_listing_are_taken(server: EndlessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    page = b'  \n<?xml version="1.0"?><ListBucketResult><Contents><Key>dir/a</Key></Contents></ListBucketResult>'
    server.respond = lambda method, path, headers: (head(200, Content_Length=len(page)), [page])
    for name, value in {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert open_store("s3://bucket/dir", timeout=5).names() == ["a"]


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:00:00 -2300", "soon", ","])
def test_dates_that_are_none(server: EndlessServer, date: str) -> None:
    server.respond = lambda method, path, headers: (head(200, Content_Length=1, Last_Modified=date, Date=date), [])
    store = open_store(f"{server.url}/dir", timeout=5)
    with pytest.raises(StoreFaultError, match="invalid date"):
        store.info("a")
    assert isinstance(store, ObjectStore)
    assert store.clock() is None


@contextmanager
def _slow_reader(*, quick_after: float, pause: float = 0.01, unsent: list[int] | None = None) -> Iterator[str]:
    """Serve one PUT, whose body is read slowly for some seconds, and then answered; yield the URL.

    The bytes of the body that were not sent are added to `unsent`.
    """

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            data, began = b"", time.monotonic()
            while b"\r\n\r\n" not in data:
                data += client.recv(1 << 12)
            front, _, rest = data.partition(b"\r\n\r\n")
            left = int(front.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(rest)
            while left > 0 and (piece := client.recv(1 << 17)):
                left -= len(piece)
                if time.monotonic() - began < quick_after:
                    time.sleep(pause)
            if unsent is not None:
                unsent.append(left)
            if left == 0:
                client.sendall(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # what a client has sent is read soon
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/dir"
        thread.join(20)


def test_a_long_body_takes_the_time_of_a_request_and_not_that_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_CONNECT", 0.25)
    with _slow_reader(quick_after=0.5) as url:
        open_store(url, timeout=20).write("a", bytes(24 << 20))


def test_a_file_is_not_sent_beyond_the_deadline(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(24 << 20))
    unsent: list[int] = []
    reader = _slow_reader(quick_after=0.8, pause=0.05, unsent=unsent)
    with reader as url, pytest.raises(StoreError, match="did not answer in time"):
        open_store(url, timeout=0.3).write("a", file)
    assert unsent[0] > 0


def test_no_certificates_are_read_for_plain_http(server: EndlessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a tenth of a second."""
    server.respond = lambda method, path, headers: (head(200, Content_Length=1, **DATED), [b"x"])
    monkeypatch.setattr("ssl.create_default_context", None)
    assert open_store(f"{server.url}/dir", timeout=5).info("a").size == 1
    with pytest.raises(TypeError):
        open_store(f"https{server.url.removeprefix('http')}/dir", timeout=5).info("a")
