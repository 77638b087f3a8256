"""The contract of stores, over one table of all kinds; what is special to disks; and what a URL may be."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from bucket_server import BucketServer, bucket_server  # pyright: ignore[reportMissingImports]
from store_world import (  # pyright: ignore[reportMissingImports]
    DATA,
    OVER_HTTP,
    World,
    assert_discreet,
    every_kind,
    make_world,
    on_disk,
    only_fsspec,
    over_azure,
)

from mixstream.errors import ConfigError, StoreChangedError, StoreError, StoreFaultError, StoreNotFoundError
from mixstream.storage import open_store

ODD_NAMES = [
    "a b",
    "ü/ñ ö.bin",
    "x%20y",
    "a+b",
    "h#sh",
    "q?m",
    "~t",
    "[br]{c}",
    "a&b=c;d,e",
    "'*'",
    "a:b@c",
    "%",
    "日本",
]


@pytest.fixture(scope="module")
def running() -> Iterator[BucketServer]:
    with bucket_server() as server:
        yield server


@pytest.fixture
def world(
    running: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> World:
    return make_world(request.param, running, tmp_path, monkeypatch)


# The contract


@every_kind
def test_what_is_written_is_read(world: World) -> None:
    store = world.open()
    store.write("sub/shard.mds", DATA)
    assert bytes(store.read("sub/shard.mds").data) == DATA
    for begin, end in ((0, 1), (5, 300), (300, len(DATA)), (0, len(DATA)), (700, None), (9, 9), (len(DATA), None)):
        piece = store.read("sub/shard.mds", begin, end)
        assert bytes(piece.data) == DATA[begin:end]
        assert piece.info == store.info("sub/shard.mds")
    assert store.info("sub/shard.mds").size == len(DATA)


@every_kind
def test_an_empty_object_is_one(world: World) -> None:
    store = world.open()
    store.write("empty", b"")
    assert bytes(store.read("empty").data) == b""
    assert bytes(store.read("empty", 0, 0).data) == b""
    assert store.info("empty").size == 0


@every_kind
def test_what_is_not_there(world: World) -> None:
    store = world.open()
    store.write("there", b"x")
    for ask in (store.read, store.info, lambda name: store.read(name, 1, 2), lambda name: store.read(name, 0, 0)):
        with pytest.raises(StoreNotFoundError, match="nope"):
            ask("nope")
    store.remove("nope")
    store.remove("there")
    store.remove("there")
    with pytest.raises(FileNotFoundError):
        store.info("there")


@every_kind
def test_a_range_beyond_the_end_is_a_fault_and_not_a_short_answer(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    for begin, end in ((0, len(DATA) + 1), (len(DATA) - 1, len(DATA) + 1), (len(DATA) + 5, len(DATA) + 9)):
        with pytest.raises(StoreFaultError, match=rf"/a\b.*{begin} to {end}"):
            store.read("a", begin, end)
    with pytest.raises(StoreFaultError):
        store.read("a", len(DATA) + 1)


@every_kind
def test_a_replaced_object_has_another_version(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    version = store.info("a").version
    assert version is not None
    assert bytes(store.read("a", 3, 7, version=version).data) == DATA[3:7]
    store.write("a", DATA[::-1])
    for begin, end in ((3, 7), (0, None), (3, None), (2, 2)):
        with pytest.raises(StoreChangedError, match="/a"):
            store.read("a", begin, end, version=version)
    assert bytes(store.read("a", version=store.info("a").version).data) == DATA[::-1]


@every_kind
def test_names_come_back_as_they_went(world: World) -> None:
    store = world.open()
    for name in ODD_NAMES:
        store.write(name, name.encode())
    assert [bytes(store.read(name).data).decode() for name in ODD_NAMES] == ODD_NAMES
    if world.kind != "http":
        assert store.names() == sorted(ODD_NAMES)
        assert set(store.names(limit=3)) < set(ODD_NAMES)
        assert len(store.names(limit=3)) == 3
    if world.kind in OVER_HTTP:
        assert set(world.server.objects) == {f"bucket/some dir/x/{name}" for name in ODD_NAMES}
    for name in ODD_NAMES:
        store.remove(name)
    assert not any(key.startswith("bucket/") for key in world.server.objects)


@every_kind
def test_a_directory_does_not_list_its_neighbours(world: World) -> None:
    if world.kind == "http":
        pytest.skip("plain HTTP has no listing")
    store = world.open()
    store.write("a", b"x")
    open_store(world.url() + "-neighbour", timeout=5).write("b", b"x")
    assert store.names() == ["a"]


@every_kind
def test_a_file_is_uploaded_whole_in_parts_if_it_is_large(world: World) -> None:
    source = world.tmp / "source.bin"
    source.write_bytes(os.urandom(1 << 16) * 264)  # 16.5 MiB
    store = world.open()
    store.write("large", source)
    assert store.info("large").size == 264 << 16
    assert bytes(store.read("large", 5 << 20, 9 << 20).data) == source.read_bytes()[5 << 20 : 9 << 20]
    if world.kind in OVER_HTTP:
        assert world.server.objects["bucket/some dir/x/large"] == source.read_bytes()


@every_kind
def test_stores_are_picklable_and_threads_share_them(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.url == store.url
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(bytes(copy.read("a", 1, 99).data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [DATA[1:99]] * 8
    copy.renew()
    assert bytes(copy.read("a").data) == DATA


@every_kind
def test_a_source_that_is_not_there_is_not_the_fault_of_the_store(world: World) -> None:
    store = world.open()
    store.write("a", DATA)
    with pytest.raises(FileNotFoundError, match="no such source") as caught:
        store.write("a", world.tmp / "no such source")
    assert not isinstance(caught.value, StoreError)
    assert bytes(store.read("a").data) == DATA


# Local disks


@on_disk
def test_a_local_store_keeps_to_its_directory(world: World) -> None:
    (world.tmp / "secret").write_bytes(b"x")
    store = world.open()
    store.write("a", b"x")
    for name in ("../secret", "/etc/passwd", "a/../../secret", "", "a\0b"):
        for act in (store.read, store.info, store.remove, lambda name: store.write(name, b"y")):
            with pytest.raises(StoreError, match="relative"):
                act(name)
    assert (world.tmp / "secret").read_bytes() == b"x"


@on_disk
def test_a_local_write_is_there_whole_or_not_at_all(world: World) -> None:
    store = world.open()
    store.write("a", b"before")
    with pytest.raises(IsADirectoryError):
        store.write("a", world.tmp)
    assert bytes(store.read("a").data) == b"before"
    assert store.names() == ["a"]
    assert [path.name for path in Path(world.url()).iterdir()] == ["a"]
    mask = os.umask(0o027)
    try:
        store.write("b", b"x")
    finally:
        os.umask(mask)
    assert (Path(world.url()) / "b").stat().st_mode & 0o777 == 0o640


@on_disk
def test_errors_of_a_disk_name_the_path_and_keep_their_number(world: World) -> None:
    with pytest.raises(StoreNotFoundError, match="some dir") as caught:
        world.open().names()
    assert caught.value.errno == 2
    (world.tmp / "some dir").mkdir()
    (world.tmp / "some dir" / "d").mkdir()
    for ask in (world.open().read, world.open().info):
        with pytest.raises(StoreNotFoundError, match="EISDIR"):
            ask("d")
    with pytest.raises(StoreNotFoundError):
        world.open().read("x" * 300)


# File systems of fsspec


@only_fsspec
def test_a_file_system_without_a_timeout_is_given_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    store, over = world.open(timeout=0.2), threading.Event()
    store.write("a", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "info", lambda *_, **__: over.wait(10))
        for ask in (store.info, store.read):
            with pytest.raises(StoreFaultError, match=r"/a: could not .* it did not answer in time"):
                ask("a")
    over.set()
    assert bytes(store.read("a").data) == DATA


@only_fsspec
def test_bytes_of_a_file_that_is_replaced_meanwhile_are_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    store, right = world.open(), MemoryFileSystem.cat_file
    store.write("a", DATA)

    def replaced(self: MemoryFileSystem, path: str, *args: int, **kwargs: int) -> bytes:
        self.pipe_file(path, DATA[::-1])
        return right(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", replaced)
    with pytest.raises(StoreChangedError, match="/a"):
        store.read("a", 0, 9)


@only_fsspec
def test_a_connection_is_made_by_the_first_request_and_its_failure_explained(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("ssh://me:SECRETWORD@host")

    monkeypatch.setattr("fsspec.core.url_to_fs", refused)
    with pytest.raises(StoreFaultError, match="/a") as caught:
        world.open().info("a")
    assert_discreet(caught.value)


# What a URL may be


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("s3://", "bucket"),
        ("s3:///dir", "bucket"),
        ("gs://user:SECRETWORD@bucket/dir", "environment"),
        ("s3://KEY:SECRETWORD@mix/x", "write s3://mix/x and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3://KEY:SECRET/WORD+@mix/x", "write s3://mix/x and set AWS_ACCESS_KEY_ID"),
        ("s3://host:9000/bucket", "environment"),
        ("http:///dir", "host"),
        ("zzz://bucket/dir", "zzz://"),
        ("sftp://me:SECRETWORD@host/dir", "paramiko"),
    ],
)
def test_urls_that_cannot_be(url: str, word: str) -> None:
    if word == "paramiko":
        pytest.importorskip("fsspec")
        if find_spec("paramiko"):
            pytest.skip("paramiko is installed")
    with pytest.raises(ConfigError, match=word) as caught:
        open_store(url)
    assert_discreet(caught.value)


def test_without_fsspec_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"pip install fsspec"):
        open_store("memory://dir")


@over_azure
def test_azure_is_written_in_many_ways(world: World) -> None:
    world.open().write("a", DATA)
    for url in (
        "azure://bucket/some dir/x",
        "abfss://bucket@account.dfs.core.windows.net/some dir/x",
        "abfs://bucket/some dir/x",
        "azure://account.blob.core.windows.net/bucket/some dir/x",
    ):
        assert bytes(open_store(url, timeout=5).read("a").data) == DATA


@over_azure
def test_azure_without_an_account(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_ACCOUNT_NAME")
    monkeypatch.delenv("AZURE_STORAGE_ENDPOINT")
    with pytest.raises(ConfigError, match="AZURE_ACCOUNT_NAME"):
        world.open().read("a")


def test_importing_and_opening_costs_no_client() -> None:
    code = """
import sys
import mixstream.storage as storage
storage.open_store('/tmp')
heavy = {'obstore', 'boto3', 'botocore', 'fsspec'}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
heavy -= {'obstore'}  # opening an object URL loads it (`forks`)
storage.open_store('https://host/dir')
storage.open_store('s3://bucket')
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
