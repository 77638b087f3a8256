"""Servers that misbehave: what a store makes of answers that are wrong, short, late, refusals, or none."""

from __future__ import annotations

import base64
import gzip
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bucket_server import Answer, BucketServer, Request, bucket_server, failure  # pyright: ignore[reportMissingImports]
from own_time import OwnTime
from store_world import (  # pyright: ignore[reportMissingImports]
    DATA,
    World,
    assert_discreet,
    make_world,
    over_http,
    over_plain_http,
    over_s3,
)

from mixstream.errors import (
    NoRangesError,
    StoreAccessError,
    StoreBusyError,
    StoreChangedError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage import open_store, redact


@pytest.fixture(scope="module")
def running() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


@pytest.fixture
def world(
    running: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> World:
    return make_world(request.param, running, tmp_path, monkeypatch)


def _changed(server: BucketServer, **changes: str | None) -> Callable[[Request], Answer]:
    """Return an `odd` that alters headers (`None`: leaves one out) or the body of the right answer."""

    def odd(request: Request) -> Answer:
        right = server.right_answer(request)
        headers = {name: changes.get(name.replace("-", "_"), value) for name, value in right.headers.items()}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        return replace(right, headers={name: value for name, value in headers.items() if value is not None})

    return odd


def _wrong_answers(server: BucketServer) -> dict[str, Callable[[Request], Answer]]:
    whole = server.right_answer

    def of_body(body: Callable[[bytes], bytes], **what: bool) -> Callable[[Request], Answer]:
        return lambda request: replace(right := whole(request), body=body(right.body), **what)

    def promising(request: Request) -> Answer:
        right = whole(request)
        headers = right.headers | {"Content-Length": str(len(right.body))}
        return replace(right, headers=headers, body=right.body[:-1], close=True)

    return {
        "short body, length to match": of_body(lambda body: body[:-1]),
        "long body": of_body(lambda body: body + b"x"),
        "empty body": of_body(lambda body: b""),
        "closed in mid-body": promising,
        "no length": of_body(lambda body: body, length=False),
        "gzipped on the way": lambda request: replace(
            right := whole(request),
            body=gzip.compress(right.body),
            headers=right.headers | {"Content-Encoding": "gzip"},
        ),
        "other range": _changed(server, Content_Range="bytes 3-5/768"),
        "shorter range": _changed(server, Content_Range="bytes 2-3/768"),
        "no range": _changed(server, Content_Range=None),
        "range of nothing": _changed(server, Content_Range="bytes 2-4/*"),
        "no date": _changed(server, Last_Modified="yesterday"),
        "no content": lambda request: Answer(204),
    }


@over_s3
@pytest.mark.parametrize("how", list(_wrong_answers(BucketServer(""))))
def test_an_answer_that_is_not_what_was_asked_for_is_a_fault(world: World, how: str) -> None:
    store = world.open()
    store.write("a", DATA)
    world.server.odd = _wrong_answers(world.server)[how]
    with pytest.raises(StoreFaultError, match="s3://bucket/some dir/x/a"):
        store.read("a", 2, 5)


@over_plain_http
@pytest.mark.parametrize(
    "how", ["short body, length to match", "closed in mid-body", "no length", "other range", "long body"]
)
def test_the_same_over_plain_http(world: World, how: str) -> None:
    store = world.open()
    store.write("a", DATA)
    world.server.odd = _wrong_answers(world.server)[how]
    with pytest.raises(StoreFaultError, match="/bucket/some%20dir/x/a"):
        store.read("a", 2, 5)


@over_s3
def test_a_whole_object_that_is_cut_or_absent_is_a_fault(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    for how in ("closed in mid-body", "no length", "no content"):
        world.server.odd = _wrong_answers(world.server)[how]
        with pytest.raises(StoreFaultError):
            store.read("a")


@over_http
def test_a_server_that_ignores_if_match_does_not_mix_versions(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    version = store.info("a").version
    store.write("a", DATA[::-1])

    def careless(request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        return world.server.right_answer(replace(request, headers=headers))

    world.server.odd = careless
    with pytest.raises(StoreChangedError):
        store.read("a", 2, 5, version=version)


@over_plain_http
def test_versions_without_strong_etags(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    world.server.odd = _changed(world.server, ETag='W/"weak"')
    assert store.read("a", 2, 5, version='W/"weak"').info.version == 'W/"weak"'
    assert "if-match" not in world.server.requests[-1].headers  # which would not match, by RFC 9110
    world.server.odd = _changed(world.server, ETag=None)
    dated = store.read("a", 2, 5).info.version
    assert dated is not None
    assert store.read("a", 2, 5, version=dated).info.version == dated
    world.server.odd = _changed(world.server, ETag=None, Last_Modified="Wed, 21 Oct 2026 07:28:01 GMT")
    with pytest.raises(StoreChangedError):
        store.read("a", 2, 5, version=dated)
    world.server.odd = _changed(world.server, ETag=None, Last_Modified=None)
    assert store.read("a", 2, 5).info.version is None


@over_plain_http
def test_a_server_without_ranges_says_so_and_can_be_read_whole(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    world.server.odd = lambda request: world.server.right_answer(replace(request, headers={}))
    with pytest.raises(NoRangesError, match="whole"):
        store.read("a", 2, 5)
    assert bytes(store.read("a").data) == DATA
    with pytest.raises(StoreError):
        store.names()


@over_s3
def test_what_is_stored_gzipped_comes_as_it_is_stored(world: World) -> None:
    packed = gzip.compress(DATA)
    store = world.open()
    store.write("a", packed)
    world.server.odd = _changed(world.server, Content_Encoding="gzip")
    assert bytes(store.read("a").data) == packed
    assert bytes(store.read("a", 2, 9).data) == packed[2:9]


@over_http
def test_a_redirect_is_followed_and_checked(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    with bucket_server() as other:
        other.objects |= world.server.objects
        world.server.odd = lambda request: Answer(302, headers={"Location": f"{other.url}/bucket/some%20dir/x/a"})
        assert bytes(store.read("a", 2, 5).data) == DATA[2:5]
        assert "authorization" not in other.requests[-1].headers


REFUSALS = [
    (400, "ExpiredToken", StoreAccessError, "expired"),
    (400, "InvalidToken", StoreAccessError, "credentials"),
    (401, "Unauthorized", StoreAccessError, "credentials"),
    (403, "AccessDenied", StoreAccessError, "credentials"),
    (403, "RequestTimeTooSkewed", StoreAccessError, "clock"),
    (404, "NoSuchBucket", StoreNotFoundError, "bucket"),
    (404, "ContainerNotFound", StoreNotFoundError, "container"),
    (404, "NoSuchKey", StoreNotFoundError, "`remote`"),
    (408, "", StoreFaultError, "failed"),
    (412, "PreconditionFailed", StoreChangedError, "replace"),
    (416, "InvalidRange", StoreFaultError, "truncated"),
    (429, "TooManyRequests", StoreBusyError, "slow down"),
    (400, "RequestTimeout", StoreFaultError, "failed"),
    (500, "InternalError", StoreFaultError, "failed"),
    (502, "", StoreFaultError, "failed"),
    (503, "SlowDown", StoreBusyError, "slow down"),
    (503, "ServerBusy", StoreBusyError, "slow down"),
    (503, "", StoreBusyError, "slow down"),
    (400, "InvalidArgument", StoreError, "look the code up"),
    (405, "MethodNotAllowed", StoreError, "look the code up"),
]


@pytest.mark.parametrize(("status", "code", "kind", "word"), REFUSALS)
@over_http
def test_refusals_keep_status_and_code(world: World, status: int, code: str, kind: type[StoreError], word: str) -> None:
    store = world.open()
    answer = failure(status, code, "SECRETWORD in prose") if code else Answer(status, b"<html>SECRETWORD</html>" * 999)
    world.server.odd = lambda request: answer
    for ask in (lambda: store.read("a", 2, 5), lambda: store.read("a"), lambda: store.write("a", b"x")):
        with pytest.raises(kind, match=word) as caught:
            ask()
        assert type(caught.value) is kind
        text = str(caught.value)
        assert str(status) in text
        assert code in text
        assert len(text) < 600
        assert_discreet(caught.value)
    asked = len(world.server.requests)
    with pytest.raises(kind):
        store.read("a", 2, 5)
    assert len(world.server.requests) == asked + 1  # one attempt: trying again is the caller's


def test_a_refusal_over_http_says_how_credentials_are_given(running: BucketServer) -> None:
    running.odd = lambda request: failure(403, "AccessDenied")
    with pytest.raises(StoreAccessError) as caught:
        open_store(f"{running.url}/dir", timeout=5).read("a")
    text = redact(str(caught.value))
    assert "user:password before the host, or a signed query" in text
    assert "s3://BUCKET/... with S3_ENDPOINT_URL" in text


def test_credentials_in_an_http_url_are_used_and_never_shown(running: BucketServer) -> None:
    running.objects["dir/a"] = DATA
    running.odd = None
    url = running.url.replace("http://", "http://me:SECRETWORD@") + "/dir?sig=SECRETWORD"
    store = open_store(url, timeout=5)
    assert bytes(store.read("a", 2, 5).data) == DATA[2:5]
    sent = running.requests[-1]
    assert sent.query == {"sig": "SECRETWORD"}
    assert base64.b64decode(sent.headers["authorization"].removeprefix("Basic ")) == b"me:SECRETWORD"
    assert store.url == running.url + "/dir"
    assert "SECRET" not in repr(store)
    with pytest.raises(StoreNotFoundError) as caught:
        store.read("nope")
    assert_discreet(caught.value)


def test_a_host_that_refuses_resets_or_is_none() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/dir"
    with pytest.raises(
        StoreFaultError, match=f"the connection to {address.removesuffix('/dir')} was refused"
    ) as caught:
        open_store(f"{address.replace('//', '//me:SECRETWORD@')}?sig=SECRETWORD", timeout=5).read("a")
    assert_discreet(caught.value)
    with pytest.raises(StoreFaultError, match=r"host name of http://no-such-host\.invalid was not found"):
        open_store("http://no-such-host.invalid/dir", timeout=5).read("a")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", b"nonsense\r\n\r\n"):
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(answer)
                if not answer:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        store = open_store(f"http://127.0.0.1:{listener.getsockname()[1]}/dir", timeout=5)
        for word in ("reset", "closed before the end", "does not speak HTTP"):
            with pytest.raises(StoreFaultError, match=word):
                store.read("a")
        thread.join()


@over_s3
def test_the_timeout_holds_for_the_answer_and_for_its_body(world: World) -> None:
    store = world.open(timeout=0.4)
    store.write("a", DATA)
    done = threading.Event()

    def stalled(request: Request) -> Answer:
        return replace(right := world.server.right_answer(request), headers=right.headers | {"Content-Length": "99999"})

    world.server.odd = stalled
    began = time.monotonic()
    with OwnTime() as clock, pytest.raises(StoreFaultError, match="in time"):
        store.read("a")
    assert time.monotonic() - began > 0.3
    assert clock.seconds < 3
    world.server.odd = lambda _: Answer(500 + done.wait(2))
    with OwnTime() as clock, pytest.raises(StoreFaultError, match="in time"):
        store.read("a")
    assert clock.seconds < 1.5
    done.set()
