"""Credentials stay with the scheme, host and port that they were given for, wherever a server leads."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from bucket_server import (  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path
    Answer,
    BucketServer,
    Request,
    bucket_server,
    failure,
)
from store_world import DATA  # pyright: ignore[reportMissingImports]

from mixstream.errors import StoreError, StoreFaultError
from mixstream.storage import Store, open_store
from mixstream.storage.stores import clients
from mixstream.storage.stores.obstore_objects import locked

SECRET = "SECRETWORD"
KINDS = {
    "user": "http://me:SECRETWORD@{host}/bucket/dir",
    "query": "http://{host}/bucket/dir?X-Amz-Signature=SECRETWORD&X-Amz-Security-Token=SECRETWORD",
    "token": "s3://bucket/dir",
    "keys": "s3://bucket/dir",
}
BIG = bytes(3 << 20)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[BucketServer, BucketServer]]:
    with bucket_server() as one, bucket_server() as other:
        yield one, other


@pytest.fixture
def pair(servers: tuple[BucketServer, BucketServer]) -> tuple[BucketServer, BucketServer]:
    for server in servers:
        server.objects |= {"bucket/dir/a": DATA, "bucket/dir/big": BIG}
        server.requests.clear()
        server.odd = None
    return servers


def _open(kind: str, server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKSECRETWORD")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    if kind == "token":
        monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    return open_store(KINDS[kind].format(host=server.url.removeprefix("http://")), timeout=5)


def _all_of(request: Request) -> str:
    return f"{request.path} {request.query} {request.headers} {request.body!r}"


ACTS: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("a", 2, 5),
    "read all": lambda store: store.read("a"),
    "read much": lambda store: store.read("big", 0, len(BIG)),
    "look": lambda store: store.info("a"),
    "list": lambda store: store.names(),
    "write": lambda store: store.write("b", b"x"),
    "write much": lambda store: store.write("b", bytes(9 << 20)),
    "remove": lambda store: store.remove("a"),
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_that_is_secret_leaves(
    pair: tuple[BucketServer, BucketServer], kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    store = _open(kind, here, monkeypatch)
    for host in (there.url, there.url.replace("127.0.0.1", "localhost"), there.url.replace("//", "//u:SECRETWORD@")):
        here.odd = lambda request, host=host: Answer(status, b"gone", {"Location": f"{host}/bucket/dir/a"})
        for act in ACTS.values():
            with suppress(StoreError):
                act(store)
    assert any("127.0.0.1" in request.headers["host"] for request in there.requests)
    for request in there.requests:
        assert SECRET not in _all_of(request)
        assert request.method in ("GET", "HEAD", "PROPFIND")
        assert not {"authorization", "cookie", "referer", "proxy-authorization"} & set(request.headers)
        assert not [name for name in request.headers if name.startswith("x-amz")]
    assert any(
        {"authorization", "x-amz-security-token"} & set(request.headers) or request.query for request in here.requests
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_redirect_is_followed_without_them_and_checked(
    pair: tuple[BucketServer, BucketServer], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    store = _open(kind, here, monkeypatch)
    here.odd = lambda request: Answer(307, b"gone", {"Location": f"{there.url}{request.path}?signed=for-there"})
    assert bytes(store.read("a", 2, 5).data) == DATA[2:5]
    sent = there.requests[-1]
    assert (sent.query, sent.headers["range"]) == ({"signed": "for-there"}, "bytes=2-4")
    there.odd = lambda request: Answer(302, b"", {"Location": f"{here.url}/bucket/other"})
    with suppress(StoreError):
        store.read("a", 2, 5)
    assert SECRET not in _all_of(here.requests[-1])  # who was led away and back is led by another


def test_within_one_origin_they_are_kept(
    pair: tuple[BucketServer, BucketServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = pair
    store = _open("user", here, monkeypatch)
    here.odd = lambda request: Answer(302, b"", {"Location": "/bucket/dir/a"}) if request.path.endswith("/b") else None
    assert bytes(store.read("b", 2, 5).data) == DATA[2:5]
    assert "authorization" in here.requests[-1].headers
    here.odd = lambda request: replace(here.right_answer(request), headers={"Set-Cookie": "id=SECRETWORD", **_dated})
    store.info("a")
    store.info("a")
    assert "cookie" not in here.requests[-1].headers


_dated = {"ETag": '"0f"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}


@pytest.mark.parametrize("user", ["me:SECRETWORD@", ""])
def test_from_tls_to_plain_text_is_refused(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(self: object, method: str, url: str, **_: Any) -> urllib3.HTTPResponse:
        asked.append(url)
        headers = {"Location": "http://h.invalid/dir/a", "Content-Length": "0"}
        return urllib3.HTTPResponse(io.BytesIO(), headers, 302, preload_content=False)

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", answer)
    with pytest.raises(StoreFaultError, match=r"https://h\.invalid redirected it from https:// to http://h\.invalid"):
        open_store(f"https://{user}h.invalid/dir", timeout=5).read("a")
    assert asked == ["https://h.invalid/dir/a"]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://h/a", "http://", "//[::1", "http://h:port/", "http://h:99999/"]
)
def test_redirects_to_nowhere(
    pair: tuple[BucketServer, BucketServer], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = pair
    store = _open("user", here, monkeypatch)
    here.odd = lambda request: Answer(302, b"", {"Location": target})
    with pytest.raises(StoreFaultError, match="redirected"):
        store.read("a")
    assert len(here.requests) <= 6  # "http://" alone is where it was


def test_what_is_written_goes_nowhere_else(
    pair: tuple[BucketServer, BucketServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    store = _open("token", here, monkeypatch)
    here.odd = lambda request: Answer(307, b"", {"Location": f"{there.url}{request.path}"})
    (tmp_path / "file").write_bytes(b"x")
    for act in (lambda: store.write("b", tmp_path / "file"), lambda: store.remove("a")):
        with pytest.raises(StoreError, match="name that one"):
            act()
    assert not there.requests


def test_a_bucket_whose_region_is_never_right_is_given_up(
    pair: tuple[BucketServer, BucketServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    store = _open("token", here, monkeypatch)
    away = {"Location": f"{there.url}/bucket/dir/a", "x-amz-bucket-region": "ap-south-1"}
    here.odd = lambda request: replace(failure(301, "PermanentRedirect"), headers=away)
    with pytest.raises(StoreError, match="in another region"):
        store.read("a", 2, 5)
    assert not there.requests
    assert len(here.requests) < 6


def test_obstore_is_locked_to_its_host(pair: tuple[BucketServer, BucketServer]) -> None:
    import obstore
    from obstore.store import S3Store

    here, there = pair
    elsewhere = there.url.replace("127.0.0.1", "localhost")
    here.odd = lambda request: Answer(302, b"", {"Location": f"{elsewhere}{request.path}"})
    for options, reached in (({}, True), (locked("127.0.0.1"), False)):
        pool = S3Store(
            "bucket",
            endpoint=here.url,
            region="r",
            access_key_id="a",
            secret_access_key="b",
            session_token=SECRET,
            client_options={"allow_http": True, **options},
            retry_config={"max_retries": 0},
        )
        with suppress(Exception):
            obstore.get(pool, "dir/a")
        assert bool(there.requests) == reached  # without the lock, the token would be there
        assert any(SECRET in _all_of(request) for request in here.requests)
        here.requests.clear()
        there.requests.clear()


@pytest.mark.parametrize(
    ("endpoint", "token", "proxy", "bulk"),
    [
        ("https://127.0.0.1:9", "", "", True),
        ("https://127.0.0.1:9", SECRET, "", False),
        ("https://s3.eu-west-1.amazonaws.com", SECRET, "", True),
        ("https://s3.eu-west-1.amazonaws.com.evil.example", SECRET, "", False),
        ("https://s3.eu-west-1.amazonaws.com", SECRET, "http://127.0.0.1:9", False),
        ("http://127.0.0.1:9", "", "", False),
    ],
)
def test_large_reads_are_obstores_only_where_it_is_safe(
    endpoint: str, token: str, proxy: str, bulk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_SESSION_TOKEN": token, "HTTPS_PROXY": proxy}
    for name, value in (settings | {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}).items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    client = clients.client_of(clients.address_of("s3://bucket/dir"), 5.0)
    assert (client.bulk is not None) == bulk
    assert client.reads(100) is client.pool
    assert (client.reads(16 << 20) is client.bulk) == bulk
