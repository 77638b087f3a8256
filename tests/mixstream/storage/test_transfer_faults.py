"""Objects in parts from a real server that goes wrong once: right bytes, and one more request."""

from __future__ import annotations

import os
from collections import Counter

import faults  # pyright: ignore[reportMissingImports] - conftest.py sets the path
import pytest
from servers import PUBLIC, S3  # pyright: ignore[reportMissingImports]

from mixstream.errors import ShardCorruptError, StoreFaultError, StoreNotFoundError
from mixstream.storage import Retry, open_store, read_object, transfer

PART = 1 << 17


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART", PART)


FAULTS = {
    "reset": faults.reset(after=1000),
    "truncated": faults.truncate(after=1000),
    "slow down": faults.refuse_with(503, "SlowDown", retry_after=0.01),
    "internal": faults.refuse_with(500, "InternalError"),
    "expired": faults.refuse_with(403, "ExpiredToken"),
    "whole": faults.ignore_range(),
    "another range": faults.shift_range(7),
    "another object": faults.change_headers(etag='"0"'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_from_a_real_server_a_fault_costs_no_more_than_its_part(s3, proxy, fault):
    body = os.urandom(1 << 20)
    s3.put("x", body)
    with os.fdopen(os.memfd_create("into"), "r+b") as file:
        file.truncate(len(body))
        rule = proxy.when(FAULTS[fault], times=1, skip=2)
        assert read_object(open_store(s3.url), "x", size=len(body), retry=Retry(unit=1e-2), into=file.fileno()) is None
        assert file.read() == body
    assert rule.acted == 1
    if fault == "another object":
        assert proxy.count() <= 2 * len(body) // PART  # begun anew
    else:
        assert proxy.count() == len(body) // PART + 1
        assert not set(Counter(seen.range for seen in proxy.seen).values()) - {1, 2}


def test_a_real_server_is_written_to_and_says_what_is_not_there(s3):
    store, body = open_store(s3.url), os.urandom(3 * PART + 1)
    store.write("x", body)
    assert s3.get("x") == read_object(store, "x", size=None, retry=Retry()) == body
    with pytest.raises(ShardCorruptError, match=f"{len(body)} bytes, the index says {len(body) + 1}"):
        read_object(store, "x", size=len(body) + 1, retry=Retry(unit=1e-3))
    with pytest.raises(StoreNotFoundError) as caught:
        read_object(store, "y", size=100, retry=Retry(attempts=5))
    assert "1 attempt in" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("fault", ["reset", "internal", "slow down"])
def test_a_cut_object_is_told_from_a_fault_even_if_the_store_fails_once_when_its_size_is_asked_for(s3, proxy, fault):
    s3.put("x", b"cut")
    rule = proxy.when(faults.reset() if fault == "reset" else FAULTS[fault], method="HEAD", times=1)
    with pytest.raises(ShardCorruptError, match="3 bytes, the index says 4"):
        read_object(open_store(s3.url), "x", size=4, retry=Retry(unit=1e-3))
    assert rule.acted == 1


def test_a_cut_object_is_told_from_a_fault_by_answers_that_agree_where_its_size_cannot_be_asked_for(s3, proxy):
    s3.put("x", b"cut")
    head = proxy.when(faults.reset(), method="HEAD")
    with pytest.raises(ShardCorruptError, match="3 bytes, the index says 4"):
        read_object(open_store(s3.url), "x", size=4, retry=Retry(attempts=3, unit=1e-3))
    assert head.acted > 1
    # One answer is not believed: it may be a fault.
    proxy.when(faults.reset(), method="GET", skip=1)
    with pytest.raises(StoreFaultError):
        read_object(open_store(s3.url), "x", size=4, retry=Retry(attempts=3, unit=1e-3))


def test_plain_http_without_ranges_comes_whole(s3, proxy):
    body = os.urandom(3 * PART)
    place = S3(endpoint=s3.endpoint, bucket=PUBLIC, prefix=s3.prefix)
    place.put("x", body)
    proxy.when(faults.ignore_range())
    store = open_store(f"{proxy.endpoint}/{place.bucket}/{place.prefix}")
    assert read_object(store, "x", size=len(body), retry=Retry()) == body
