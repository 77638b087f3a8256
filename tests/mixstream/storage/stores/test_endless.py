"""Answers without bound: a client takes what it asked for, says what is wrong, and closes the connection."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from endless_server import (  # pyright: ignore[reportMissingImports] - tests/conftest.py sets the path
    EndlessServer,
    chunked,
    endless_server,
    head,
    pieces,
)

from mixstream.errors import IndexCorruptError, MixstreamError, StoreError, StoreFaultError, StoreNotFoundError
from mixstream.storage import DatasetFiles, Retry, Store, open_store, read_object
from mixstream.storage.store import read_at_most

LOTS = 1_500_000_000
BOUND = 24 << 20  # bytes that a client may take, buffers of sockets included, which have some of them
DATED = {"ETag": '"0f"', "Last_Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}


@pytest.fixture(scope="module")
def running() -> Iterator[EndlessServer]:
    with endless_server() as server:
        yield server


@pytest.fixture
def server(running: EndlessServer) -> EndlessServer:
    running.asked.clear()
    running.sent, running.respond = 0, lambda *_: (head(404, Content_Length=0), ())
    return running


@pytest.fixture(params=["http", "s3"])
def store(server: EndlessServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    store = open_store(f"{server.url}/dir" if request.param == "http" else "s3://bucket/dir", timeout=10)
    with suppress(StoreError):
        store.info("a")  # makes a client, whose memory is not what is measured
    return store


@contextmanager
def bounded(server: EndlessServer) -> Iterator[None]:
    """Check that neither memory nor what the server gets rid of grows with what it has."""
    before, _ = server.sent, tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()
    assert server.sent - before < BOUND


PART = {"Content_Range": "bytes 0-0/768", **DATED}
BODIES: dict[str, tuple[Callable[[], bytes], bool]] = {
    "a longer part": (lambda: head(206, Content_Length=LOTS, **PART), False),
    "a part in chunks": (lambda: head(206, Transfer_Encoding="chunked", **PART), True),
    "a part of no length": (lambda: head(206, Connection="close", **PART), False),
    "a part of two lengths": (lambda: head(206, Content_Length=f"1\r\nContent-Length: {LOTS}", **PART), False),
    "a part, packed": (lambda: head(206, Content_Length=LOTS, Content_Encoding="gzip", **PART), False),
    "all of it": (lambda: head(200, Content_Length=LOTS, **DATED), False),
    "all of it, in chunks": (lambda: head(200, Transfer_Encoding="chunked", **DATED), True),
    "a success of another kind": (lambda: head(203, Content_Length=LOTS, **DATED), False),
    "no content, but much of it": (lambda: head(204, Content_Length=LOTS, **DATED), False),
    **{
        f"{status}": (lambda status=status: head(status, Content_Length=LOTS), False) for status in (301, 400, 404, 500)
    },
    **{
        f"{status} in chunks": (lambda status=status: head(status, Transfer_Encoding="chunked"), True)
        for status in (403, 412, 503)
    },
    "300 to nowhere": (lambda: head(302, Content_Length=LOTS, Location="ftp://elsewhere/"), False),
}


@pytest.mark.parametrize("how", list(BODIES))
def test_one_byte_is_asked_for(server: EndlessServer, store: Store, how: str) -> None:
    start, in_chunks = BODIES[how]
    server.respond = lambda *_: (start(), chunked(pieces()) if in_chunks else pieces())
    with bounded(server), pytest.raises(StoreError):
        store.read("a", 0, 1)


def test_a_body_that_goes_on_is_cut_at_what_its_head_says(server: EndlessServer, store: Store) -> None:
    server.respond = lambda *_: (head(206, Content_Length=1, **PART), pieces())
    with bounded(server):
        assert bytes(store.read("a", 0, 1).data) == b"\0"
        assert bytes(store.read("a", 0, 1).data) == b"\0"  # and not the rest of the first answer


def test_an_object_is_read_whole_up_to_what_the_caller_takes(server: EndlessServer, store: Store) -> None:
    server.respond = lambda *_: (head(200, Content_Length=LOTS, **DATED), pieces())
    with bounded(server), pytest.raises(StoreError, match=f"/dir/a: {LOTS} bytes are there.*1000 are the most"):
        read_at_most(store, "a", 1000)
    with bounded(server), pytest.raises(StoreError, match="none were read"):
        store.read("a")  # beyond a gigabyte
    asked = len(server.asked)
    with bounded(server), pytest.raises(MixstreamError):
        read_object(store, "a", size=4_000, retry=Retry(attempts=1, timeout=10))
    assert len(server.asked) - asked <= 3


@pytest.mark.parametrize("length", [10**30, -1, "many", "1, 2", "0x10", "٣", f"{2**64}", ""])
def test_sizes_that_are_none(server: EndlessServer, store: Store, length: object) -> None:
    server.respond = lambda *_: (head(200, Content_Length=str(length), Connection="close", **DATED), ())
    with pytest.raises(StoreFaultError, match="length"):
        store.info("a")


@pytest.mark.parametrize("line", [b"X-More: and more\r\n", b"x" * 1000])
def test_headers_without_end(server: EndlessServer, store: Store, line: bytes) -> None:
    server.respond = lambda *_: (b"HTTP/1.1 206 Words\r\n", pieces(line))
    with bounded(server), pytest.raises(StoreFaultError):
        store.read("a", 0, 1)


def drip(line: bytes) -> Iterator[bytes]:
    for _ in range(24):
        time.sleep(0.05)
        yield line
    yield b"\r\n\r\nwords\r\n\r\n"  # of which a client without a deadline says something else


@pytest.mark.parametrize("store", ["http"], indirect=True)
@pytest.mark.parametrize(
    ("start", "line"),
    [(b"HT", b"T"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 206 Words\r\nX-A: ", b"a")],
    ids=["a status", "interim answers", "a header"],
)
def test_a_head_that_comes_byte_by_byte_has_the_time_of_its_request(
    server: EndlessServer, store: Store, start: bytes, line: bytes
) -> None:
    server.respond = lambda *_: (start, drip(line))
    with pytest.raises(StoreFaultError, match="did not answer in time"):
        open_store(store.url, timeout=0.3).read("a", 0, 1)


def test_redirects_without_end(server: EndlessServer, store: Store) -> None:
    numbers = itertools.count()
    server.respond = lambda *_: (head(302, Location=f"/dir/{next(numbers)}", Content_Length=LOTS), pieces())
    with bounded(server), pytest.raises(StoreFaultError, match="redirected more than"):
        store.read("a", 0, 1)
    assert len(server.asked) < 10


def _page(names: Iterator[int], *, token: str | None, size: int = 20) -> bytes:
    rows = "".join(f"<Contents><Key>dir/{i:09}</Key><Size>1</Size></Contents>" for i in itertools.islice(names, size))
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token is not None else ""
    return f"<ListBucketResult><IsTruncated>true</IsTruncated>{rows}{more}</ListBucketResult>".encode()


def _listing(page: Callable[[], bytes]) -> Callable[..., tuple[bytes, list[bytes]]]:
    pages = itertools.count()

    def respond(*_: object) -> tuple[bytes, list[bytes]]:
        # It ends after all, so that a client that goes on for ever fails and does not hang.
        body = page() if next(pages) < 200 else b"<ListBucketResult/>"
        return head(200, Content_Length=len(body)), [body]

    return respond


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_listings_without_end(server: EndlessServer, store: Store) -> None:
    begin = b"<ListBucketResult>" + b"<Contents><Key>dir/a</Key></Contents>" * 1000
    # One page that goes on: it is given up after 32 MB, in Python's memory.
    server.respond = lambda *_: (head(200, Transfer_Encoding="chunked"), chunked(pieces(begin)))
    with pytest.raises(StoreFaultError, match=r"could not list it: a page of a listing of more than"):
        store.names()
    assert server.sent < 64 << 20
    numbers = itertools.count()
    pages: dict[str, Callable[[], bytes]] = {
        "the same token": lambda: _page(itertools.count(next(numbers) * 1000), token="T"),
        "the same page, with other tokens": lambda: _page(itertools.count(), token=str(next(numbers))),
        "two tokens in turns": lambda: _page(itertools.count(next(numbers) * 1000), token=str(next(numbers) // 2 % 2)),
        "nothing, again and again": lambda: _page(iter(()), token=str(next(numbers))),
    }
    for how, page in pages.items():
        server.respond, asked = _listing(page), len(server.asked)
        with bounded(server), pytest.raises(StoreFaultError, match=r"never ends|does not end"):
            store.names()
        assert len(server.asked) - asked < 110, how
    server.respond = _listing(lambda: _page(itertools.count(next(numbers) * 1000), token=str(next(numbers))))
    assert len(store.names(limit=50)) == 50  # who asks for some gets some


@pytest.mark.parametrize("store", ["http"], indirect=True)
def test_a_listing_of_webdav_without_end(server: EndlessServer, store: Store) -> None:
    server.respond = lambda *_: (head(207, Transfer_Encoding="chunked"), chunked(pieces(b"<response/>" * 6000)))
    with pytest.raises(StoreFaultError, match="a listing of more than"):
        store.names()
    assert server.sent < 64 << 20
    server.respond = lambda *_: (head(200, Content_Length=LOTS), pieces())
    with bounded(server), pytest.raises(StoreError):
        store.names()


def test_an_index_is_looked_at_before_it_is_read(server: EndlessServer, tmp_path: Path) -> None:
    retry = Retry(attempts=1, timeout=10)

    def dataset() -> bytes:
        remote, local = f"{server.url}/dir", str(tmp_path / "cache")
        return DatasetFiles.locate(remote=remote, local=local, split=None, retry=retry).read_index()[0]

    for start in (head(206, Content_Length=LOTS, **PART), head(200, Content_Length=LOTS, **DATED)):
        server.respond = lambda *_, start=start: (start, pieces())
        with bounded(server), pytest.raises((StoreError, IndexCorruptError)):
            dataset()
    huge = {"Content_Range": f"bytes 0-0/{10**17}", **DATED}
    server.respond = lambda *_: (head(206, Content_Length=1, **huge), pieces())
    with bounded(server), pytest.raises(IndexCorruptError, match="more than the"):
        dataset()
    server.respond = lambda *_: (head(404, Content_Length=LOTS), pieces())
    with bounded(server), pytest.raises(MixstreamError, match="not found") as caught:
        dataset()
    assert isinstance(caught.value, FileNotFoundError | StoreNotFoundError)


@pytest.mark.parametrize("kind", ["gs", "az"])
def test_what_obstore_reads_is_cut_too(server: EndlessServer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.url)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", f'{{"gcs_base_url": "{server.url}", "disable_oauth": true, '
                       '"client_email": "", "private_key": "", "private_key_id": ""}')  # fmt: skip
    store = open_store(f"{kind}://bucket/dir", timeout=10)
    server.respond = lambda *_: (head(206, Content_Length=LOTS, **PART), pieces())
    with bounded(server), pytest.raises(StoreFaultError, match="and a body of"):
        store.read("a", 0, 1)
    server.respond = lambda *_: (head(200, Content_Length=LOTS, **DATED), pieces())
    with bounded(server), pytest.raises(StoreError, match="1000 are the most"):
        read_at_most(store, "a", 1000)
