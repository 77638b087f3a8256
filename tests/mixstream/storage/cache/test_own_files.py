"""A cache believes and writes its own files only: nothing behind a link, nothing with another name, no pipes."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_world import World, content
from odd_files import make_socket

from mixstream.errors import ConfigError, StoreAccessError, StoreError
from mixstream.storage import DatasetFiles
from mixstream.storage.cache.locks import release, try_lock
from mixstream.storage.cache.records import record_name, touch_record, write_record
from mixstream.storage.store import ObjectInfo

SHARD = "00/shard.00000.mds"
_NOTES = ("index.json", ".index.json.partial", ".mixstream-origin", ".mixstream-original", ".mixstream-lock")
_PLACES = (SHARD, "00/.shard.00000.mds.partial", record_name(SHARD), *_NOTES)


_KINDS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda path, victim: path.symlink_to(victim),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "dangling link": lambda path, victim: path.symlink_to("/nowhere/at/all"),
    "loop": lambda path, victim: path.symlink_to(path.name),
    "pipe": lambda path, victim: os.mkfifo(path),
    "socket": lambda path, victim: make_socket(path),
    "link to a device": lambda path, victim: path.symlink_to("/dev/zero"),
}


def _status(path: Path) -> tuple[bytes, int, int]:
    return path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode


@pytest.mark.parametrize("limit", [None, 1_000_000])
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.filterwarnings("ignore:.*it is not used, and the shard is fetched again:RuntimeWarning")
def test_what_is_not_the_caches_own_is_replaced_and_never_written_through(tmp_path, kind, limit):
    world = World(tmp_path, shards=2, sub="00/", check=False).build()
    victim = tmp_path / "victim"
    for name in _PLACES:
        assert world.read(world.files(limit=limit), 0)
        path = world.local / name
        # A shard of the right size: only its kind tells it from ours. A note of another dataset would be refused.
        wrong = b"!" * world.size if name == SHARD or not path.exists() else path.read_bytes()
        shutil.rmtree(world.local)
        world.store.log.unlink()
        path.parent.mkdir(parents=True)
        victim.unlink(missing_ok=True)
        victim.write_bytes(wrong)
        os.utime(victim, (1, 1))
        before = _status(victim)
        _KINDS[kind](path, victim)
        files = world.files(limit=limit)
        assert world.read(files, 0), name
        files.cache_limit.announce([files.path(world.name(0))], [1.0])
        files.cache_limit.usage()
        files.cache_limit.close()
        assert _status(victim) == before, name
        assert all(world.read(other, 0) for other in (files, world.files(limit=limit)))
        assert world.store.fetched() == [world.name(0)], name
        for own in (SHARD, "index.json", ".mixstream-origin", ".mixstream-original", record_name(SHARD)):
            found = (world.local / own).lstat()
            assert (found.st_nlink, oct(found.st_mode)[:4]) == (1, "0o10"), (name, own)


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_right_shard_that_has_another_name_is_fetched_again(tmp_path, packed, link):
    """It is right now; tomorrow somebody writes to the other name."""
    world = World(tmp_path, packed=packed, check=True).build()
    files = world.files(keep_compressed=packed)
    assert world.read(files, 0)
    name = world.want(0).compressed.name if packed else world.name(0)
    elsewhere = tmp_path / "elsewhere"
    (world.local / name).rename(elsewhere)
    link(elsewhere, world.local / name)
    if packed:
        (world.local / world.name(0)).unlink()
        assert world.read(world.files(keep_compressed=True), 0)
    else:
        assert not files.present(world.want(0))
        with pytest.warns(RuntimeWarning, match=r"is a (symbolic link|file with other names).*`remote`"):
            assert world.read(files, 0)
    assert len(world.store.fetched()) == 2
    elsewhere.write_bytes(b"?" * elsewhere.stat().st_size)
    assert world.read(world.files(keep_compressed=packed), 0)
    assert (world.local / name).lstat().st_nlink == 1


def test_a_file_that_is_linked_while_it_is_open_is_asked_of_the_open_file(tmp_path, monkeypatch):
    world = World(tmp_path).build()
    files = world.files()
    assert world.read(files, 0)
    path, right = world.local / world.name(0), os.fstat

    def linked_now(number: int) -> os.stat_result:
        if Path(f"/proc/self/fd/{number}").readlink() == path and not (tmp_path / "other").exists():
            os.link(path, tmp_path / "other")  # between the look at the name and that at the file
        return right(number)

    monkeypatch.setattr("mixstream.storage.cache.own_files.os.fstat", linked_now)
    with pytest.warns(RuntimeWarning, match="a file with other names"):
        assert world.read(files, 0)
    assert path.stat().st_nlink == 1
    assert (tmp_path / "other").read_bytes() == content(0, world.size)


def test_a_partial_with_another_name_is_left_and_a_new_one_begun(tmp_path):
    """The sweep at the start removes it; one that comes later is found when it is locked."""
    world = World(tmp_path).build()
    files = world.files()
    assert world.read(files, 1)
    victim, partial = tmp_path / "victim", world.local / f".{world.name(0)}.partial"
    victim.write_bytes(b"keep me")
    partial.hardlink_to(victim)
    assert world.read(files, 0)
    assert (victim.read_bytes(), victim.stat().st_nlink) == (b"keep me", 1)
    assert (world.local / world.name(0)).stat().st_nlink == 1


def test_a_partial_that_gets_another_name_while_it_is_written_is_written_again(tmp_path, monkeypatch):
    world = World(tmp_path).build()
    files, right, made = world.files(), world.store.read, []

    def linked(name, begin=0, end=None, *, version=None):
        if name == world.name(0) and not made:
            made.append(os.link(world.local / f".{world.name(0)}.partial", tmp_path / "other"))
        return right(name, begin, end, version=version)

    monkeypatch.setattr("cache_world.Slow.read", lambda _, *args, **kw: linked(*args, **kw))
    assert world.read(files, 0)
    assert made == [None]
    assert (world.local / world.name(0)).stat().st_nlink == 1


@pytest.mark.parametrize("name", [".mixstream-objects", ".mixstream-needs", "00"])
@pytest.mark.parametrize("kind", ["symbolic link", "pipe"])
def test_directories_of_a_cache_are_no_links(tmp_path, name, kind):
    world = World(tmp_path, shards=3, sub="00/").build()
    world.local.mkdir()
    (tmp_path / "outside").mkdir()
    _KINDS[kind](world.local / name, tmp_path / "outside")

    def use() -> None:
        files = world.files(limit=41_000)
        files.cache_limit.announce([files.path(world.name(0))], [1.0])
        assert all(world.read(files, number) for number in range(3))

    with pytest.raises(StoreAccessError, match=r"is a symbolic link or not a directory, and nothing is read or"):
        use()
    assert list((tmp_path / "outside").iterdir()) == []


def test_shards_behind_a_directory_that_is_a_link_are_not_read(tmp_path):
    world = World(tmp_path, sub="00/").build()
    assert world.read(world.files(), 0)
    (world.local / "00").rename(tmp_path / "elsewhere")
    (world.local / "00").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreAccessError, match=r"'00' in it is a symbolic link"):
        world.read(world.files(), 0)


def test_the_cache_itself_may_be_a_link(tmp_path):
    world = World(tmp_path).build()
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    home = DatasetFiles.locate(remote=str(world.store.directory), local=str(tmp_path / "link"), split=None).home
    for place in (home, tmp_path / "link"):
        assert world.read(world.files(home=place), 0)
    assert world.store.fetched() == [world.name(0)]


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("way", ["remote", "local"])
def test_originals_may_be_links_as_those_of_hugging_faces_cache_are(tmp_path, link, way):
    world = World(tmp_path).build()
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in world.store.directory.iterdir():
        link(path, snapshot / path.name)
    places = {"remote": None, "local": None, way: str(snapshot)}
    files = DatasetFiles.locate(**places, split=None)
    files.read_index()
    files = files.within(world.files().cache_limit, world.names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.present(world.want(0))
        assert world.read(files, 0)
    assert {path.name for path in snapshot.iterdir()} == {"index.json", *world.names}


def test_a_directory_of_links_to_another_dataset_is_refused_as_a_cache(tmp_path):
    """Its index is not believed, but enough to see that it is not this dataset's."""
    world, other = World(tmp_path / "a").build(), World(tmp_path / "b").build()
    (other.store.directory / "index.json").write_bytes(b'{"another": "index"}')
    world.local.mkdir()
    for path in other.store.directory.iterdir():
        (world.local / path.name).symlink_to(path)
    with pytest.raises(ConfigError, match=r"Reused local directory.*another index"):
        world.read(world.files(), 0)
    assert all(path.is_symlink() for path in world.local.glob("[!.]*"))


def test_a_note_behind_a_link_still_refuses_another_dataset(tmp_path):
    one, other = (World(tmp_path / name).build() for name in "ab")
    assert one.read(one.files(), 0)
    (one.local / ".mixstream-origin").rename(tmp_path / "note")
    (one.local / ".mixstream-origin").symlink_to(tmp_path / "note")
    (one.local / "index.json").unlink()
    (other.store.directory / "index.json").write_bytes(b'{"another": "index"}')
    with pytest.raises(ConfigError, match=r"Reused local directory"):
        other.read(other.files(home=one.local), 0)


@pytest.mark.parametrize("note", [b"\0" * 40, b"s3://bucket/we", b" 0f", b"s3://bucket/web not-hex"])
def test_a_damaged_note_is_named_with_a_remedy(tmp_path, note):
    world = World(tmp_path).build()
    assert world.read(world.files(), 0)
    (world.local / ".mixstream-origin").write_bytes(note)
    said = r"/\.mixstream-origin is damaged: .* Provide another local directory, or remove this one with its shards"
    with pytest.raises(ConfigError, match=said):
        world.read(world.files(), 0)


def test_a_record_is_neither_written_nor_touched_through_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep me")
    os.utime(victim, (1, 1))
    before = _status(victim)
    record = tmp_path / record_name("a")
    record.parent.mkdir()
    for link in (record.symlink_to, record.hardlink_to):
        link(victim)
        if record.is_symlink():
            touch_record(tmp_path, "a")
        write_record(tmp_path, "a", victim.stat(), name="a", info=ObjectInfo(size=7, version='"1"'))
        assert _status(victim) == before
        assert record.lstat().st_nlink == 1
        record.unlink()


def test_a_directory_where_a_lock_belongs_names_it(tmp_path):
    world = World(tmp_path).build()
    for name in (".mixstream-origin", ".mixstream-original", "index.json", ".index.json.partial", ".mixstream-lock"):
        shutil.rmtree(world.local, ignore_errors=True)
        (world.local / name).mkdir(parents=True)
        with pytest.raises(StoreError, match=rf"{name}: .*Is a directory.* is a directory; remove it"):
            world.read(world.files(limit=50_000), 0)
    shutil.rmtree(world.local)
    files = world.files()
    (world.local / f".{world.name(0)}.partial").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"\.shard\.00000\.mds\.partial: .*Is a directory.*remove it"):
        world.read(files, 0)


def test_a_locked_file_has_one_name(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep me")
    (tmp_path / "lock").hardlink_to(victim)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        lock = try_lock(parent, "lock")
        assert lock is not None
        assert (os.fstat(lock).st_nlink, os.fstat(lock).st_size) == (1, 0)
        release(lock)
    finally:
        os.close(parent)
    assert (victim.read_bytes(), victim.stat().st_nlink) == (b"keep me", 1)
