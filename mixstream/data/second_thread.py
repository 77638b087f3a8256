"""A second thread that copies rows, while the trainer waits for them and a core has nothing to do.

It lasts as long as one copy: starting it costs as little as waking one that waits, and none is left to be ended.
"""

import os
import threading
from collections.abc import Callable


def has_second_core() -> bool:
    """Return whether this process may run on more than one core."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1


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
