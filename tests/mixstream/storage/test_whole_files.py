"""What a power cut leaves: files under their names are whole, and an index names only shards that are."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from crash_disk import CrashDisk, names_whole_shards
from harness import make_dataset, row_ids, write_tokens

import mixstream as ms
from mixstream.errors import CacheFullError, StoreFaultError
from mixstream.selection.staging import MANIFEST, StagedFiles
from mixstream.storage import move_whole, open_store, sync, write_whole


def failing(monkeypatch: pytest.MonkeyPatch, why: int, *, at: str = "") -> None:
    """Let fsync fail, of the files and directories with `at` in their paths."""

    def fsync(number: int) -> None:
        if at in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "fsync", fsync)


# --- the helper ---------------------------------------------------------------------------------------------------


def test_a_file_has_its_name_once_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    disk = CrashDisk(monkeypatch, tmp_path)
    with write_whole(tmp_path / "a") as file:
        file.write(b"12")
    assert disk.operations == [("fsync", "a.partial"), ("replace", "a"), ("fsync", ".")]
    assert disk.surely(tmp_path / "a") == b"12"
    (tmp_path / "b.tmp").write_bytes(b"3")
    move_whole(tmp_path / "b.tmp", tmp_path / "b")
    assert disk.operations[3:] == [("fsync", "b.tmp"), ("replace", "b"), ("fsync", ".")]


@pytest.mark.parametrize("why", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_left_to_itself(tmp_path, monkeypatch, why):
    failing(monkeypatch, why)
    with write_whole(tmp_path / "a") as file:
        file.write(b"12")
    write_tokens(tmp_path / "web", range(20))
    assert (tmp_path / "a").read_bytes() == b"12"
    assert len(ms.StreamingDataset(local=str(tmp_path / "web"))[:]) == 20


@pytest.mark.parametrize("why", [errno.EACCES, errno.EBADF])
def test_a_directory_that_cannot_be_synced_is_left_to_itself(tmp_path, monkeypatch, why):
    if why == errno.EBADF:
        failing(monkeypatch, why, at=str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    open_file = os.open

    def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if why == errno.EACCES and path == tmp_path / "shared":  # as of a user who may write there, and not list it
            raise PermissionError(why, os.strerror(why))
        return open_file(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", opened)
    sync(tmp_path / "shared")
    (tmp_path / "a.tmp").write_bytes(b"12")
    monkeypatch.setattr(os, "open", open_file)
    failing(monkeypatch, errno.EBADF)
    with pytest.raises(OSError, match="Bad file descriptor"):
        move_whole(tmp_path / "a.tmp", tmp_path / "a")


def test_an_error_of_the_disk_is_raised_by_name_and_the_file_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"before")
    failing(monkeypatch, errno.EIO)
    with (
        pytest.raises(StoreFaultError, match=rf"{tmp_path}/a: the disk could not write it .*EIO.*dmesg") as caught,
        write_whole(tmp_path / "a") as file,
    ):
        file.write(b"12")
    assert caught.value.errno == errno.EIO
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"before"}
    with pytest.raises(StoreFaultError, match=rf"{tmp_path}: "):
        sync(tmp_path)


# --- writers ------------------------------------------------------------------------------------------------------


def write(out: Path, first: int, kind: str) -> None:
    """Write a dataset of several shards, over whatever is there."""
    options: dict[str, Any] = {"out": str(out), "size_limit": 300, "exist_ok": True}
    writer: Any
    if kind == "json":
        writer = ms.JSONWriter(columns={"n": "int"}, **options)
    else:
        writer = ms.MDSWriter(columns={"n": "int"}, compression="zstd" if kind == "zstd" else None, **options)
    with writer:
        for number in range(first, first + 60):
            writer.write({"n": number})


@pytest.mark.parametrize("kind", ["mds", "zstd", "json"])
def test_an_index_of_a_writer_names_only_shards_that_are_whole(tmp_path, monkeypatch, kind):
    out = tmp_path / "new" / "web"
    disk = CrashDisk(monkeypatch, tmp_path, names_whole_shards(out / "index.json"))
    write(out, 0, kind)
    index = disk.surely(out / "index.json")
    assert index.count(b'"samples"') > 1
    for path in (out, out.parent):  # a power cut after the writer has ended takes nothing
        disk.surely(path)
    write(out, 1000, kind)  # in the place of the first: shards of the same names and sizes
    assert disk.surely(out / "index.json") == (out / "index.json").read_bytes()


def test_a_shard_whose_bytes_do_not_reach_the_disk_gets_no_index(tmp_path, monkeypatch):
    failing(monkeypatch, errno.EIO, at="shard.00001")
    with pytest.raises(StoreFaultError, match=r"shard\.00001\.mds.*: the disk could not write it"):
        write_tokens(tmp_path / "web", range(100), retry=0)
    assert not (tmp_path / "web/index.json").exists()
    assert not (tmp_path / "web/shard.00001.mds").exists()


def test_a_merged_index_names_only_shards_that_are_whole(tmp_path, monkeypatch):
    for part in "ab":
        write_tokens(tmp_path / part, range(20))
    root = tmp_path / "all"
    disk = CrashDisk(monkeypatch, root, names_whole_shards(root / "index.json"))
    for part in "ab":
        shutil.copytree(tmp_path / part, root / part)  # nobody has synced these
        for path in (root / part).iterdir():
            path.rename(path)  # which tells the disk of it
    ms.merge_index(str(root))
    assert disk.surely(root / "index.json").count(b'"samples"') == 2 * len(list((root / "a").glob("shard*")))


def test_objects_of_a_directory_are_whole(tmp_path, monkeypatch):
    disk = CrashDisk(monkeypatch, tmp_path, names_whole_shards(tmp_path / "index.json"))
    write_tokens(tmp_path / "from", range(20))
    store = open_store(str(tmp_path))
    for path in sorted((tmp_path / "from").iterdir(), reverse=True):  # the index last, as reshard and merge do
        store.write(path.name, path)
    assert disk.surely(tmp_path / "index.json") == (tmp_path / "from/index.json").read_bytes()


def test_a_manifest_names_only_files_that_are_whole(tmp_path, monkeypatch):
    target = tmp_path / "web"

    def check(disk: CrashDisk) -> None:
        for file in disk.may_be.get(target / MANIFEST, set()) - {None}:
            assert file is not None
            assert file.synced is not None
            version = file.synced.decode().rpartition(" ")[2].strip('"}').encode()
            assert disk.surely(target / "rows.npy") == version, "the manifest of one version, the rows of another"

    disk = CrashDisk(monkeypatch, tmp_path, check)
    for version in (b"1", b"2"):
        with StagedFiles(target, overwrite=True) as staged:
            (staged.directory / "rows.npy").write_bytes(version)
            manifest = b'{"format": "mixstream.x/1", "files": {"rows.npy": 0}, "version": "of ' + version + b'"}'
            staged.publish({"rows.npy"}, manifest=manifest)
    assert disk.surely(target / "rows.npy") == b"2"


# --- the cache ----------------------------------------------------------------------------------------------------


def read(remote: Path, local: Path, **options: Any) -> list[int]:
    """Read all rows of a dataset through a cache."""
    with ms.Loader(ms.StreamingDataset(remote=str(remote), local=str(local), batch_size=4, **options)) as loader:
        return [number for batch in loader for number in row_ids(batch)]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_durable_cache_has_no_file_without_its_bytes(tmp_path, monkeypatch, compression):
    remote = write_tokens(tmp_path / "web", range(40), compression=compression)
    local = tmp_path / "local"

    def check(disk: CrashDisk) -> None:
        for path, found in disk.may_be.items():
            if not path.name.endswith(".partial"):
                assert all(file is None or file.synced is not None for file in found), f"{path} may be empty"

    local.mkdir()
    disk = CrashDisk(monkeypatch, local, check)
    assert read(remote, local, durable=True, keep_zip=True) == list(range(40))
    for path in remote.iterdir():
        assert disk.surely(local / path.name) == path.read_bytes()
    assert ("fsync", ".mixstream-origin") in disk.operations
    before = len(disk.operations)
    assert read(remote, local, durable=True) == list(range(40))
    assert [op for op in disk.operations[before:] if op[0] == "fsync"] == []  # what is there costs nothing


def test_a_cache_is_not_synced_unless_that_was_asked_for(tmp_path, monkeypatch):
    remote = write_tokens(tmp_path / "web", range(40))
    disk = CrashDisk(monkeypatch, tmp_path)
    stream = ms.Stream(remote=str(remote), local=str(tmp_path / "one"), durable=True)
    others = ms.Stream(remote=str(remote), local=str(tmp_path / "two"), name="two")
    dataset = ms.StreamingDataset(streams=[stream, others], batch_size=4)
    assert [each.durable for each in dataset.streams] == [True, False]
    with ms.Loader(dataset) as loader:
        list(loader)
    synced = [path for name, path in disk.operations if name == "fsync"]
    assert len(synced) >= 8
    assert all(path.startswith("one") for path in synced)
    assert make_dataset(tmp_path, ["web"]).durable is False


def test_a_shard_that_does_not_reach_the_disk_is_not_in_the_cache(tmp_path, monkeypatch):
    remote = write_tokens(tmp_path / "web", range(40))
    failing(monkeypatch, errno.EIO, at=".shard.00001")
    with pytest.raises(StoreFaultError, match=r"local/shard\.00001\.mds: the disk could not write it"):
        read(remote, tmp_path / "local", durable=True)
    assert not list((tmp_path / "local").glob("*shard.00001*"))


def test_a_disk_that_is_full_at_last_is_a_full_cache(tmp_path, monkeypatch):
    remote = write_tokens(tmp_path / "web", range(40))
    failing(monkeypatch, errno.ENOSPC, at=".shard.00001")
    with pytest.raises(CacheFullError, match=r"shard\.00001\.mds"):
        read(remote, tmp_path / "local", durable=True, cache_limit="1mb")


# --- the mixing log -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_lines_of_a_durable_log_are_on_the_disk_one_by_one(tmp_path, monkeypatch, durable):
    write_tokens(tmp_path / "web", range(40))
    log = tmp_path / "log" / "mixture.jsonl"
    found: list[int] = []
    disk = CrashDisk(
        monkeypatch, tmp_path, lambda _: found.append(log.read_bytes().count(b"\n") if log.exists() else 0)
    )
    dataset = ms.StreamingDataset(remote=str(tmp_path / "web"), batch_size=8, durable=durable)
    with ms.Loader(dataset, log=log.parent) as loader:
        for batch in loader:
            loader.report(batch, batch["tokens"].float())
    lines = log.read_bytes().count(b"\n")
    assert lines == 6
    assert disk.operations.count(("fsync", "log/mixture.jsonl")) == (lines if durable else 0)
    if durable:
        assert disk.surely(log) == log.read_bytes()
        assert found[-lines:] == list(range(1, lines + 1))
