"""Threads that work through a list of things, bounded in number and in bytes at once.

Rules. Things are begun in order and done in any. No thread outlives its use: when the caller stops listening (an
error, Ctrl-C), nothing new is begun, and what is under way is left to a daemon thread, which does not hold up the end
of the process.
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
    things: Sequence[T],
    *,
    workers: int,
    cost: Callable[[T], int] = lambda _: 0,
    room: int = 0,
) -> Generator[tuple[T, R], None, None]:
    """Yield each thing with what `act` makes of it, as they get done.

    Args:
        act: called on the threads. What it raises is raised here.
        things: what there is to do.
        workers: threads at most.
        cost: bytes of memory that a thing takes while it is worked on.
        room: bytes at once; one thing that takes more than that is worked on alone.
    """
    crew = _Crew(act, things, cost, room)
    for _ in range(min(workers, len(things))):
        threading.Thread(target=crew.work, name="mixstream-crew", daemon=True).start()
    try:
        for _ in things:
            thing, result, error = crew.done.get()
            if error is not None:
                raise error
            yield thing, result
    finally:
        crew.stop()


class _Crew:
    """What the threads share."""

    def __init__(self, act: Callable[[T], R], things: Sequence[T], cost: Callable[[T], int], room: int) -> None:
        self.done: SimpleQueue = SimpleQueue()
        self._act, self._cost, self._room = act, cost, room
        self._left = deque(things)
        self._used = 0
        self._change = threading.Condition()

    def work(self) -> None:
        while (taken := self._take()) is not None:
            thing, cost = taken
            try:
                told = thing, self._act(thing), None
            except BaseException as error:  # it belongs to whoever listens
                told = thing, None, error
            with self._change:
                self._used -= cost
                self._change.notify_all()
            self.done.put(told)

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
