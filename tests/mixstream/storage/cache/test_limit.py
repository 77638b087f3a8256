"""`cache_limit`: never passed, kept by evicting what is needed furthest in the future, and nobody is stuck below it."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from cache_world import World, sampled

from mixstream.errors import CacheFullError, ConfigError
from mixstream.storage import CacheLimit, DatasetFiles

SIZE = 40_000
INDEX = 17  # bytes of the world's index.json


def shards_on_disk(world: World) -> set[int]:
    return {number for number in range(world.shards) if (world.local / world.name(number)).exists()}


def planned(files: DatasetFiles, world: World, **need: float) -> None:
    """Let the plan need shard `s{number}` in so many steps, and the others never."""
    steps = {files.path(world.name(int(name[1:]))): value for name, value in need.items()}
    files.cache_limit.next_use = lambda paths: [steps.get(path, inf) for path in paths]


def test_what_is_needed_last_goes_first(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=3 * SIZE + INDEX)
    planned(files, world, s0=5, s1=9, s2=1, s3=0)
    for number in (0, 1, 2, 3):
        assert world.read(files, number)
    assert shards_on_disk(world) == {0, 2, 3}
    assert files.cache_limit.usage() == 3 * SIZE + INDEX


def test_without_a_plan_the_one_opened_longest_ago_goes(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=2 * SIZE + INDEX)
    for number in (0, 1, 0, 2):
        assert world.read(files, number)
        time.sleep(0.01)
    assert shards_on_disk(world) == {0, 2}


def test_a_fetch_ahead_of_time_evicts_only_what_is_needed_later(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=2 * SIZE + INDEX)
    planned(files, world, s0=2, s1=6, s2=4, s3=4)
    assert world.read(files, 0)
    assert world.read(files, 1)
    assert world.read(files, 2, need=4.0, wait=False)
    assert shards_on_disk(world) == {0, 2}
    assert not world.read(files, 3, need=4.0, wait=False)  # no later than what is there
    assert shards_on_disk(world) == {0, 2}


def test_a_fetch_ahead_of_time_leaves_the_lock_free_for_the_next(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=3 * SIZE + INDEX)
    planned(files, world, s0=1, s1=2)
    for number in (0, 1):
        assert world.read(files, number, need=number + 1.0, wait=False)


def test_nothing_is_evicted_where_all_that_may_go_is_not_enough(tmp_path):
    world = World(tmp_path).build()
    wide = world.files(limit=4 * SIZE + INDEX)
    for number in range(4):
        assert world.read(wide, number)
    tight = world.files(limit=2 * SIZE + INDEX)  # three shards are too many for it, and two of them are needed sooner
    planned(tight, world, s0=9, s1=9, s2=1, s3=1, s4=4)
    assert not world.read(tight, 4, need=4.0, wait=False)
    assert shards_on_disk(world) == {0, 1, 2, 3}


def test_what_another_process_announced_is_spared_while_it_lives(tmp_path):
    world = World(tmp_path).build()
    files, others = (world.files(limit=2 * SIZE + INDEX) for _ in range(2))
    planned(files, world, s1=50)
    others.cache_limit.announce([others.path(world.name(0))], [3.0])
    for number in (0, 1, 2):
        assert world.read(files, number)
    assert shards_on_disk(world) == {0, 2}
    others.cache_limit.close()
    assert world.read(files, 3)
    assert shards_on_disk(world) == {2, 3} or shards_on_disk(world) == {0, 3}
    assert list((world.local / ".mixstream-needs").iterdir()) == []


def test_a_cache_that_cannot_be_listed_is_not_taken_for_empty(tmp_path, monkeypatch):
    world = World(tmp_path).build()
    files = world.files(limit=2 * SIZE + INDEX)
    assert world.read(files, 0)

    def no_descriptors(_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("mixstream.storage.cache.contents.os.scandir", no_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        files.cache_limit.usage()


def test_who_waits_gets_room_even_from_what_is_needed_now(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=SIZE + INDEX)
    planned(files, world, **{f"s{number}": 0 for number in range(6)})
    for number in (0, 1, 0, 2):
        assert world.read(files, number)
    assert shards_on_disk(world) == {2}


def test_an_evicted_file_stays_readable_for_who_has_it(tmp_path):
    world = World(tmp_path).build()
    files = world.files(limit=SIZE + INDEX)
    with files.open(world.want(0)) as file:
        assert world.read(files, 1)
        assert shards_on_disk(world) == {1}
        assert len(file.read()) == SIZE


def test_a_limit_below_one_shard_is_refused_with_the_number_to_type(tmp_path):
    world = World(tmp_path).build()
    with pytest.raises(CacheFullError, match=rf"cache_limit=40000 .*pass cache_limit={SIZE + INDEX} or more"):
        world.read(world.files(limit=SIZE), 0)
    assert world.read(world.files(limit=SIZE + INDEX), 0)
    with pytest.raises(ConfigError, match="`cache_limit` must be above 0"):
        CacheLimit(limit=0)


def test_packed_files_count_and_go_with_their_shards(tmp_path):
    world = World(tmp_path, packed=True).build()
    files = world.files(limit=2 * (SIZE + world.packed_size) + INDEX, keep_compressed=True)
    planned(files, world, s0=9, s1=1)
    for number in (0, 1, 2):
        assert world.read(files, number)
    assert world.on_disk() == {world.name(n) + end for n in (1, 2) for end in ("", ".z")}
    assert files.cache_limit.usage() <= files.cache_limit.limit


def test_a_compressed_file_that_is_kept_needs_room_too(tmp_path):
    world = World(tmp_path, packed=True).build()
    limit = 2 * (SIZE + world.packed_size) + INDEX - 1
    files = world.files(limit=limit, keep_compressed=True)
    for number in (0, 1):
        assert world.read(files, number)
        assert files.cache_limit.usage() <= limit
    assert shards_on_disk(world) == {1}


def test_only_files_that_the_index_names_are_evicted(tmp_path):
    world = World(tmp_path).build()
    world.local.mkdir()
    mine = [world.local / name for name in ("notes.txt", "shard.99999.mds", ".other.partial")]
    for path in mine:
        path.write_bytes(b"m" * SIZE)
    (world.local / "linked").mkdir()
    files = world.files(limit=2 * SIZE + INDEX)
    for number in range(6):
        assert world.read(files, number)
    assert len(shards_on_disk(world)) == 2
    assert all(path.stat().st_size == SIZE for path in mine)


@pytest.mark.parametrize("where", ["no store", "local is remote"])
def test_what_cannot_be_fetched_again_is_never_evicted(tmp_path, where):
    world = World(tmp_path).build()
    original = world.store.directory
    remote = None if where == "no store" else f"file://{original}"
    mine = DatasetFiles.locate(remote=remote, local=str(original), split=None)
    limit = CacheLimit(limit=SIZE + INDEX)
    mine = mine.within(limit, world.names)
    cached = world.files(cache_limit=limit)
    for number in range(6):
        assert world.read(cached, number)
        assert world.read(mine, number)
    assert len(list(original.glob("*.mds"))) == 6
    assert len(shards_on_disk(world)) == 1


def test_a_budget_spans_directories(tmp_path):
    worlds = [World(tmp_path / name).build() for name in "ab"]
    limit = CacheLimit(limit=3 * SIZE + 2 * INDEX)
    files = [world.files(cache_limit=limit) for world in worlds]
    for number in range(4):
        for world, at in zip(worlds, files):
            assert world.read(at, number)
    assert sum(len(shards_on_disk(world)) for world in worlds) == 3
    copy = pickle.loads(pickle.dumps(files[0])).cache_limit
    assert (copy.limit, copy.usage()) == (limit.limit, limit.usage())


def test_an_index_that_comes_when_the_cache_is_full_has_its_room(tmp_path):
    """That of a domain of which no shard was read before; it comes with the first one, even if that has no room."""
    worlds = [World(tmp_path / name).build() for name in "ab"]
    limit = CacheLimit(limit=3 * SIZE + INDEX)
    full, late = (world.files(cache_limit=limit) for world in worlds)
    copy = pickle.loads(pickle.dumps(full))
    for number, files in enumerate((full, full, full, copy)):
        assert worlds[0].read(files, number)
        assert limit.usage() == min(number + 1, 2) * SIZE + INDEX
    limit.next_use = lambda paths: [0.0] * len(paths)
    assert not worlds[1].read(late, 0, need=5.0, wait=False)
    assert (worlds[1].local / "index.json").exists()
    assert limit.usage() == 2 * SIZE + 2 * INDEX


@pytest.mark.parametrize("room", [1, 4], ids=["one", "four"])
def test_three_processes_below_a_tight_limit_get_on_and_never_pass_it(tmp_path, room):
    world = World(tmp_path, shards=12, pause=0.002, check=False).build()
    limit = room * SIZE + INDEX
    orders = [[(start + step * i) % 12 for i in range(12)] for start, step in ((0, 1), (5, 5), (11, 7))]
    with sampled(world.local) as peak:
        jobs = [
            subprocess.Popen(world.job(sequence=order, limit=limit, ahead=2), stdout=subprocess.PIPE)
            for order in orders
        ]
        done = [job.communicate(timeout=60)[0] for job in jobs]
    assert done == [b"12\n"] * 3
    notes = 4000  # .mixstream-origin, the records and the announcements, which nobody counts
    assert SIZE < peak[0] <= limit + notes
    assert not list(world.local.glob(".*.partial"))


def test_many_threads_share_a_limit_of_one_shard(tmp_path):
    world = World(tmp_path, pause=0.001).build()
    files = world.files(limit=SIZE + INDEX)
    right: list[bool] = []

    def work(first: int) -> None:
        right.extend(world.read(files, (first + i) % 6) for i in range(6))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    with sampled(world.local) as peak:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 36
    assert peak[0] <= SIZE + INDEX + 2000  # with the notes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on a disk of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("fallocate", [True, False], ids=["reserving", "not reserving"])
def test_a_full_disk_evicts_even_without_a_limit(tmp_path, small_disk, monkeypatch, fallocate):
    if not fallocate:
        import errno

        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    world = World(tmp_path, size=3_000_000, shards=4, check=False).build()
    files = world.files(home=small_disk)
    with pytest.warns(
        RuntimeWarning, match="is full: shards that are needed furthest in the future are evicted"
    ) as told:
        right = [world.read(files, number) for number in range(4)]
    assert (len(told), right) == (1, [True] * 4)
    assert {path.name for path in small_disk.glob("*.mds")} == {world.name(2), world.name(3)}


def test_a_disk_that_others_fill_is_a_clear_error(tmp_path, small_disk):
    (small_disk / "other").write_bytes(b"x" * 6_000_000)
    world = World(tmp_path, size=3_000_000, shards=1, check=False).build()
    with pytest.raises(CacheFullError, match=r"no room for shard\.00000\.mds .* 3000000 bytes, the disk has \d+ free"):
        world.read(world.files(home=small_disk), 0)
    assert not list(small_disk.glob("*.mds"))
    assert not list(small_disk.glob(".*.partial"))


def test_a_read_only_directory_serves_what_it_has(tmp_path, small_disk):
    world = World(tmp_path, shards=2).build()
    assert world.read(world.files(home=small_disk), 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for limit in (None, 10 * SIZE):
        files = world.files(home=small_disk, limit=limit)
        assert world.read(files, 0)
        with pytest.raises(PermissionError, match=r"cannot be written \(Read-only file system\).*pass a `local`"):
            world.read(files, 1)


def test_a_shard_is_unmapped_before_it_is_evicted(tmp_path):
    """A mapped file takes disk space even after it was evicted."""
    world, told = World(tmp_path).build(), []
    files = world.files(limit=2 * world.size + 17)
    files.cache_limit.unmap = lambda path: told.append((path.name, path.exists()))
    for number in range(3):
        world.read(files, number)
    assert told == [(world.name(0), True)]
