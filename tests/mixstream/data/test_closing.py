"""Closing while shards are fetched ahead: each descriptor is closed once, and nothing goes on afterwards."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from cache_world import World
from harness import write_tokens

import mixstream as ms
from mixstream.data.predownload import Predownloader
from mixstream.storage.cache import announcements, locks

CLOSES = 150


@pytest.fixture
def closed_twice(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the descriptors that were closed though they were not open."""
    found: list[int] = []
    close = os.close

    def checked(number: int) -> None:
        try:
            close(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                found.append(number)
            raise

    monkeypatch.setattr("os.close", checked)
    return found


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns so often that one is interrupted between a check and what follows it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def needs(place) -> list[str]:
    return [path.name for path in place.rglob(".mixstream-needs/*")]


@pytest.mark.usefixtures("impatient")
def test_an_announcement_is_replaced_and_withdrawn_by_several_threads(tmp_path, closed_twice):
    world = World(tmp_path).build()
    limit = world.files(limit=2 * world.size + 17).cache_limit
    errors: list[BaseException] = []

    def announce(number: int) -> None:
        try:
            for at in range(CLOSES):
                limit.announce([world.local / f"{number}"], [float(at)])
        except BaseException as error:
            errors.append(error)

    def close() -> None:
        try:
            for _ in range(3 * CLOSES):
                limit.close()
        except BaseException as error:
            errors.append(error)

    world.local.mkdir(exist_ok=True)
    threads = [threading.Thread(target=announce, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limit.close()
    assert errors == []
    assert closed_twice == []
    assert needs(world.local) == []


def test_an_announcement_that_is_being_made_is_withdrawn_after_it(tmp_path, monkeypatch):
    world = World(tmp_path).build()
    limit = world.files(limit=2 * world.size + 17).cache_limit
    world.local.mkdir(exist_ok=True)
    middle, go_on, write = threading.Event(), threading.Event(), announcements._write

    def held(*args):
        made = write(*args)
        middle.set()
        go_on.wait(timeout=10)
        return made

    monkeypatch.setattr(announcements, "_write", held)
    announcing = threading.Thread(target=limit.announce, args=([world.local / "0"], [1.0]))
    announcing.start()
    assert middle.wait(timeout=10)
    closing = threading.Thread(target=limit.close)
    closing.start()
    closing.join(timeout=0.1)  # it waits for the announcement that it has to withdraw
    go_on.set()
    announcing.join()
    closing.join()
    assert needs(world.local) == []


def test_a_lock_is_released_once_whatever_its_number_is_used_for_then(tmp_path):
    with locks.parent_of(tmp_path, "lock") as (parent, leaf):
        number = locks.try_lock(parent, leaf)
    assert number is not None
    locks.release(number)
    null = os.open(os.devnull, os.O_RDONLY)
    other = number if null == number else os.dup2(null, number)  # another file has the number now
    locks.release(number)
    assert os.fstat(other)
    for open_ in {null, other}:
        os.close(open_)


@pytest.mark.usefixtures("impatient")
def test_many_loaders_that_are_closed_while_they_read(tmp_path, closed_twice):
    write_tokens(tmp_path / "web", range(400), compression="zstd", shard_bytes=200)
    limit = 20_000 + (tmp_path / "web/index.json").stat().st_size  # the cache has a copy of the index too
    dataset = ms.StreamingDataset(
        remote=str(tmp_path / "web"), local=str(tmp_path / "local"), batch_size=4, shuffle=False, cache_limit=limit
    )
    before = threading.active_count()
    for at in range(40):
        loader = ms.Loader(dataset, prefetch=2)
        batches = iter(loader)
        for _ in range(at % 3):
            next(batches)
        loader.close()
        assert needs(tmp_path / "local") == []
    until = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert [t.name for t in threading.enumerate() if t.name.startswith("mixstream")] == []
    assert closed_twice == []


def test_nothing_is_announced_or_fetched_after_the_close(tmp_path):
    """The thread that reads may be in the middle of looking ahead when another thread closes."""
    write_tokens(tmp_path / "web", range(400), compression="zstd", shard_bytes=200)
    limit = 20_000 + (tmp_path / "web/index.json").stat().st_size  # the cache has a copy of the index too
    dataset = ms.StreamingDataset(
        remote=str(tmp_path / "web"), local=str(tmp_path / "local"), batch_size=4, shuffle=False, cache_limit=limit
    )
    with ms.Loader(dataset, prefetch=0) as loader:
        next(iter(loader))
        run = loader.run
    ahead = Predownloader(run_plan=run.run_plan, domains=dataset.domains, ahead=64)
    middle, go_on = threading.Event(), threading.Event()
    forecast = ahead._forecast
    assert forecast is not None

    class Held:
        """The forecast, which takes its time."""

        def upcoming(self, *args):
            found = forecast.upcoming(*args)
            middle.set()
            go_on.wait(timeout=10)
            return found

        def distance(self, *args):
            return forecast.distance(*args)

    ahead._forecast = Held()  # type: ignore[assignment]
    reader = threading.Thread(target=ahead.look_ahead, args=(run.start(), None))
    reader.start()
    assert middle.wait(timeout=10)
    closer = threading.Thread(target=ahead.close)
    closer.start()
    time.sleep(0.05)
    go_on.set()
    reader.join()
    closer.join()
    ahead.look_ahead(run.start(), None)
    assert needs(tmp_path / "local") == []
    until = time.monotonic() + 10
    while (left := [t for t in threading.enumerate() if t.name.startswith("mixstream-fetch")]) and (
        time.monotonic() < until
    ):
        time.sleep(0.01)
    assert left == []
