from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from children import in_child

from mixstream.inherited_file import InheritedFile

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks")


def write_mine(file: InheritedFile) -> None:
    file.write(b"child", at=3)


def test_an_inherited_file_is_shared_with_children():
    file = InheritedFile(16)
    assert file.read(16) == bytes(16)
    in_child(write_mine, file)
    assert file.read(8) == b"\0\0\0child"


def test_any_other_copy_is_a_file_of_its_own():
    file = InheritedFile(4)
    file.write(b"here")
    for other in (copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert other.read(4) == b"here"
        other.write(b"else")
    assert file.read(4) == b"here"


def test_nothing_is_left_on_disk_or_open(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def descriptors() -> int:
        """Return how many of our files below tmp_path are open, unlinked ones included."""
        found = 0
        for path in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # other threads' files come and go
                found += str(path.readlink()).startswith(str(tmp_path))
        return found

    file = InheritedFile(8)
    assert not list(tmp_path.iterdir())
    assert 1 <= descriptors() <= 2  # its own, and that of its mapping
    del file
    gc.collect()
    assert descriptors() == 0


def count_up(file: InheritedFile, times: int) -> None:
    for _ in range(times):
        with file:
            number = int.from_bytes(file.read(8), "little")
            file.write((number + 1).to_bytes(8, "little"))


def test_the_lock_keeps_processes_apart():
    file = InheritedFile(8)
    children = [FORK.Process(target=count_up, args=(file, 300)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert int.from_bytes(file.read(8), "little") == 1200
