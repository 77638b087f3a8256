"""Workers of a DataLoader end when the process that started them was killed.

torch's workers look whether their parent lives, but only between two tasks, and those of a fork server look at the
server, which lives as long as they do. And one that has found out waits at its exit until its batches are in a pipe
that nobody reads, as long as another worker has that pipe too. Such processes hold memory, shards and locks for ever.
"""

import multiprocessing
import os
import threading
import time
from typing import Any

from torch.utils.data import get_worker_info

_LOOK_EVERY = 2.0  # seconds
_TO_END = 10.0  # seconds in which torch's own loop ends a worker properly, if it can

_watched: list[int] = []  # the process that is watched over


def end_with_parent() -> None:
    """Let this process end some seconds after its parent, if it is a worker; does nothing the second time."""
    parent: Any = multiprocessing.parent_process()
    if get_worker_info() is None or parent is None or os.getpid() in _watched:
        return
    _watched[:] = [os.getpid()]
    threading.Thread(target=_watch, args=(parent, os.getppid()), name="mixstream-parent", daemon=True).start()


def _watch(parent: Any, above: int) -> None:
    # Siblings that were forked may hold the pipe by which `is_alive` knows; above a fork server's child is the server.
    while os.getppid() == parent.pid if above == parent.pid else parent.is_alive():
        time.sleep(_LOOK_EVERY)
    time.sleep(_TO_END)
    os._exit(1)  # as SIGKILL: whatever the process has begun, others know how to deal with it
