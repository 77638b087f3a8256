"""The background thread: order, errors in their place, being blocked, ending."""

from __future__ import annotations

import threading
import time

import pytest

from mixstream.errors import ClosedError, WaitTimeoutError
from mixstream.loader.prefetch import BlockedError, Prefetcher


def counter(stop: int, error: BaseException):
    numbers = iter(range(stop))

    def produce() -> list[int]:
        for number in numbers:
            return [number]
        raise error

    return produce


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order_and_then_the_original_exception(depth):
    error = KeyError("the very one")
    items = Prefetcher(counter(5, error), depth=depth)
    assert [items.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError) as caught:
        items.get()
    assert caught.value is error
    items.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_the_end_is_stop_iteration_again_and_again(depth):
    items = Prefetcher(counter(1, StopIteration()), depth=depth)
    assert items.get() == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            items.get()
    items.close()


def test_it_works_ahead_as_deep_as_asked_and_no_deeper():
    made = []
    items = Prefetcher(lambda: made.append(len(made)) or made[-1:], depth=3)
    deadline = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(made) == 3
    items.get()
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(made) == 4
    items.close()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_that_are_made_together_are_handed_out_one_by_one(depth):
    made = iter([[0, 1], [2], [3, 4, 5]])
    items = Prefetcher(lambda: next(made), depth=depth)
    assert [items.get() for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(StopIteration):
        items.get()
    items.close()


def test_nothing_is_made_while_enough_is_ready():
    made = []
    items = Prefetcher(lambda: made.append(1) or [1, 1, 1, 1], depth=2)
    deadline = time.monotonic() + 20
    for ready in (4, 3, 2):
        while not made and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02)
        assert len(made) == 1, ready
        items.get()
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(made) == 2
    items.close()


def test_a_consumer_of_a_blocked_producer_is_told_and_can_wake_it():
    allowed = threading.Event()

    def produce() -> list[str]:
        if not allowed.is_set():
            raise BlockedError
        return ["item"]

    items = Prefetcher(produce, depth=2)
    with pytest.raises(BlockedError):
        items.get()
    allowed.set()
    items.wake()
    assert items.get() == "item"
    items.close()


def test_a_wait_is_bounded_and_says_what_for():
    release = threading.Event()
    items = Prefetcher(lambda: [release.wait(30)], depth=1, timeout=0.05)
    with pytest.raises(WaitTimeoutError, match="no batch in"):
        items.get()
    release.set()
    items.close()


def test_close_ends_the_thread():
    items = Prefetcher(lambda: [1], depth=2)
    items.get()
    items.close()
    assert "mixstream-prefetch" not in [thread.name for thread in threading.enumerate() if thread.is_alive()]


def test_after_close_there_is_nothing_to_wait_for():
    items = Prefetcher(lambda: [threading.Event().wait(0.01)], depth=2)
    waiting = []

    def consume() -> None:
        try:
            while True:
                items.get()
        except ClosedError:
            waiting.append("ended")

    consumer = threading.Thread(target=consume)
    consumer.start()
    items.close()
    consumer.join(timeout=20)
    assert waiting == ["ended"]
    with pytest.raises(ClosedError, match="closed by another thread"):
        items.get()


def test_a_producer_woken_while_it_looks_tries_again():
    """What the consumer says between the producer's look and its being blocked is not lost."""
    looked, acted = threading.Event(), threading.Event()
    answers = iter(["first look", "item"])

    def produce() -> list[str]:
        answer = next(answers, "more")
        if answer == "first look":
            looked.set()
            assert acted.wait(20)
            raise BlockedError
        return [answer]

    items = Prefetcher(produce, depth=1)
    assert looked.wait(20)
    items.wake()
    acted.set()
    assert items.get() == "item"
    items.close()
