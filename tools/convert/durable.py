"""Files that outlive a kill, and locks that do not: what the records of a conversion rest on."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # some network file systems have no locks


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically: under another name, synced, then renamed."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(content)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Write a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def hold(path: Path, kind: int, *, wait_s: float, else_raise: Exception) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when the process ends, even by SIGKILL."""
    until = time.monotonic() + wait_s
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                if time.monotonic() >= until:
                    raise else_raise from None
                time.sleep(0.05)
        yield
