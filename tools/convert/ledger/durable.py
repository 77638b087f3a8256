"""Files that outlive a kill, and locks that do not: what the records of a conversion rest on."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # some network file systems have no locks


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically: under another name, synced, then renamed."""
    with replaced_durably(path) as file:
        file.write(content)


@contextmanager
def replaced_durably(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name when the block ends without an error."""
    aside = aside_of(path)
    with aside.open("wb") as file:
        yield file
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def aside_of(path: Path) -> Path:
    """Return the name under which a file is written; a kill may leave it."""
    return path.with_name(f"{path.name}.tmp")


def sync(path: Path) -> None:
    """Write a file, or the names in a directory, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def describe_process() -> str:
    """Return who holds a lock, for the messages of others."""
    return f"process {os.getpid()} on {platform.node()}, since {time.ctime()}"


@contextmanager
def hold(path: Path, kind: int, *, wait_s: float, else_raise: Exception) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when the process ends, even by SIGKILL."""
    until = time.monotonic() + wait_s
    with path.open("a+b") as file:  # NFS gives a shared lock only on what may be read
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
