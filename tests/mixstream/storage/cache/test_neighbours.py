"""Several processes below one limit: what each announced is spared, what one evicts another fetches again."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cache_world import World, content

from mixstream.storage import DatasetFiles
from mixstream.storage.cache.locks import release, try_lock

SIZE, INDEX = 40_000, 17


def _there(world: World) -> set[int]:
    return {number for number in range(world.shards) if (world.local / world.name(number)).exists()}


def _announce(files: DatasetFiles, world: World, **steps: float) -> None:
    paths = [files.path(world.name(int(name[1:]))) for name in steps]
    files.cache_limit.announce(paths, list(steps.values()))


@contextmanager
def _being_written(world: World, number: int) -> Iterator[Path]:
    """Yield the partial that another process writes; it takes its full size, and is removed at the end."""
    partial = world.local / f".{world.name(number)}.partial"
    parent = os.open(world.local, os.O_RDONLY)
    lock = try_lock(parent, partial.name)
    assert lock is not None
    os.ftruncate(lock, world.size)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        release(lock)
        os.close(parent)


def test_of_several_neighbours_the_one_who_needs_a_shard_soonest_counts(tmp_path):
    """Whichever of the announcements is read last."""
    world = World(tmp_path).build()
    mine, *others = (world.files(limit=3 * SIZE + INDEX) for _ in range(4))
    for number in range(3):
        assert world.read(mine, number)
    soon_first = [(1.0, 9.0), (9.0, 1.0), (9.0, 9.0)]
    _announce(others[0], world, **{f"s{n}": first for n, (first, _) in enumerate(soon_first)})
    _announce(others[1], world, **{f"s{n}": second for n, (_, second) in enumerate(soon_first)})
    _announce(others[2], world, s5=0.0)
    _announce(mine, world, s2=0.0)  # its own does not count: the plan says what this process needs
    assert world.read(mine, 3, need=5.0, wait=False)
    assert _there(world) == {0, 1, 3}
    assert world.read(mine, 4, need=9.5, wait=False)
    assert _there(world) == {0, 1, 4}
    for other in others:
        other.cache_limit.close()


def test_while_others_write_a_reader_waits_for_their_room_instead_of_evicting_what_is_needed_now(tmp_path):
    world = World(tmp_path).build()
    files, other = (world.files(limit=2 * SIZE + INDEX) for _ in range(2))
    assert world.read(files, 0)
    _announce(other, world, s0=0.0)
    right: list[bool] = []
    reader = threading.Thread(target=lambda: right.append(world.read(files, 2)))
    with _being_written(world, 1):
        reader.start()
        reader.join(0.25)
        assert _there(world) == {0}
        assert reader.is_alive()
    reader.join(30)
    assert (right, _there(world)) == ([True], {0, 2})


def test_while_others_write_what_is_needed_later_is_evicted_at_once(tmp_path):
    world = World(tmp_path).build()
    files, other = (world.files(limit=2 * SIZE + INDEX) for _ in range(2))
    assert world.read(files, 0)
    _announce(other, world, s0=7.0)
    with _being_written(world, 1):
        assert world.read(files, 2, need=3.0)
        assert _there(world) == {2}
        assert files.cache_limit.usage() == 2 * SIZE + INDEX


@pytest.mark.parametrize("who", ["this process", "another"])
def test_what_was_evicted_is_fetched_and_verified_again(tmp_path, who):
    world = World(tmp_path).build()
    files = world.files(limit=SIZE + INDEX)
    assert world.read(files, 0)
    assert world.read(files if who == "this process" else world.files(limit=SIZE + INDEX), 1)
    assert not files.present(world.want(0))
    assert world.read(files, 0)
    assert world.store.fetched() == [world.name(number) for number in (0, 1, 0)]
    assert files.cache_limit.evict() == files.path(world.name(0))
    (world.local / world.name(0)).write_bytes(content(3, world.size))  # from elsewhere, under a name that was good
    assert world.read(files, 0)
    assert world.store.fetched()[3:] == [world.name(0)]


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("gone", [False, True], ids=["there", "directory gone"])
def test_an_announcement_leaves_no_descriptor(tmp_path, gone):
    world = World(tmp_path).build()
    files = world.files(limit=2 * SIZE + INDEX)
    assert world.read(files, 0)
    before = _descriptors()
    for step in range(5):
        _announce(files, world, s0=float(step))  # replaced each time
        assert _descriptors() == before + 1
    if gone:
        shutil.rmtree(world.local)
    files.cache_limit.close()
    assert _descriptors() == before
    files.cache_limit.close()
    _announce(files, world, s1=1.0)
    assert _descriptors() == before + 1
    files.cache_limit.close()
