"""The cache directory: whole files or none, each fetched once, nothing written elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cache_world import Slow, World, content

from mixstream.errors import (
    ConfigError,
    IndexNotFoundError,
    ShardCorruptError,
    ShardNotFoundError,
    StoreAccessError,
    StoreError,
    StoreFaultError,
    WaitTimeoutError,
)
from mixstream.storage import CacheLimit, DatasetFiles, ObjectBytes, ShardSpec
from mixstream.storage.cache.directory import Cache
from mixstream.storage.cache.fill import Partial
from mixstream.storage.cache.locks import release, try_lock
from mixstream.storage.cache.owner import CacheOwner


@pytest.fixture(params=[False, True], ids=["raw", "packed"])
def world(request, tmp_path: Path) -> World:
    return World(tmp_path, packed=request.param).build()


def test_a_shard_comes_once_and_stays(world):
    files = world.files()
    assert not files.present(world.want(0))
    assert world.read(files, 0)
    assert files.present(world.want(0))
    assert world.read(files, 0)
    assert world.read(world.files(), 0)
    assert world.store.reads().count(next(iter(world.names.values())) or world.name(0)) == 1
    assert world.on_disk() == {world.name(0)}


def test_a_disk_that_cannot_set_blocks_aside_is_not_written_to_instead(tmp_path):
    """Block by block, over the network perhaps, and all of it again when the bytes come."""
    if os.system(f"mount -t ramfs mixstream {tmp_path} 2>/dev/null"):  # has no fallocate, as NFS 3
        pytest.skip("this user may not mount a ramfs")
    number = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    try:
        parent = os.open(tmp_path, os.O_RDONLY)
        Partial(parent, "b", number).reserve(1 << 20)
        os.close(parent)
        found = os.fstat(number)
        assert (found.st_size, found.st_blocks) == (1 << 20, 0)
    finally:
        os.close(number)
        os.system(f"umount -l {tmp_path}")


def test_a_shard_that_another_user_keeps_to_himself_says_so(world, monkeypatch):
    files = world.files()
    assert world.read(files, 0)

    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("mixstream.storage.cache.directory.opened", refused)
    with pytest.raises(StoreAccessError, match=r"shard.00000.mds exists but cannot be read.*`local`"):
        world.read(files, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_at_any_instant_keeps_no_lock(tmp_path, monkeypatch):
    """It would outlive its killed parent, and the others wait for it."""
    statuses, forks, right = [], [], os.open

    def fork(number: int) -> None:
        if (child := os.fork()) == 0:
            with suppress(OSError):
                os.fstat(number)
                os._exit(1)
            os._exit(0)
        statuses.append(os.waitpid(child, 0)[1])

    def opened(*args: Any, **kwargs: Any) -> int:
        number = right(*args, **kwargs)
        forks.append(threading.Thread(target=fork, args=(number,)))
        forks[-1].start()
        forks[-1].join(0.2)
        return number

    parent = os.open(tmp_path, os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr("mixstream.storage.cache.locks.os.open", opened)
        lock = try_lock(parent, "lock")
    forks[0].join()
    release(lock)
    os.close(parent)
    assert statuses == [0]


def test_of_many_threads_one_fetches(world):
    files = world.files()
    right = []
    threads = [threading.Thread(target=lambda: right.append(world.read(files, 2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 8
    assert len(world.store.fetched()) == 1


def test_two_jobs_that_start_on_an_empty_cache_fetch_each_shard_once(tmp_path):
    world = World(tmp_path, pause=0.01, sub="00/").build()
    jobs = [subprocess.Popen(world.job(sequence=list(range(6)))) for _ in range(2)]
    assert [job.wait(60) for job in jobs] == [0, 0]
    reads = world.store.reads()
    assert {name: reads.count(name) for name in world.names} == dict.fromkeys(world.names, 1)
    assert world.on_disk() == set(world.names)


def test_keep_compressed_keeps_both(tmp_path):
    world = World(tmp_path, packed=True).build()
    files = world.files(keep_compressed=True)
    assert world.read(files, 1)
    assert world.on_disk() == {world.name(1), world.name(1) + ".z"}
    (world.local / world.name(1)).unlink()
    assert world.read(files, 1)
    assert len(world.store.fetched()) == 1  # unpacked from the copy that was kept


@pytest.mark.parametrize("damage", [b"!" * 40_000, b"short"])
def test_what_is_wrong_on_disk_is_fetched_anew(world, damage):
    assert world.read(world.files(), 0)
    (world.local / world.name(0)).write_bytes(damage)
    assert world.read(world.files(), 0)
    assert world.read(world.files(), 0)
    assert len(world.store.fetched()) == 2


def test_what_comes_wrong_is_fetched_once_more_and_then_refused(world):
    name = world.want(0).compressed.name if world.packed else world.name(0)
    path = world.store.directory / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ShardCorruptError, match="Checksum failure") as caught:
        world.read(world.files(), 0)
    assert "downloaded again" in "".join(caught.value.__notes__)
    assert world.store.reads().count(name) == 2
    assert world.on_disk() == set()


def test_a_shard_that_its_reader_refuses_is_made_anew(tmp_path):
    world = World(tmp_path, check=False).build()
    files = world.files()
    assert world.read(files, 0)
    path = world.local / world.name(0)
    written = path.stat().st_mtime_ns
    path.write_bytes(b"?" * world.size)
    os.utime(path, ns=(written, written))  # as if the disk had lost its bytes
    with files.open(world.want(0)) as file:
        assert file.read(1) == b"?"
    with files.renewed(world.want(0)) as file:
        assert file.read() == content(0, world.size)
    assert world.store.reads().count(world.name(0)) == 2


def test_a_shard_that_nobody_has_names_the_places(world):
    (world.store.directory / (world.want(3).compressed.name if world.packed else world.name(3))).unlink()
    with pytest.raises(ShardNotFoundError, match=r"fake://bucket/data/shard\.00003\.mds"):
        world.read(world.files(), 3)
    assert world.on_disk() == set()


def test_without_waiting_nothing_is_waited_for(tmp_path):
    world, answer = World(tmp_path).build(), threading.Event()

    class Held(Slow):
        """A store that answers for shards when it is let."""

        def read(self, name: str, *part: Any, **options: Any) -> ObjectBytes:
            assert name == "index.json" or answer.wait(20)
            return super().read(name, *part, **options)

    files = world.files(store=Held(world.store.directory, world.store.log))
    first = threading.Thread(target=world.read, args=(files, 0))
    first.start()
    partial = world.local / f".{world.name(0)}.partial"
    while not (partial.exists() and partial.stat().st_size):  # it is created before it is locked
        time.sleep(0.001)
    assert not world.read(files, 0, wait=False)
    answer.set()
    first.join()
    assert world.read(files, 0, wait=False)


def test_links_that_lead_out_are_not_written_through(tmp_path):
    world = World(tmp_path, sub="00/").build()
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_bytes(b"keep me")
    inside = world.local / "00"
    inside.mkdir(parents=True)
    (inside / "shard.00000.mds").symlink_to(victim)
    (inside / ".shard.00001.mds.partial").symlink_to(victim)
    (inside / ".shard.00002.mds.partial").hardlink_to(victim)
    files = world.files(limit=200_000)
    with pytest.warns(RuntimeWarning, match=r"00/shard.00000.mds is a symbolic link: .* fetched again"):
        assert all(world.read(files, number) for number in range(3))
    assert victim.read_bytes() == b"keep me"
    assert all((inside / f"shard.0000{number}.mds").stat().st_nlink == 1 for number in range(3))


def test_a_directory_that_is_a_link_is_refused(tmp_path):
    world = World(tmp_path, sub="00/").build()
    (tmp_path / "outside").mkdir()
    world.local.mkdir()
    (world.local / "00").symlink_to(tmp_path / "outside")
    with pytest.raises(PermissionError, match=r"'00' in it is a symbolic link.*pass another `local`"):
        world.read(world.files(), 0)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", ".", "index.json", ".mixstream-lock", ".a.partial", "a\0"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    world = World(tmp_path).build()
    with pytest.raises(ValueError, match="is not a valid name for a shard"):
        world.files().within(world.files().cache_limit, {name: None})


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory for temporary files of this test."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.mark.usefixtures("temp")
def test_files_travel_without_the_index_and_keep_their_version(tmp_path):
    world = World(tmp_path).build()
    files = world.files(home=None)
    assert world.read(files, 0)
    (world.store.directory / "index.json").write_bytes(b'{"another": "index"}')
    copy = pickle.loads(pickle.dumps(files))
    assert copy.directory == files.directory != world.files(home=None).directory
    assert world.read(copy, 0)
    assert world.store.reads().count(world.name(0)) == 1


def test_a_directory_is_filled_from_one_dataset(tmp_path):
    one, other = (World(tmp_path / name).build() for name in "ab")
    assert one.read(one.files(), 0)
    (other.store.directory / "index.json").write_bytes(b'{"another": "index"}')
    with pytest.raises(ConfigError, match=r"Reused local directory.*Provide a different one"):
        other.read(other.files(home=one.local), 0)


class Clock:
    """The module `time`, of which `monotonic` says what a test has set, and counts how often it is asked."""

    def __init__(self) -> None:
        self.seconds, self.asked = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        self.asked += 1
        return self.seconds


def test_who_hangs_is_waited_for_only_so_long_and_who_works_longer(tmp_path, monkeypatch):
    """By a clock that goes on a third of the timeout when the waiting thread has looked, however busy the machine."""
    clock = Clock()
    monkeypatch.setattr("mixstream.storage.cache.waits.time", clock)
    owner = CacheOwner(directory=tmp_path, origin="s3://bucket", digest="0")
    cache = Cache(owner=owner, limit=CacheLimit(), timeout=0.3)
    spec = ShardSpec(name="shard", size=3, check=None, compressed=None)
    holding, let_go = threading.Event(), threading.Event()

    class Slowly:
        def original(self, spec: ShardSpec) -> None:
            return None

        def can_fill(self, spec: ShardSpec) -> bool:
            return True

        def missing(self, spec: ShardSpec) -> ShardNotFoundError:
            return ShardNotFoundError(spec.name)

        def kept(self, spec: ShardSpec) -> None:
            return None

        def fill(self, spec: ShardSpec, file: Partial, kept: Partial | None = None) -> None:
            holding.set()
            while not let_go.wait(0.005):
                if clock.asked >= looked[-1] + 3:
                    looked.append(clock.asked)
                    clock.seconds += 0.1
                    if working:
                        file.heartbeat()
            file.write(b"abc")

    for working in (True, False):
        looked = [clock.asked]
        holding.clear()
        let_go.clear()
        (tmp_path / "shard").unlink(missing_ok=True)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(cache.open_or_fill, spec, Slowly())
            assert holding.wait(10)
            second = pool.submit(cache.open_or_fill, spec, Slowly())
            try:
                if working:
                    until = time.monotonic() + 20
                    while len(looked) < 8 and not second.done() and time.monotonic() < until:
                        time.sleep(0.01)
                    assert len(looked) >= 8
                    assert not second.done()
                else:
                    with pytest.raises(WaitTimeoutError, match=r"shard, which another thread or process is fetching"):
                        second.result(10)
            finally:
                let_go.set()
            for made in (first, second) if working else (first,):
                file = made.result(10)
                assert file is not None
                with file:
                    assert file.read() == b"abc"


class Away(Slow):
    """A store that has other things to do."""

    def read(self, name: str, begin: int = 0, end: int | None = None, *, version: str | None = None) -> ObjectBytes:
        raise StoreFaultError("connection refused")


@pytest.mark.parametrize("given", [True, False], ids=["local", "no local"])
def test_while_the_store_is_away_the_kept_index_is_used(tmp_path, temp, given):
    world = World(tmp_path).build()
    home = {"home": world.local if given else None}
    away = Away(world.store.directory, world.store.log)
    with pytest.raises(StoreFaultError, match="connection refused"):
        world.files(**home, store=away)
    files = world.files(**home)
    assert world.read(files, 0)
    with pytest.warns(RuntimeWarning, match=r"could not be read \(connection refused\); going on with the copy"):
        later = world.files(**home, store=away)
    assert world.read(later, 0)
    with pytest.raises(StoreFaultError):
        world.read(later, 1)
    if not given:
        assert (temp / f"mixstream-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_an_index_that_is_gone_names_the_copy_that_was_kept(tmp_path):
    world = World(tmp_path).build()
    assert world.read(world.files(), 0)
    (world.store.directory / "index.json").unlink()
    with pytest.raises(IndexNotFoundError, match=rf"no index.json in fake://.*remote=None, local='{world.local}'"):
        world.files()
    offline = DatasetFiles.locate(remote=None, local=str(world.local), split=None)
    assert offline.read_index()[0] == b'{"test": "index"}'
    assert world.read(offline, 0)


def test_a_temporary_directory_of_somebody_else_is_refused(tmp_path, temp):
    place = temp / f"mixstream-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="not a directory owned and writable by this user only"):
        World(tmp_path).build().files(home=None)


def test_a_file_system_without_flock_is_refused(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    world = World(tmp_path).build()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match=r"no flock \(No locks available\).*pass a `local` directory on a disk"):
        world.read(world.files(), 0)


def test_a_directory_in_a_shards_place_is_told_of(tmp_path):
    world = World(tmp_path).build()
    files = world.files()
    (files.directory / world.name(0)).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"is a directory where a shard belongs; remove it"):
        world.read(files, 0)
