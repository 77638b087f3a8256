"""Threads that work through a list of items, with a limit on threads and on memory.

Rules. Items start in order and finish in any order. When the caller closes the generator (an error, Ctrl-C), no further
item starts; running ones end in daemon threads, which do not delay the exit of the process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    act: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    cost: Callable[[T], int] = lambda _: 0,
    room: int = 0,
) -> Generator[tuple[T, R], None, None]:
    """Yield each item with the result of `act(item)`, in the order of completion.

    Args:
        act: called on the threads. Its errors are raised here.
        items: the arguments of `act`.
        workers: maximum number of threads.
        cost: bytes of memory that an item needs while it is worked on.
        room: bytes that running items may need together; an item that needs more runs alone.
    """
    pool = _Pool(act, items, cost, room)
    for _ in range(min(workers, len(items))):
        threading.Thread(target=pool.work, name="mixstream-parallel", daemon=True).start()
    try:
        for _ in items:
            item, result, error = pool.done.get()
            if error is not None:
                raise error
            yield item, result
    finally:
        pool.stop()


class _Pool:
    """The state that the threads share."""

    def __init__(self, act: Callable[[T], R], items: Sequence[T], cost: Callable[[T], int], room: int) -> None:
        self.done: SimpleQueue = SimpleQueue()
        self._act, self._cost, self._room = act, cost, room
        self._left = deque(items)
        self._used = 0
        self._change = threading.Condition()

    def work(self) -> None:
        while (taken := self._take()) is not None:
            item, cost = taken
            try:
                answer = item, self._act(item), None
            except BaseException as error:  # raised in the caller's thread
                answer = item, None, error
            with self._change:
                self._used -= cost
                self._change.notify_all()
            self.done.put(answer)

    def stop(self) -> None:
        with self._change:
            self._left.clear()
            self._change.notify_all()

    def _take(self) -> tuple | None:
        with self._change:
            while self._left:
                cost = self._cost(self._left[0])
                if not self._used or self._used + cost <= self._room:
                    self._used += cost
                    return self._left.popleft(), cost
                self._change.wait()
        return None
