"""What changes under a run, against a real S3 server: credentials, objects, the index, the disk, other jobs."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faults  # pyright: ignore[reportMissingImports] - conftest.py sets the path
import pytest
import servers  # pyright: ignore[reportMissingImports]
from children import PATIENCE, Child  # pyright: ignore[reportMissingImports]
from fault_proxy import FaultProxy  # pyright: ignore[reportMissingImports]
from remote_run import SECOND, SHARDS, assert_clear, shards, start, text_of  # pyright: ignore[reportMissingImports]
from servers import S3  # pyright: ignore[reportMissingImports]

from mixstream.errors import (
    CacheFullError,
    IndexNotFoundError,
    ShardCorruptError,
    StoreAccessError,
    StoreChangedError,
)

pytestmark = [
    pytest.mark.usefixtures("small_parts"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12's: this process has threads
]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: S3) -> Callable[[str, str], None]:
    """Return what writes credentials to the user's file, which is their only source."""
    path = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))

    def write(key: str, secret: str) -> None:
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")

    write(servers.KEY, servers.SECRET)
    return write


def test_credentials_that_expire_are_read_anew(
    credentials: Callable[[str, str], None],
    proxy: FaultProxy,
    place: S3,
    contents: dict[str, list[bytes]],
    tmp_path: Path,
) -> None:
    domain = start(place.url, tmp_path / "cache", attempts=1)
    domain.map(0)
    rule = proxy.when(faults.expire(servers.KEY))
    credentials(servers.OTHER_KEY, servers.OTHER_SECRET)
    assert shards(domain) == contents["raw"]
    assert rule.acted


def test_credentials_that_nobody_renews(
    credentials: Callable[[str, str], None], proxy: FaultProxy, place: S3, tmp_path: Path
) -> None:
    domain = start(place.url, tmp_path / "cache", attempts=1)
    domain.map(0)
    proxy.when(faults.expire(servers.KEY))
    with pytest.raises(StoreAccessError, match=r"(?i)expired") as caught:
        domain.map(1)
    assert_clear(caught.value, place)
    assert "check the credentials" in text_of(caught.value)


def test_an_object_of_another_size(place: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    domain = start(place.url, tmp_path, attempts=2)
    for size in (10_000, 100_000):
        place.put("shard.00001.mds", bytes(size))
        with pytest.raises(ShardCorruptError, match=f"{size} bytes, the index says") as caught:
            domain.map(1)
        assert_clear(caught.value, place)


def test_another_object_of_the_same_size(place: S3, contents: dict[str, list[bytes]], tmp_path: Path) -> None:
    domain = start(place.url, tmp_path, validate=True)
    place.put("shard.00001.mds", contents["other"][1])
    with pytest.raises(ShardCorruptError, match="xxh64") as caught:
        domain.map(1)
    assert_clear(caught.value, place)


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_an_object_that_is_replaced_between_two_ranges(
    proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path, skip: int
) -> None:
    """The old version comes or none: with the new one, the run would read a mixture of both."""
    other = contents["other"][1]
    domain = start(place.url, tmp_path)
    proxy.when(faults.before(lambda: place.put("shard.00001.mds", other)), path=SECOND, skip=skip, times=1)
    with pytest.raises(StoreChangedError, match="was written again") as caught:
        domain.map(1)
    assert_clear(caught.value, place)
    proxy.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert start(place.url, tmp_path).map(1).tobytes() == other


def test_an_object_that_is_replaced_all_the_time(proxy: FaultProxy, place: S3, tmp_path: Path) -> None:
    domain = start(place.url, tmp_path, attempts=2)
    for number in range(20):
        proxy.when(faults.change_headers(etag=f'"{number}"'), path=SECOND, times=1)
    with pytest.raises(StoreChangedError) as caught:
        domain.map(1)
    assert_clear(caught.value, place)
    assert "replaced each time" in text_of(caught.value)


def test_an_index_that_is_deleted(place: S3, contents: dict[str, list[bytes]], tmp_path: Path) -> None:
    """A run goes on; the next start is told, and what to do."""
    domain = start(place.url, tmp_path)
    place.remove("index.json")
    assert shards(domain) == contents["raw"]
    with pytest.raises(IndexNotFoundError) as caught:
        start(place.url, tmp_path)
    assert place.url in text_of(caught.value)


def test_an_index_that_cannot_be_reached_is_the_cached_one(
    proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path
) -> None:
    shards(start(place.url, tmp_path))
    proxy.refuse()
    with pytest.warns(RuntimeWarning, match="index.json could not be read"):
        domain = start(place.url, tmp_path)
    assert shards(domain) == contents["raw"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Yield what mounts a tmpfs, or changes how it is mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        if os.system(f"mount -t tmpfs -o {options} mixstream {place} 2>/dev/null"):
            pytest.skip("this user may not mount a tmpfs")
        mounted = True
        return place

    yield mount
    if mounted:
        os.system(f"umount -l {place}")


def test_a_cache_that_may_only_be_read(
    place: S3, contents: dict[str, list[bytes]], disk: Callable[[str], Path]
) -> None:
    """What is there is used; what is missing is an error that names the directory."""
    cache = disk("size=8m")
    first = start(place.url, cache)
    first.map(0)
    disk("ro")
    domain = start(place.url, cache)
    assert domain.map(0).tobytes() == contents["raw"][0]
    with pytest.raises(PermissionError) as caught:
        domain.map(1)
    assert str(cache) in text_of(caught.value)
    assert "`local`" in text_of(caught.value)


def test_a_disk_that_is_full_has_room_for_one_more(
    place: S3, contents: dict[str, list[bytes]], disk: Callable[[str], Path]
) -> None:
    """Two shards fit; the one that was used longest ago makes room, with one warning."""
    cache = disk("size=160k")
    domain = start(place.url, cache)
    with pytest.warns(RuntimeWarning, match=r"(?i)full|room") as told:
        assert shards(domain) + shards(domain) == 2 * contents["raw"]
    assert len(told) == 1


def test_a_disk_that_is_too_small(place: S3, disk: Callable[[str], Path]) -> None:
    cache = disk("size=40k")
    domain = start(place.url, cache)
    with pytest.raises(CacheFullError) as caught:
        domain.map(1)
    needed = domain.shards[1].raw.bytes
    for word in (str(cache), str(needed), "free", "domain 'web'", "shard 1 of 3"):
        assert word in text_of(caught.value).replace(",", "")


def test_jobs_on_an_empty_cache(proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path) -> None:
    """Two processes and two threads begin at once; every byte of a shard is sent once.

    The server answers; a request that a busy machine keeps waiting for seconds must neither fail nor be sent again.
    """

    def job() -> list[bytes]:
        return shards(start(place.url, tmp_path, timeout=PATIENCE / 2))

    with ThreadPoolExecutor(2) as pool:
        children = [
            Child(job),
            Child(job),
        ]  # before the threads: a fork while one is within OpenSSL would copy its lock
        threads = [pool.submit(job) for _ in range(2)]
        found = [each.result() for each in [*children, *threads]]
    assert found == [contents["raw"]] * 4
    assert proxy.sent(SHARDS) == sum(map(len, contents["raw"]))


def test_a_killed_download_stands_in_nobodys_way(
    proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path
) -> None:
    domain = start(place.url, tmp_path)
    proxy.when(faults.trickle(5000), path=SECOND)
    child = os.fork()
    if child == 0:
        domain.map(1)
        os._exit(0)
    until = time.monotonic() + PATIENCE
    while not proxy.sent(SECOND) and time.monotonic() < until:
        time.sleep(0.01)
    left = [path.name for path in tmp_path.iterdir()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    proxy.clear()
    assert ".shard.00001.mds.partial" in left
    assert domain.map(1).tobytes() == contents["raw"][1]
    assert not [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"]


def test_faults_at_random(proxy: FaultProxy, place: S3, contents: dict[str, list[bytes]], tmp_path: Path) -> None:
    actions = (faults.reset(3000), faults.truncate(100), faults.refuse_with(503, "SlowDown"))
    rules = [proxy.when(action, path=SHARDS, chance=0.15, seed=seed) for seed, action in enumerate(actions)]
    for number in range(2):
        assert shards(start(place.url, tmp_path / str(number), attempts=20)) == contents["raw"]
    assert all(rule.acted for rule in rules)
