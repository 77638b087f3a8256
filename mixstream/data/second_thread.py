"""A second thread of this process that copies rows, while the trainer waits for them and a core has nothing to do."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from mixstream.storage import ProcessLocal


def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="mixstream-copy")


_second = ProcessLocal(_executor)


def has_second_core() -> bool:
    """Return whether this process may run on more than one core."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1


def both(work: Callable[[slice], None], size: int) -> None:
    """Do the work of the positions [0, size): one half here, the other in the second thread. Return when both are done.

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
    rest, other = slice(size // 2, size), Future[None]()

    def half() -> None:
        if other.set_running_or_notify_cancel():
            try:
                other.set_result(work(rest))
            except BaseException as error:  # raised below
                other.set_exception(error)

    try:
        _second.value.submit(half)
    except RuntimeError:  # no thread can be started now; what was queued must do nothing when one is started later
        if other.cancel():
            work(rest)
    try:
        work(slice(size // 2))
    finally:
        if not other.cancelled():
            other.result()
