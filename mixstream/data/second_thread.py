"""A second thread that copies rows, while the trainer waits for them and a core has nothing to do.

Whether a core has is for the time to say that copies take (`Pace`): other processes may keep it busy. The thread lasts
as long as one copy: starting it costs as little as waking one that waits, and none is left to be ended.
"""

import os
import threading
from collections import deque
from collections.abc import Callable

_KEPT, _TURNS = 8, 16  # copies of each kind that count, and every so many, the kind that takes longer is tried again


def has_second_core() -> bool:
    """Return whether this process may run on more than one core."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1


class Pace:
    """Whether copies with a second thread have been quicker lately than those without it.

    >>> pace = Pace()
    >>> for _ in range(2):  # each is tried
    ...     two = pace.takes_two()
    ...     pace.took(3e-6 if two else 2e-6, two=two)
    >>> [pace.takes_two() for _ in range(4)]  # the core was busy
    [False, False, False, False]
    """

    def __init__(self) -> None:
        self._took = {two: deque[float](maxlen=_KEPT) for two in (True, False)}
        self._asked = 0

    def takes_two(self) -> bool:
        """Return whether the next copy takes a second thread."""
        self._asked += 1
        tried = [two for two, seconds in self._took.items() if seconds]
        if len(tried) < 2:
            return True not in tried
        quicker = self._mean(two=True) < self._mean(two=False)
        return quicker is not (self._asked % _TURNS == 0)

    def took(self, seconds: float, *, two: bool) -> None:
        """Note how long a copy took for each of its rows, with a second thread or without."""
        self._took[two].append(seconds)

    def _mean(self, *, two: bool) -> float:
        return sum(self._took[two]) / len(self._took[two])


def both(work: Callable[[slice], None], size: int) -> None:
    """Do the work of the positions [0, size): one half here, the other in a second thread. Return when both are done.

    >>> done = [0] * 5
    >>> def fill(part):
    ...     done[part] = [1] * len(done[part])
    >>> both(fill, 5)
    >>> done
    [1, 1, 1, 1, 1]

    Args:
        work: what does it; it spends its time without the GIL.
        size: how many positions there are.

    Raises:
        Exception: what `work` raised; the other half has ended then too.
    """
    first, rest, errors = slice(size // 2), slice(size // 2, size), []

    def half() -> None:
        try:
            work(rest)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=half, name="mixstream-copy", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads, or the interpreter exits
        half()
    try:
        work(first)
    finally:
        if thread.ident is not None:
            thread.join()
    if errors:
        raise errors[0]
