"""Attempts x timeout bounds the time that a store can take, whatever it does; and what is not there is not found."""

from __future__ import annotations

import threading
import time

import pytest
from bucket_server import Answer, bucket_server
from harness import write_tokens
from own_time import OwnTime
from servers import environment

import mixstream as ms
from mixstream.errors import (
    IndexNotFoundError,
    ShardCorruptError,
    StoreBusyError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage import Retry, open_store


@pytest.fixture
def bucket(monkeypatch):
    with bucket_server() as server:
        for name, value in environment(server.url).items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        yield server


@pytest.mark.parametrize(("attempts", "timeout"), [(1, 1.0), (2, 0.6), (4, 0.3)])
@pytest.mark.parametrize("way", ["index", "shard", "loader"])
def test_a_store_that_stalls_is_given_up_in_time(bucket, tmp_path, attempts, timeout, way):
    write_tokens(tmp_path / "web", range(40))
    for path in (tmp_path / "web").iterdir():
        bucket.objects[f"b/web/{path.name}"] = path.read_bytes()
    clock, over, options = OwnTime(), threading.Event(), {"download_retry": attempts, "download_timeout": timeout}

    def stall(request):
        if way == "index" or ".mds" in request.path:
            began.append(clock.seconds)
            over.wait(20)

    bucket.odd = stall
    began: list[float] = []
    try:
        place = {"remote": f"{bucket.url}/b/web", "local": str(tmp_path / "cache")}
        with clock, pytest.raises(StoreFaultError, match="not answer"):  # noqa: PT012 - the last line, mostly
            made = ms.StreamingDataset(**place, batch_size=4, **options)
            if way != "loader":
                _ = made[0]
            with ms.Loader(made) as loader:
                next(iter(loader))
        assert clock.seconds - began[0] < attempts * timeout + 0.8
    finally:
        over.set()


@pytest.mark.parametrize("attempts", [1, 3])
def test_the_listing_of_a_root_has_the_attempts_that_were_given(bucket, attempts):
    bucket.odd = lambda request: Answer(status=500, body=b"no")
    with pytest.raises(StoreError) as caught:
        ms.streams("s3://b/corpus", download_retry=attempts, download_timeout=2.0)
    assert f"listing s3://b/corpus: {attempts} attempt" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("kind", ["fault", "busy", "mixed"])
def test_pauses_and_requests_to_slow_down_count(kind):
    made = []

    def act():
        made.append(time.monotonic())
        time.sleep(0.05)
        busy = kind == "busy" or (kind == "mixed" and len(made) % 2)
        raise StoreBusyError("slow down") if busy else StoreFaultError("no")

    with OwnTime() as clock, pytest.raises(StoreError):
        Retry(attempts=4, timeout=0.2, unit=0.1).call("reading x", act)
    assert clock.seconds < 4 * 0.2 + 0.3
    assert kind != "fault" or len(made) == 4


@pytest.mark.parametrize("left", [0, 7])
@pytest.mark.parametrize("attempts", [0, 1, 2])
def test_an_object_that_was_cut_is_no_fault_of_the_store(bucket, tmp_path, attempts, left):
    write_tokens(tmp_path / "web", range(40))
    for path in (tmp_path / "web").iterdir():
        data = path.read_bytes()
        bucket.objects[f"b/web/{path.name}"] = data[:left] if path.suffix == ".mds" else data
    place = {"remote": f"{bucket.url}/b/web", "local": str(tmp_path / "cache")}
    dataset = ms.StreamingDataset(**place, batch_size=4, download_retry=attempts, download_timeout=5)
    with pytest.raises(ShardCorruptError, match=f": {left} bytes, the index says"):
        dataset[0]


def test_what_is_not_there_is_not_found(bucket):
    for name in ("read", "info"):
        with pytest.raises(StoreNotFoundError, match=r"404.*, not found"):
            getattr(open_store(f"{bucket.url}/b/web"), name)("shard.00000.mds")
    with pytest.raises(IndexNotFoundError, match="not found"):
        ms.StreamingDataset(remote=f"{bucket.url}/b/web")
