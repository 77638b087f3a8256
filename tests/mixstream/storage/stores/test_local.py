"""A directory of local disk as a store: what the system refuses, and what a listing must not leave out."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mixstream.errors import StoreAccessError, StoreError, StoreFaultError, StoreNotFoundError
from mixstream.storage import open_store

REFUSALS = [
    (errno.EACCES, StoreAccessError, "run as a user who may {act} it"),
    (errno.EPERM, StoreAccessError, "chown"),
    (errno.EROFS, StoreAccessError, "EROFS"),
    (errno.EMFILE, StoreError, "ulimit -n"),
    (errno.ENFILE, StoreError, "ulimit -n"),
    (errno.ENOSPC, StoreError, "the disk has"),
    (errno.EDQUOT, StoreError, "quota"),
    (errno.EIO, StoreFaultError, "dmesg"),
    (errno.ESTALE, StoreFaultError, "mount"),
    (errno.ETIMEDOUT, StoreFaultError, "mount"),
    (errno.ENOTDIR, StoreNotFoundError, "that the disk is mounted"),
    (errno.ELOOP, StoreNotFoundError, "ELOOP"),
]


def refuse(number: int) -> Any:
    def act(place: int | Path, *_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number), None if isinstance(place, int) else os.fspath(place))

    return act


@pytest.mark.parametrize(("number", "kind", "remedy"), REFUSALS, ids=[errno.errorcode[each[0]] for each in REFUSALS])
def test_what_the_disk_refuses_has_a_kind_a_number_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError], remedy: str
) -> None:
    store = open_store(str(tmp_path))
    store.write("a", b"before")
    asked = {
        "read": (os, "pread", lambda: store.read("a")),
        "look at": (Path, "stat", lambda: store.info("a")),
        "write": (Path, "replace", lambda: store.write("a", b"after")),
        "remove": (Path, "unlink", lambda: store.remove("a")),
        "list": (os, "scandir", store.names),
    }
    for act, (owner, name, ask) in asked.items():
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse(number))
            if act == "look at":
                patch.setattr(Path, "is_file", lambda path: True)
            with pytest.raises(StoreError, match=rf"could not {act} it: .* \({errno.errorcode[number]}\)") as caught:
                ask()
        assert (type(caught.value), caught.value.errno) == (kind, number)
        assert remedy.format(act=act) in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    assert bytes(store.read("a").data) == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]  # a write that failed left nothing


def test_reads_that_return_less_than_was_asked_for_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, content, pread = open_store(str(tmp_path)), bytes(range(200)), os.pread
    store.write("a", content)
    monkeypatch.setattr(os, "pread", lambda number, size, at: pread(number, min(size, 7), at))
    assert bytes(store.read("a").data) == content
    assert bytes(store.read("a", 13, 99).data) == content[13:99]
    assert bytes(store.read("a", 5, 12).data) == content[5:12]
    for most in (20, 0):
        with monkeypatch.context() as patch:
            patch.setattr(
                os, "pread", lambda number, size, at, most=most: pread(number, max(min(size, most - at), 0), at)
            )
            with pytest.raises(StoreFaultError, match=f"cut to {max(most, 0)} bytes while it was read; was 200"):
                store.read("a")


def test_a_directory_that_cannot_be_listed_does_not_shorten_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scandir = open_store(str(tmp_path)), os.scandir
    for name in ("web/a", "code/b", "lost+found/c"):
        store.write(name, b"x")

    def at(dark: str, number: int) -> Any:
        def scan(place: Any) -> Any:
            if os.fspath(place).endswith(dark):
                raise OSError(number, os.strerror(number), os.fspath(place))
            return scandir(place)

        return scan

    for number, kind in ((errno.EACCES, StoreAccessError), (errno.EIO, StoreFaultError)):
        monkeypatch.setattr(os, "scandir", at("/web", number))
        with pytest.raises(kind, match=f"{tmp_path}/web: could not list it"):
            store.names()
    monkeypatch.setattr(os, "scandir", at("/web", errno.ENOENT))  # removed meanwhile
    assert store.names() == ["code/b", "lost+found/c"]
    monkeypatch.setattr(os, "scandir", at("/lost+found", errno.EACCES))  # of every ext4 disk, and only root's
    assert store.names() == ["code/b", "web/a"]


def test_domains_and_splits_may_be_links_to_elsewhere(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for place in (root / "web/train", root / "code", elsewhere / "x/train", elsewhere / "y"):
        place.mkdir(parents=True)
        (place / "index.json").write_bytes(b"{}")
    (root / "linked").symlink_to(elsewhere / "x")
    (root / "code/val").symlink_to(elsewhere / "y")
    (root / "web/train/deep").symlink_to(elsewhere / "y")
    (root / ".hidden").symlink_to(elsewhere / "y")
    (root / "around").symlink_to(tmp_path)
    (root / "code/self").symlink_to(root / "code")
    (elsewhere / "x/back").symlink_to(elsewhere)
    found = open_store(str(root)).names()
    assert [name for name in found if not name.startswith(("linked/back", "code/self"))] == [
        "code/index.json",
        "code/val/index.json",
        "linked/train/index.json",
        "web/train/index.json",
    ]
    assert all((root / name).is_file() for name in found)
