"""Properties that are computed once, and processes that are forked meanwhile."""

from __future__ import annotations

import os
import threading

from children import in_child

from mixstream.cached import cached_property


class Slow:
    """An object with a property that waits."""

    def __init__(self, begun: threading.Event, goes_on: threading.Event) -> None:
        self.begun, self.goes_on = begun, goes_on

    @cached_property
    def value(self) -> list[int]:
        self.begun.set()
        assert self.goes_on.wait(30)
        return [os.getpid()]


def test_threads_that_compute_it_together_receive_one_value():
    slow, found = Slow(threading.Event(), threading.Event()), []
    threads = [threading.Thread(target=lambda: found.append(slow.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    slow.goes_on.set()
    for thread in threads:
        thread.join(30)
    assert len({id(value) for value in found}) == 1
    assert slow.value is found[0]


def test_a_process_that_is_forked_while_a_thread_computes_it_can_use_it():
    slow, free = Slow(threading.Event(), threading.Event()), Slow(threading.Event(), threading.Event())
    free.goes_on.set()
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    assert slow.begun.wait(30)
    try:
        assert in_child(lambda: free.value[0] == os.getpid()) is True
    finally:
        slow.goes_on.set()
        thread.join(30)
