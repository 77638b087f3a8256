"""Threads that work through things: within their room, and no longer than somebody listens."""

import threading
import time
from contextlib import closing

import pytest

from mixstream_tools.shared.parallel import in_parallel


def test_a_crew_keeps_to_its_room():
    """At most 10 bytes at once, but a thing of 25 goes alone; all is done."""
    lock, used, most = threading.Lock(), [], []

    def work(size: int) -> int:
        with lock:
            used.append(size)
            most.append(list(used))
        time.sleep(0.002)
        with lock:
            used.remove(size)
        return -size

    sizes = [3, 4, 2, 25, 5, 5, 5, 1, 9, 25, 1, 1, 1] * 3
    done = list(in_parallel(work, sizes, workers=6, cost=lambda size: size, room=10))
    assert sorted(done) == sorted((size, -size) for size in sizes)
    assert all(sum(each) <= 10 or each == [25] for each in most)
    assert max(map(len, most)) > 1


def test_a_crew_whose_caller_leaves_begins_nothing_more():
    begun, go = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            go.wait(10)
        return number

    with closing(in_parallel(work, range(100), workers=2)) as crew:
        assert next(crew) == (0, 0)
    go.set()
    time.sleep(0.05)
    assert len(begun) <= 4


def test_what_a_crew_member_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda number: 1 // number, [1, 0], workers=2))
