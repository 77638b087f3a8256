"""Files that outlive a kill and a power cut, and locks that do not: what the records of a conversion rest on."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from mixstream.storage import holder_of, write_whole

_log = logging.getLogger("mixstream")
_TELL_AFTER_S = 5.0  # of waiting for a lock, after which the log says for whom; then at intervals that grow
_ASIDE = ".tmp"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # some network file systems have no locks


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with replaced_durably(path) as file:
        file.write(content)


def replaced_durably(path: Path) -> AbstractContextManager[BinaryIO]:
    """Open a file for writing that takes its name when the block ends without an error."""
    return write_whole(path, suffix=_ASIDE)


def aside_of(path: Path) -> Path:
    """Return the name under which a file is written; a kill may leave it."""
    return path.with_name(f"{path.name}{_ASIDE}")


def describe_process() -> str:
    """Return who holds a lock, for the messages of others."""
    return f"process {os.getpid()} on {platform.node()}, since {time.ctime()}"


@contextmanager
def hold(path: Path, kind: int, *, wait_s: float, else_raise: Exception) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when the process ends, even by SIGKILL."""
    began = time.monotonic()
    until, tell_at = began + wait_s, began + _TELL_AFTER_S
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
                if (now := time.monotonic()) >= until:
                    raise else_raise from None
                if now >= tell_at:
                    tell_at = now + 2 * (now - began)
                    holder = holder_of(os.fstat(file.fileno())) or "another process"
                    _log.warning("waiting for %s, held by %s: %.0f s so far", path, holder, now - began)
                time.sleep(0.05)
        yield
