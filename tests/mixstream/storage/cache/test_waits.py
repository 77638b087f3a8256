"""Waits for a process that was stopped: bounded, and they say for whom."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cache_world import QUICK, World
from children import Child

from mixstream.errors import ConfigError, WaitTimeoutError
from mixstream.selection.staging import StagedFiles
from mixstream.storage import build_once, holder_of, waits
from mixstream.storage.cache import waits as module
from mixstream.storage.cache.locks import parent_of, try_lock
from mixstream.storage.cache.owner import CacheOwner
from mixstream.storage.cache.waits import StallTimeout, WakingCount

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks", "ignore:.*fork:DeprecationWarning"),
    pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not list who holds locks"),
]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TELL_AFTER", 0.02)


@contextmanager
def stopped(begin: Callable[[], Any]) -> Iterator[int]:
    """Let a child begin, and stop; yield its number, and let it go on afterwards."""

    def run() -> None:
        os.environ["RANK"] = "7"
        kept = begin()
        os.kill(os.getpid(), signal.SIGSTOP)
        del kept

    child = Child(run)
    child.await_stop()
    try:
        yield child.pid
    finally:
        os.kill(child.pid, signal.SIGCONT)
        child.result()


def lock(directory: Path, name: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with parent_of(directory, name) as (parent, leaf):
        try_lock(parent, leaf)


def said_by(pid: int) -> str:
    return rf"process {pid}.*, which is stopped \(kill -CONT {pid} lets it go on\)"


def test_a_reader_of_a_shard_says_for_whom_it_waits_and_goes_on_with_it(tmp_path, caplog):
    world = World(tmp_path).build()
    files, read = world.files(), []
    with stopped(lambda: lock(world.local, f".{world.name(0)}.partial")) as pid:
        reader = threading.Thread(target=lambda: read.append(world.read(files, 0)))
        reader.start()
        until = time.monotonic() + 60
        while not (told := waits()) and time.monotonic() < until:
            time.sleep(0.01)
        assert re.search(rf"{world.name(0)}, held by {said_by(pid)}: \d+ s so far, .* of 75 s at most$", told[0]), told
        assert re.search(rf"waiting for .*{world.name(0)}, held by {said_by(pid)}", caplog.text)
        while len(caplog.records) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(caplog.records) < 8  # at growing intervals
    reader.join()
    assert read == [True]
    until = time.monotonic() + 60
    while waits() and time.monotonic() < until:
        time.sleep(0.05)
    assert waits() == []


def test_the_errors_of_waits_say_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    world = World(tmp_path).build()
    monkeypatch.setattr("mixstream.storage.dataset_files._SLACK", 0.1 - QUICK.longest)
    shard, limited = world.files(), world.files(limit=2 * world.size + 17)
    monkeypatch.setattr("mixstream.storage.built_once._TIMEOUT", 0.1)
    monkeypatch.setattr("mixstream.storage.cache.owner._TIMEOUT", 0.1)
    place = tmp_path / "bound"

    def build(path: Path) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def squares(make: Callable[[Path], Any]) -> Any:
        return build_once("squares", "9", find=lambda path: None, build=make, what="squares", need="count")

    def hold_all() -> Any:
        lock(world.local, f".{world.name(0)}.partial")
        lock(world.local, ".mixstream-lock")
        lock(place, ".mixstream-origin")
        staged = StagedFiles(tmp_path / "scores")
        squares(build)
        return staged

    child = Child(hold_all)
    child.await_stop()
    try:
        for wait in (
            lambda: world.read(shard, 0),
            lambda: world.read(limited, 1),
            CacheOwner(directory=place, origin="s3://bucket/web", digest="0f").bind,
            lambda: squares(build),
        ):
            with pytest.raises(WaitTimeoutError, match=rf"gave up after 0 s .*\(held by {said_by(child.pid)}\)$"):
                wait()
        with pytest.raises(ConfigError, match=rf"scores is being written by {said_by(child.pid)}"):
            StagedFiles(tmp_path / "scores")
    finally:
        child.end()


def test_a_holder_has_its_rank_and_its_own_threads_are_named(tmp_path):
    lock(tmp_path, "ours")
    assert holder_of((tmp_path / "ours").stat()) == "another thread of this process"
    (tmp_path / "free").touch()
    assert holder_of((tmp_path / "free").stat()) == ""


def test_a_wait_with_progress_says_nothing(caplog):
    wait = StallTimeout(5.0, "a shard", "")
    for mark in range(20):
        wait.pause(mark)
    assert (caplog.text, waits()) == ("", [])


def test_where_the_system_lists_no_locks_nothing_is_said_of_holders(tmp_path, monkeypatch, caplog):
    lock(tmp_path, "ours")
    found = (tmp_path / "ours").stat()
    monkeypatch.setattr("mixstream.storage.cache.holders.Path", lambda path: Path("/nowhere"))
    assert holder_of(found) == ""
    wait = StallTimeout(0.05, "a shard", ", which is fetched", holder=lambda: holder_of(found))
    with pytest.raises(WaitTimeoutError, match=r"waiting for a shard, which is fetched$"):
        list(iter(lambda: wait.pause(None), "never"))
    assert "waiting for a shard: 0 s so far" in caplog.text


def test_what_waits_for_a_count_is_woken_when_it_grows():
    count = WakingCount()
    seen = count.now
    waiting = threading.Thread(target=count.beyond(seen), args=(60.0,))
    waiting.start()
    count.add()
    waiting.join(timeout=20)
    assert not waiting.is_alive()
    count.beyond(seen)(60.0)  # it has grown before
