"""Paths that cannot be, and what is no file where one belongs: named by argument or path, and nothing hangs."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_world import World
from harness import write_tokens
from odd_files import make_socket

import mixstream as ms
from mixstream.errors import (
    ConfigError,
    SelectionError,
    ShardNotFoundError,
    StoreError,
)
from mixstream.feedback.log import MixingLog
from mixstream.selection import Selection
from mixstream.selection.staging import StagedFiles
from mixstream.storage import CacheLimit, DatasetFiles, absolute, named_disk_errors, open_store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of one shard, read in place."""
    return write_tokens(tmp_path_factory.mktemp("data"), range(8))


@pytest.fixture(params=["a long name", "a long path", "a NUL", "half a character"])
def impossible(request, tmp_path: Path) -> tuple[str, str]:
    """Return a path that no disk has, and what the error says of it."""
    return {
        "a long name": (f"{tmp_path}/{'a' * 300}", r"too long for a path: \d+ bytes, of which one name takes 30\d"),
        "a long path": (f"{tmp_path}" + f"/{'a' * 200}" * 30, r"too long for a path: \d+ bytes.* give a shorter one"),
        "a NUL": (f"{tmp_path}/a\0b", "has a NUL character in it, which no path has; remove it"),
        "half a character": (f"{tmp_path}/a\ud800b", r"has '\\ud800' in it, which is half a character"),
    }[request.param]


def _write(out: Any) -> None:
    with ms.MDSWriter(out=out, columns={"x": "int"}, retry=0) as writer:
        writer.write({"x": 1})


_TAKES: dict[str, Callable[[Path, str], object]] = {
    "remote": lambda data, path: ms.Stream(remote=path),
    "local": lambda data, path: ms.Stream(remote=str(data), local=path),
    "split": lambda data, path: ms.Stream(remote=str(data), split=path.lstrip("/")).locate(),
    "selection": lambda data, path: ms.Stream(remote=str(data), selection=path),
    "packing": lambda data, path: ms.Stream(remote=str(data), packing=path),
    "out": lambda data, path: _write(path),
    "out ": lambda data, path: _write((str(data.parent / "elsewhere"), path)),
    "the path of the log": lambda data, path: MixingLog(path, names=["web"]),
    "remote ": lambda data, path: ms.streams(path),
    "remote  ": lambda data, path: ms.Stream(remote=f"{path}.bin", seq_len=8),
}


@pytest.mark.parametrize("name", _TAKES)
def test_an_argument_that_no_disk_can_have_is_refused_by_its_name(name, data, impossible):
    path, told = impossible
    is_text = name == "split" and not path.isprintable()  # a name below `remote`, which is refused as a text
    said = "^`split` is a text of Unicode without NUL" if is_text else rf"^{name.strip()}=.*{told}"
    with pytest.raises(ConfigError, match=said) as caught:
        _TAKES[name](data, path)
    assert len(str(caught.value)) < 500  # of a path of 6000 characters, as much as tells it


@pytest.mark.parametrize("kind", ["a file", "below a file", "a pipe", "a loop of links"])
@pytest.mark.parametrize("name", ["local", "out"])
def test_a_directory_that_cannot_be_one_is_refused_by_its_name(name, kind, data, tmp_path):
    path = tmp_path / "here"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a loop of links":
        path.symlink_to("here")
    else:
        path.write_bytes(b"mine")
    given = path / "below" if kind == "below a file" else path
    told = {"a file": "is a file", "a pipe": "is a pipe", "below a file": "here is no directory"}.get(kind, "nowhere")
    with pytest.raises(ConfigError, match=rf"^{name}=.*here.*{told}.*(pass|give another) (a )?directory"):
        DatasetFiles.locate(remote=str(data), local=str(given), split=None) if name == "local" else _write(given)
    assert path.is_symlink() or path.is_fifo() or path.read_bytes() == b"mine"


def test_a_name_that_is_no_utf8_is_refused_where_it_is_written_down(data, tmp_path):
    given = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(ConfigError, match=r"^remote=.*has '\\udce9' in it, which is no character of UTF-8"):
        ms.Stream(remote=given)
    with pytest.raises(ConfigError, match=r"^`name` is a text of Unicode without NUL"):
        ms.Stream(remote=str(data), name="caf\udce9")
    with pytest.raises(ConfigError, match="no character of UTF-8"):
        DatasetFiles.locate(remote=None, local=given, split=None)
    assert absolute(given, "local") == given  # nothing is wrong with a cache there


def test_a_directory_that_nobody_can_make_is_named(tmp_path):
    place = Path("/proc/mixstream")
    if not place.parent.is_dir():
        pytest.skip("needs a file system in which nothing can be created")
    world = World(tmp_path).build()
    for act in (lambda: world.read(world.files(home=place), 0), lambda: _write(str(place))):
        with pytest.raises(StoreError, match=r"/proc/mixstream.*: could not .*ENOENT.* give another"):
            act()


_KINDS: dict[str, Callable[[Path], object]] = {
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": make_socket,
    "dangling link": lambda path: path.symlink_to("/nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


_TOLD = {
    "directory": "a directory",
    "pipe": "a FIFO, not a regular file",
    "socket": "a socket, not a regular file",
    "dangling link": "a symbolic link to /nowhere, which leads to no file",
    "loop": "a symbolic link to shard.00000.*, which leads to no file",
    "device": "a device, not a regular file",
}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("way", ["in place", "alone", "copied", "compressed"])
def test_what_is_no_file_where_a_shard_belongs_is_named_and_nothing_hangs(tmp_path, kind, way):
    world = World(tmp_path, packed=way == "compressed", shards=2).build()
    name = world.want(0).compressed.name if way == "compressed" else world.name(0)
    (world.store.directory / name).unlink()
    _KINDS[kind](world.store.directory / name)
    place, local = str(world.store.directory), str(world.local)
    remote = None if way == "alone" else place
    files = DatasetFiles.locate(remote=remote, local={"alone": place, "copied": local}.get(way), split=None)
    files.read_index()
    files = files.within(CacheLimit(), world.names)
    with pytest.raises(
        (ShardNotFoundError, StoreError), match=rf"{re.escape(place)}/{re.escape(name)} is {_TOLD[kind]}"
    ):
        world.read(files, 0)
    assert world.read(files, 1)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_store_on_disk_reads_files_only(tmp_path, kind):
    _KINDS[kind](tmp_path / "x")
    store = open_store(str(tmp_path))
    for ask in (store.read, store.info):
        with pytest.raises(StoreError, match=rf"{tmp_path}/x: could not"):
            ask("x")


@pytest.mark.parametrize("kind", _KINDS)
def test_what_is_no_file_where_a_manifest_belongs_is_named(tmp_path, kind):
    _KINDS[kind](tmp_path / "manifest.json")
    with pytest.raises(SelectionError, match=rf"{tmp_path}/manifest.json"):
        Selection.open(tmp_path)


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _select(path: Path) -> None:
    with StagedFiles(path) as staged:
        (staged.directory / "rows.npy").write_bytes(b"1")


_WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a dataset": ("pathlib.Path.write_bytes", _write),
    "a dataset's directory": ("os.mkdir", _write),
    "a selection": ("pathlib.Path.write_bytes", _select),
    "a selection's directory": ("os.mkdir", _select),
}


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("what", _WRITERS)
def test_writers_name_the_inodes_that_are_missing_and_keep_what_was_finished(tmp_path, monkeypatch, what):
    found = list(os.statvfs(tmp_path))
    found[5:8] = 100, 0, 0  # f_files, f_ffree, f_favail
    monkeypatch.setattr("mixstream.storage.disk_errors.os.statvfs", lambda _: os.statvfs_result(found))
    call, write = _WRITERS[what]
    finished = write_tokens(tmp_path / "done", range(8))
    before = {path: path.read_bytes() for path in finished.iterdir()}
    told = r"ENOSPC.*: no inodes are left on the disk \(0 of 100 free.*`df -i`"
    monkeypatch.setattr(call, _full)
    with pytest.raises(StoreError, match=told) as caught:
        write(tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert {path: path.read_bytes() for path in finished.iterdir()} == before
    monkeypatch.undo()
    write(tmp_path / "out2")


def test_an_index_in_place_that_the_disk_does_not_give_is_named(tmp_path, monkeypatch):
    def refused(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    write_tokens(tmp_path, range(8))
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StoreError, match=r"index\.json: could not read it: Input/output error \(EIO\)"):
        ms.StreamingDataset(streams=[ms.Stream(local=str(tmp_path))], batch_size=1)


def test_errors_of_ours_pass_as_they_are(tmp_path):
    error = StoreError("as it is")
    with pytest.raises(StoreError) as caught, named_disk_errors(tmp_path, "write"):
        raise error
    assert caught.value is error
    with pytest.raises(StoreError) as caught, named_disk_errors(tmp_path, "write"):
        _full()
    assert caught.value.errno == errno.ENOSPC
