"""A disk without inodes: the cache evicts as on one without bytes, and errors say inodes and how many there are."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cache_world import World

from mixstream.errors import CacheFullError, StoreError
from mixstream.storage import CacheLimit

_OWN = 5  # of the root, three notes, and the directory of records
_TWO_SHARDS = _OWN + 2 * 2  # each has a record


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Yield what mounts a disk of so many inodes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(inodes: int) -> Path:
        nonlocal mounted
        options = f"nr_inodes={inodes},size=64m"
        found = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False, capture_output=True, text=True
        )
        if found.returncode:
            pytest.skip(f"a disk of few inodes cannot be mounted here: {found.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "kept compressed"])
@pytest.mark.parametrize("limit", [None, 10_000_000])
def test_shards_are_evicted_for_inodes_as_for_bytes(tmp_path, disk, packed, limit):
    room = _TWO_SHARDS + (4 if packed else 0) + (1 if limit else 0)  # with a limit there is a lock
    home, world = disk(room), World(tmp_path, packed=packed).build()
    cache_limit = CacheLimit(limit=limit)
    files = world.files(home=home, cache_limit=cache_limit, keep_compressed=packed)
    if limit:
        for number in range(6):
            assert world.read(files, number)
    else:
        with pytest.warns(RuntimeWarning, match="has no inodes left: shards that are needed furthest") as told:
            assert all(world.read(files, number) for number in range(6))
        assert len(told) == 1
    left = {path.name for path in home.glob("*.mds")}
    assert world.name(5) in left
    assert 1 <= len(left) <= 2
    assert world.read(files, 0)  # fetched again
    assert not list(home.glob(".*.partial"))


def test_a_disk_that_others_fill_says_inodes_and_not_bytes(tmp_path, disk):
    home, world = disk(20), World(tmp_path).build()
    for number in range(19):
        (home / f"other{number}").touch()
    with pytest.raises(
        CacheFullError, match=r"no inodes are left on the disk \(0 of 20 free.*`df -i`.*`local`"
    ) as caught:
        world.read(world.files(home=home), 0)
    assert caught.value.errno == errno.ENOSPC
    for number in range(6):
        (home / f"other{number}").unlink()
    assert world.read(world.files(home=home), 0)


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "no inodes are left"), (errno.EDQUOT, "a quota of this")])
def test_what_cannot_be_created_evicts_until_it_can(tmp_path, monkeypatch, number, told):
    """As a quota of files does, which `statvfs` does not show."""
    world, right = World(tmp_path).build(), os.open
    files, most = world.files(), 2

    def refused(path, flags, mode=0o777, **kw):
        there = [place for place in world.local.iterdir() if place.suffix in (".mds", ".partial")]
        if flags & os.O_CREAT and str(path).endswith((".partial", "lock")) and len(there) >= most:
            raise OSError(number, os.strerror(number), path)
        return right(path, flags, mode, **kw)

    def full(path):
        found = list(os.fstatvfs(os.open(path, os.O_RDONLY)))
        found[7] = 0 if number == errno.ENOSPC else 1000  # f_favail
        return os.statvfs_result(found)

    assert world.read(files, 0)
    monkeypatch.setattr("mixstream.storage.cache.locks.os.open", refused)
    monkeypatch.setattr("mixstream.storage.disk_errors.os.statvfs", full)
    with pytest.warns(RuntimeWarning, match="shards that are needed furthest in the future are evicted"):
        assert all(world.read(files, wanted) for wanted in range(1, 6))
    assert len(world.on_disk()) <= most
    most = 0
    with pytest.raises(CacheFullError, match=told):
        world.read(files, 0)
    assert world.on_disk() == set()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_nothing_is_evicted_and_the_limit_is_named(tmp_path, monkeypatch, number):
    world = World(tmp_path).build()
    files = world.files()
    assert world.read(files, 0)
    right = os.open

    def refused(path, flags, mode=0o777, **kw):
        if flags & os.O_CREAT and str(path).endswith(".partial"):
            raise OSError(number, os.strerror(number), path)
        return right(path, flags, mode, **kw)

    with monkeypatch.context() as patch:
        patch.setattr("mixstream.storage.cache.locks.os.open", refused)
        with pytest.raises(StoreError, match=r"shard.00001.mds.*open files.*`ulimit -n`"):
            world.read(files, 1)
    assert world.on_disk() == {world.name(0)}
    assert world.read(files, 1)
