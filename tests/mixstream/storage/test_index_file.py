"""Indexes that are too large, change while they are read, or were damaged where they are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from directory_server import directory_server
from harness import write_tokens

import mixstream as ms
from mixstream.errors import IndexCorruptError, StoreFaultError
from mixstream.storage import ObjectBytes, index_file
from mixstream.storage.stores.local import LocalStore

LARGEST = 1 << 30


def aged(directory: Path) -> Path:
    """Let a dataset be an hour old: of a new one, the loader waits until its index is surely written."""
    for path in directory.iterdir():
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return directory


def opened(remote: Path, *, cached: bool) -> ms.StreamingDataset:
    """Open a dataset where it is, or as that of a store."""
    local = {"local": str(remote.with_name("local"))} if cached else {}
    return ms.StreamingDataset(remote=str(remote), batch_size=1, download_retry=1, **local)


@pytest.mark.parametrize("cached", [False, True], ids=["in place", "store"])
def test_an_index_of_more_than_a_gib_is_not_read(tmp_path, monkeypatch, cached):
    (tmp_path / "web").mkdir()
    with (tmp_path / "web/index.json").open("wb") as file:
        file.truncate(LARGEST + 1)

    read = LocalStore.read

    def one_byte(store: LocalStore, name: str, begin: int = 0, end: int | None = None, **kw: Any) -> ObjectBytes:
        assert (begin, end) == (0, 1), "more was read than its size takes"
        return read(store, name, begin, end, **kw)

    monkeypatch.setattr(LocalStore, "read", one_byte)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    message = rf"web/index\.json: {LARGEST + 1} bytes, more than the {LARGEST} that an index may have.*write larger"
    with pytest.raises(IndexCorruptError, match=message):
        opened(tmp_path / "web", cached=cached)


@pytest.mark.parametrize("cached", [False, True], ids=["in place", "store"])
def test_the_largest_index_is_read(tmp_path, monkeypatch, cached):
    remote = aged(write_tokens(tmp_path / "web", range(20)))
    size = (remote / "index.json").stat().st_size
    monkeypatch.setattr(index_file, "_LARGEST", size)
    assert len(opened(remote, cached=cached)[:]) == 20
    monkeypatch.setattr(index_file, "_LARGEST", size - 1)
    with pytest.raises(IndexCorruptError, match=f"{size} bytes, more than the {size - 1}"):
        opened(remote, cached=cached)


def lying(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the store say another size of the index, so often, when it is asked for it; return what it said."""
    told: list[int] = []
    read = LocalStore.read

    def other(store: LocalStore, name: str, begin: int = 0, end: int | None = None, **kw: Any) -> ObjectBytes:
        found = read(store, name, begin, end, **kw)
        if (name, begin, end) != ("index.json", 0, 1):
            return found
        told.append(found.info.size - (len(told) < times) * (1 + len(told)))
        return replace(found, info=replace(found.info, size=told[-1]))

    monkeypatch.setattr(LocalStore, "read", other)
    return told


def test_an_index_that_was_written_in_between_is_read_again(tmp_path, monkeypatch):
    remote = aged(write_tokens(tmp_path / "web", range(20)))
    lying(monkeypatch, 1)
    assert len(opened(remote, cached=True)[:]) == 20


def test_an_index_that_never_has_the_size_that_the_store_says_is_an_error(tmp_path, monkeypatch):
    remote = aged(write_tokens(tmp_path / "web", range(20)))
    told = lying(monkeypatch, 1000)
    with pytest.raises(
        IndexCorruptError, match=r"index\.json: the store says that it has \d+ bytes, and sends another"
    ):
        opened(remote, cached=True)
    assert 1 < len(told) < 20


# --- the copy in the cache ----------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    """Return what is left after a power cut: the size, without the bytes."""
    return bytes(len(data))


def other(data: bytes) -> bytes:
    """Return an index that is well formed, and names fewer rows."""
    return data.replace(b'"samples": 15', b'"samples": 14')


@pytest.mark.parametrize("damage", [cut, other])
@pytest.mark.parametrize("given", [True, False], ids=["local", "no local"])
def test_a_kept_index_is_used_only_if_it_is_the_one_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    remote = aged(write_tokens(tmp_path / "web", range(100, 151)))
    with directory_server(remote.parent) as url:
        where: dict[str, Any] = {"remote": f"{url}/web", "local": str(tmp_path / "local") if given else None}
        where |= {"batch_size": 1, "download_retry": 1, "download_timeout": 5}
        assert len(ms.StreamingDataset(**where)[:]) == 51

    def away(*_: object) -> None:
        raise StoreFaultError("connection refused")

    monkeypatch.setattr(index_file, "_whole", away)
    with pytest.warns(RuntimeWarning, match="connection refused.*going on with the copy that was kept"):
        assert ms.StreamingDataset(**where).num_samples == 51
    below = tmp_path / ("local" if given else "temp")
    (kept,) = below.rglob("index.json")
    data = kept.read_bytes()
    kept.write_bytes(damage(data))
    assert kept.read_bytes() != data
    with pytest.raises(StoreFaultError, match="connection refused"):
        ms.StreamingDataset(**where)
