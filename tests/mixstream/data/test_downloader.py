"""Threads that fetch ahead: order, no shard twice at once, pauses, and that they end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from own_time import OwnTime

from mixstream.data.downloader import Downloader


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    until(lambda: not fetching_threads())


def fetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mixstream-fetch")]


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def follow(fetcher: Downloader, numbers: Sequence[int], steps: Sequence[float] | None = None) -> None:
    fetcher.follow(
        np.array(numbers, dtype=np.int64), np.array(range(len(numbers)) if steps is None else steps, dtype=np.float64)
    )


class Store:
    """Notes what it is asked for; `answer` says how it goes."""

    def __init__(self, answer: Callable[[int], bool] = lambda number: True) -> None:
        self.asked: list[tuple[int, float]] = []
        self.times: list[float] = []
        self.at_once: Counter[int] = Counter()
        self.most_at_once = self.most = 0
        self._answer, self._lock = answer, threading.Lock()

    def fetch(self, number: int, need: float) -> bool:
        with self._lock:
            self.asked.append((number, need))
            self.times.append(time.monotonic())
            self.at_once[number] += 1
            self.most_at_once = max(self.most_at_once, self.at_once[number])
            self.most = max(self.most, self.at_once.total())
        try:
            return self._answer(number)
        finally:
            with self._lock:
                self.at_once[number] -= 1

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.asked]


def test_shards_are_fetched_in_order_with_the_steps_until_they_are_needed():
    store = Store()
    fetcher = Downloader(fetch=store.fetch, threads=1)
    follow(fetcher, [5, 3, 9], [0, 2.5, 7])
    until(lambda: len(store.asked) == 3)
    assert store.asked == [(5, 0), (3, 2.5), (9, 7)]
    follow(fetcher, [3, 9, 4])  # what is done is done
    until(lambda: len(store.asked) == 4)
    assert store.numbers == [5, 3, 9, 4]
    fetcher.close()


def test_those_that_have_to_be_there_before_all_others_have_the_line_to_themselves():
    gate = threading.Event()
    store = Store(lambda number: number != 2 or gate.wait(20))
    fetcher = Downloader(fetch=store.fetch, threads=4)
    fetcher.follow(np.array([1, 2, 3, 4]), np.array([0.0, 0, 1, 1]), before=2)
    until(lambda: store.at_once.total() == 1 and len(store.asked) == 2)
    time.sleep(0.05)  # in which a mistake would show
    assert sorted(store.numbers) == [1, 2]
    gate.set()
    until(lambda: sorted(store.numbers) == [1, 2, 3, 4])
    fetcher.close()


def test_waiting_for_the_first_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mixstream.data.downloader._FIRST_PAUSE", 1e-6)
    monkeypatch.setattr("mixstream.data.downloader._LAST_PAUSE", 1e-6)
    there = threading.Event()
    store = Store(lambda number: number != 1 or there.wait(0.0005))  # another process fetches 1
    fetcher = Downloader(fetch=store.fetch, threads=2)
    fetcher.follow(np.array([1, 2, 3]), np.array([0.0, 0, 1]), before=2)
    until(lambda: len(store.asked) > 100)
    known, asked = len(gc.get_objects()), len(store.asked)
    until(lambda: len(store.asked) > asked + 500)  # the other thread looks as often
    assert len(gc.get_objects()) - known < 250
    assert set(store.numbers) == {1, 2}
    there.set()
    until(lambda: 3 in store.numbers)
    fetcher.close()


def test_others_do_not_wait_for_those_that_failed():
    store = Store()
    fetcher = Downloader(fetch=lambda number, need: store.fetch(number, need) and 1 // number > 0, threads=2)
    fetcher.follow(np.array([0, 1, 5]), np.array([0.0, 0, 1]), before=2)  # 0 raises an error
    until(lambda: set(store.numbers) == {0, 1, 5})
    fetcher.close()


def test_others_do_not_wait_for_those_that_failed_before_they_were_listed():
    store, failed = Store(), threading.Event()

    def fetch(number: int, need: float) -> bool:
        failed.set() if number == 0 else None
        return store.fetch(number, need) and 1 // number > 0

    fetcher = Downloader(fetch=fetch, threads=2)
    fetcher.follow(np.array([0]), np.array([0.0]), before=1)
    until(lambda: failed.is_set() and not store.at_once.total())
    time.sleep(0.01)  # until the downloader knows of it, too
    fetcher.follow(np.array([0, 5]), np.array([0.0, 1]), before=1)
    until(lambda: 5 in store.numbers)
    fetcher.close()


def test_a_new_list_ends_the_wait_for_the_first():
    store = Store(lambda number: number != 1)  # 1 is never available
    fetcher = Downloader(fetch=store.fetch, threads=2)
    fetcher.follow(np.array([1, 2]), np.array([0.0, 1]), before=1)
    until(lambda: store.numbers.count(1) > 1)
    assert set(store.numbers) == {1}
    follow(fetcher, [1, 2])
    until(lambda: 2 in store.numbers)
    fetcher.close()


def test_a_new_list_takes_the_place_of_the_old_one_at_once():
    gate = threading.Event()
    store = Store(lambda number: gate.wait(20))
    fetcher = Downloader(fetch=store.fetch, threads=2)
    follow(fetcher, range(1000))
    until(lambda: len(store.asked) == 2)
    follow(fetcher, [7, 1, 2000])
    gate.set()
    until(lambda: len(store.asked) == 4)
    time.sleep(0.05)
    assert sorted(store.numbers[:2]) == [0, 1]
    assert store.numbers[2:] == [7, 2000]  # 1 was in flight already
    fetcher.close()


def test_a_shard_that_was_not_listed_for_a_while_is_fetched_again():
    store = Store()
    fetcher = Downloader(fetch=store.fetch)
    for numbers, total in (([1], 1), ([1, 2], 2), ([2], 2), ([1, 2], 3)):
        follow(fetcher, numbers)
        until(lambda total=total: len(store.asked) == total)
        until(lambda: not store.at_once.total())
        time.sleep(0.01)
    assert store.numbers == [1, 2, 1]
    fetcher.close()


def test_many_threads_fetch_each_shard_once():
    store = Store(lambda number: time.sleep(0.0005) is None)
    fetcher = Downloader(fetch=store.fetch, threads=8)
    for begin in range(0, 400, 20):
        follow(fetcher, range(begin, begin + 200))
        time.sleep(0.002)
    until(lambda: set(store.numbers) >= set(range(380, 580)))
    assert max(Counter(store.numbers).values()) == 1
    assert store.most_at_once == 1
    assert 2 <= store.most <= 8
    fetcher.close()


def test_what_cannot_be_had_is_passed_over_and_tried_again_after_pauses_that_grow():
    store = Store(lambda number: number != 1)
    fetcher = Downloader(fetch=store.fetch, threads=1)
    follow(fetcher, [1, 2, 3])
    until(lambda: store.numbers.count(1) == 4)
    assert store.numbers[:3] == [1, 2, 3]
    assert store.numbers[3:] == [1, 1, 1]
    pauses = np.diff([at for at, number in zip(store.times, store.numbers) if number == 1])
    assert (pauses >= [0.05, 0.1, 0.2]).all()
    with OwnTime() as clock:
        follow(fetcher, [1])  # there may be room now
        until(lambda: store.numbers.count(1) == 5)
    assert clock.seconds < 0.3  # the next pause would have been 0.4 s
    fetcher.close()


def test_where_there_is_no_room_the_rest_of_a_long_list_is_let_lie():
    store = Store(lambda number: False)
    fetcher = Downloader(fetch=store.fetch)
    follow(fetcher, range(5000))
    until(lambda: len(set(store.numbers)) == 32)
    began, asked = time.monotonic(), len(store.asked)
    for _ in range(10):
        follow(fetcher, range(5000))
        time.sleep(0.02)
    took = time.monotonic() - began
    assert set(store.numbers) == set(range(32))
    assert len(store.asked) - asked < 10 * 4 + 32 * (took / 0.05)
    fetcher.close()


def test_when_there_is_room_again_those_that_waited_come_at_once():
    room = threading.Event()
    store = Store(lambda number: room.is_set())
    fetcher = Downloader(fetch=store.fetch, threads=1)
    follow(fetcher, range(10))
    until(lambda: store.numbers.count(9) == 5)  # the next pause is 0.8 s
    room.set()
    asked = len(store.asked)
    with OwnTime() as clock:
        follow(fetcher, range(10))
        until(lambda: set(store.numbers[asked:]) == set(range(10)))
    assert clock.seconds < 0.7
    assert store.numbers[asked : asked + 10] == list(range(10))
    fetcher.close()


def test_after_an_error_the_shard_is_let_lie_for_a_while_and_then_tried_again(monkeypatch):
    monkeypatch.setattr("mixstream.data.downloader._AFTER_ERROR", 0.5)

    def answer(number: int) -> bool:
        if number == 1:
            raise KeyError
        return True

    store = Store(answer)
    fetcher = Downloader(fetch=store.fetch, threads=2)
    follow(fetcher, [1, 2])
    until(lambda: len(store.asked) == 2)
    for number in (3, 4, 5):  # however often it is asked for
        follow(fetcher, [1, number])
        until(lambda: number in store.numbers)  # noqa: B023 - called at once
    assert store.numbers.count(1) == 1
    time.sleep(0.5)
    follow(fetcher, [1, 6])
    until(lambda: store.numbers.count(1) == 2)
    fetcher.close()


def test_before_and_after_there_is_nothing():
    fetcher = Downloader(fetch=Store().fetch)
    follow(fetcher, [])
    assert not fetching_threads()  # they begin with the first shard
    fetcher.close()
    fetcher.close()


def test_close_does_not_wait_for_a_slow_fetch_and_a_later_call_begins_anew():
    gate = threading.Event()
    store = Store(lambda number: gate.wait(20))
    fetcher = Downloader(fetch=store.fetch)
    follow(fetcher, range(100))
    until(lambda: len(store.asked) == 4)
    with OwnTime() as clock:
        fetcher.close()
    assert clock.seconds < 1
    gate.set()
    until(lambda: not fetching_threads())
    assert len(store.asked) == 4
    follow(fetcher, [200])
    until(lambda: store.numbers[-1] == 200)
    fetcher.close()
    assert not fetching_threads()


class Owner:
    """Owns a fetcher that calls it, as a loader does."""

    def __init__(self) -> None:
        self.fetcher = Downloader(fetch=self.fetch)
        self.asked = 0

    def fetch(self, number: int, need: float) -> bool:
        self.asked += 1
        if number == 1:
            raise ValueError("a traceback holds its frames, and they hold me")
        return number != 2


def test_threads_end_with_their_owner_and_do_not_keep_it():
    def at_work() -> weakref.ref[Owner]:
        owner = Owner()
        follow(owner.fetcher, [1, 2, 3])
        until(lambda: owner.asked >= 3)
        assert len(fetching_threads()) == 4
        return weakref.ref(owner)

    owner = at_work()

    def nothing_left() -> bool:
        gc.collect()
        return owner() is None and not fetching_threads()

    until(nothing_left)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    gate = threading.Event()
    store = Store(lambda number: number != 2 or gate.wait(20))
    fetcher = Downloader(fetch=store.fetch)
    follow(fetcher, [1, 2])
    until(lambda: len(store.asked) == 2)
    if (child := os.fork()) == 0:
        status = 1
        try:
            follow(fetcher, [1, 3])
            until(lambda: set(store.numbers[2:]) == {1, 3}, seconds=10)
            fetcher.close()
            follow(fetcher, [4])
            until(lambda: store.numbers[-1] == 4, seconds=10)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    gate.set()
    follow(fetcher, [7])
    until(lambda: store.numbers == [1, 2, 7] or store.numbers == [2, 1, 7])
    fetcher.close()


def test_an_interpreter_that_nobody_closes_ends():
    script = """
import time
import numpy as np
from mixstream.data.downloader import Downloader
fetcher = Downloader(fetch=lambda number, need: time.sleep(0.2) is None)
fetcher.follow(np.arange(1000), np.arange(1000.0))
time.sleep(0.1)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_long_lists_are_cheap():
    store = Store()
    fetcher = Downloader(fetch=store.fetch)
    follow(fetcher, range(5000))
    until(lambda: len(store.asked) == 5000)
    numbers_N, steps_N = np.arange(5000), np.arange(5000.0)
    began = time.process_time()
    for _ in range(20):
        fetcher.follow(numbers_N, steps_N)
        time.sleep(0.005)  # for the threads to find that nothing is left to do
    assert (time.process_time() - began) / 20 < 0.02
    assert len(store.asked) == 5000
    fetcher.close()
