"""Files that are built once a machine."""

import errno
import tempfile
from pathlib import Path

import pytest

from mixstream.errors import CacheFullError, ConfigError, StoreBusyError
from mixstream.storage import build_once, write_whole


@pytest.fixture(autouse=True)
def _temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _squares(build) -> bytes:
    return build_once("squares:3", "squares", find=_read, build=build, what="three squares", need="count")


def _write(path: Path) -> None:
    with write_whole(path) as file:
        file.write(bytes([0, 1, 4]))


def _unused(path: Path) -> None:
    pytest.fail(f"{path} was there")


def test_what_was_built_is_read():
    assert _squares(_write) == _squares(_unused) == bytes([0, 1, 4])


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    def fill(path: Path) -> None:
        with write_whole(path) as file:
            file.write(b"0")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheFullError, match=rf"^{tmp_path}.*three squares .*needed to count: set TMPDIR"):
        _squares(fill)
    assert [path.name for path in tmp_path.rglob("squares*")] == []
    assert _squares(_write) == bytes([0, 1, 4])


def test_errors_of_what_is_read_to_build_it_keep_their_place():
    def fetch(path: Path) -> None:
        error = StoreBusyError("s3://corpus: slow down")
        error.errno = errno.EACCES
        raise error

    with pytest.raises(StoreBusyError, match=r"^s3://corpus: slow down$"):
        _squares(fetch)


def test_nothing_is_read_of_a_directory_that_others_may_write(tmp_path):
    _squares(_write)
    (directory,) = tmp_path.iterdir()
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="writable by this user only"):
        _squares(_unused)
