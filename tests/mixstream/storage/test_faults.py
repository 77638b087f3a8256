"""What storage does to people, against a real S3 server behind a proxy that goes wrong: survived, or said clearly.

A run is a `Domain` that maps its shards one by one. `Retry` has short times, and parts are small, so that a shard of
60 kB comes in four. What passes is survived and changes no byte; what stays ends in an error that a user can act on.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import faults  # pyright: ignore[reportMissingImports] - conftest.py sets the path
import pytest
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports]
from own_time import OwnTime
from remote_run import SECOND, SHARDS, assert_clear, shards, start, text_of  # pyright: ignore[reportMissingImports]
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.errors import (
    MixstreamError,
    ShardCorruptError,
    StoreAccessError,
    StoreBusyError,
    StoreFaultError,
)

pytestmark = pytest.mark.usefixtures("small_parts")


TRANSIENT: dict[str, tuple[faults.Action, int | None]] = {
    # what goes wrong, how often; None: always
    "reset": (faults.reset(), 2),
    "reset in mid-body": (faults.reset(5000), 2),
    "stall": (faults.stall(), 1),
    "stall in mid-body": (faults.stall(5000), 1),
    "trickle": (faults.trickle(100_000), None),
    "truncated": (faults.truncate(5000), 2),
    "500": (faults.refuse_with(500, "InternalError"), 2),
    "503 with Retry-After": (faults.refuse_with(503, "SlowDown", retry_after=1), 5),
    "429 with Retry-After": (faults.refuse_with(429, "TooManyRequests", retry_after=1), 5),
    "another range": (faults.shift_range(100), 2),
    "another object's ETag": (faults.change_headers(etag='"another"'), 2),
    "wrong size": (faults.change_headers(content_range="bytes 0-16383/16384"), 1),
}


@pytest.mark.parametrize("kind", ["raw", "packed"])
@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_passes_is_survived(
    proxy: FaultProxy,
    s3: S3,
    corpora: dict[str, Path],
    contents: dict[str, list[bytes]],
    tmp_path: Path,
    fault: str,
    kind: str,
) -> None:
    s3.upload(corpora[kind])
    domain = start(s3.url, tmp_path)
    action, times = TRANSIENT[fault]
    rule = proxy.when(action, path=SHARDS, times=times)
    assert shards(domain) == contents[kind]
    assert rule.acted == (times or proxy.count(SHARDS))


def test_the_index_survives_too(proxy: FaultProxy, place: S3, tmp_path: Path) -> None:
    proxy.when(faults.reset(10), path="*/index.json", times=1)
    proxy.when(faults.refuse_with(503, "SlowDown", retry_after=1), path="*/index.json", times=2)
    proxy.when(faults.truncate(10), path="*/index.json", times=1)
    assert len(start(place.url, tmp_path).shards) == 3


def test_a_closed_port_that_opens_again(
    proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path
) -> None:
    domain = start(place.url, tmp_path, attempts=8)
    domain.map(0)
    proxy.refuse()
    opener = threading.Timer(0.2, proxy.accept)
    opener.start()
    assert shards(domain) == contents["raw"]
    opener.join()


def test_parts_that_arrived_are_not_asked_for_again(
    proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path
) -> None:
    domain = start(place.url, tmp_path)
    proxy.when(faults.reset(5000), path=SHARDS, skip=1, times=1)
    domain.map(0)
    assert proxy.sent("*/shard.00000.mds") == len(contents["raw"][0]) + 5000


FINAL: dict[str, tuple[faults.Action, type[MixstreamError]]] = {
    "reset": (faults.reset(), StoreFaultError),
    "reset in mid-body": (faults.reset(5000), StoreFaultError),
    "stall": (faults.stall(5000), StoreFaultError),
    "trickle": (faults.trickle(2000), StoreFaultError),
    "truncated": (faults.truncate(5000), StoreFaultError),
    "500": (faults.refuse_with(500, "InternalError"), StoreFaultError),
    "503 with Retry-After": (faults.refuse_with(503, "SlowDown", retry_after=60), StoreBusyError),
    "429 with Retry-After": (faults.refuse_with(429, "TooManyRequests", retry_after=60), StoreBusyError),
    "403": (faults.refuse_with(403, "AccessDenied"), StoreAccessError),
}


@pytest.mark.parametrize("fault", FINAL)
def test_what_stays_is_said(proxy: FaultProxy, place: S3, tmp_path: Path, fault: str) -> None:
    action, kind = FINAL[fault]
    domain = start(place.url, tmp_path, attempts=2)
    domain.map(0)
    proxy.when(action, path=SECOND)
    with OwnTime() as clock, pytest.raises(kind) as caught:
        domain.map(1)
    assert clock.seconds < 12.0  # 2.5 on an idle machine
    assert_clear(caught.value, place)
    assert re.search(r"\d attempts in \d+\.\d s", text_of(caught.value))
    left = [path.name for path in tmp_path.iterdir()]
    assert "shard.00000.mds" in left
    assert "shard.00001.mds" not in left
    proxy.clear()
    assert domain.map(1).nbytes == domain.shards[1].raw.bytes  # what failed stands in nobody's way


def test_a_port_that_stays_closed(proxy: FaultProxy, place: S3, tmp_path: Path) -> None:
    domain = start(place.url, tmp_path, attempts=3)
    proxy.refuse()
    with pytest.raises(StoreFaultError, match=r"(?i)refused") as caught:
        domain.map(1)
    assert_clear(caught.value, place)
    assert "3 attempts" in text_of(caught.value)
    assert "raise `download_retry`" in text_of(caught.value)


def test_a_shard_that_is_not_there(proxy: FaultProxy, place: S3, tmp_path: Path) -> None:
    domain = start(place.url, tmp_path, attempts=5)
    place.remove("shard.00001.mds")
    with pytest.raises(FileNotFoundError) as caught:
        domain.map(1)
    assert_clear(caught.value, place)
    assert proxy.count(SECOND) <= 4  # its parts, once each: trying again would not help


@pytest.mark.parametrize("kind", ["raw", "packed"])
def test_wrong_bytes_are_fetched_anew(
    proxy: FaultProxy, s3: S3, corpora: dict[str, Path], contents: dict[str, list[bytes]], tmp_path: Path, kind: str
) -> None:
    s3.upload(corpora[kind])
    domain = start(s3.url, tmp_path, validate=True)
    rule = proxy.when(faults.corrupt(999), path=SECOND, times=1)
    assert shards(domain) == contents[kind]
    assert rule.acted == 1


@pytest.mark.parametrize("kind", ["raw", "packed"])
def test_wrong_bytes_that_stay_are_an_error(
    proxy: FaultProxy, s3: S3, corpora: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    s3.upload(corpora[kind])
    domain = start(s3.url, tmp_path, validate=True)
    proxy.when(faults.corrupt(999), path=SECOND)
    with pytest.raises(ShardCorruptError, match="xxh64") as caught:
        domain.map(1)
    assert_clear(caught.value, s3)
    assert not (tmp_path / "shard.00001.mds").exists()
