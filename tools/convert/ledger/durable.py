"""Files that outlive a kill and a power cut, and locks that do not: what the records of a conversion rest on."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from mixstream.storage import holder_of, named_full_disk, write_whole

_log = logging.getLogger("mixstream")
_TELL_AFTER_S = 5.0  # of waiting for a lock, after which the log says for whom; then at intervals that grow
_ASIDE = ".tmp"
HASH = "xxh3_64"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # some network file systems have no locks


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with replaced_durably(path) as file:
        file.write(content)


@contextmanager
def replaced_durably(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name when the block ends without an error."""
    with named_full_disk(path), write_whole(path, suffix=_ASIDE) as file:
        yield file


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where they are not there."""
    with named_full_disk(path):
        path.mkdir(parents=True, exist_ok=True)


def aside_of(path: Path) -> Path:
    """Return the name under which a file is written; a kill may leave it."""
    return path.with_name(f"{path.name}{_ASIDE}")


def hash_of(path: Path) -> str:
    """Return the hash of a file's bytes, which are read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()  # pyright: ignore[reportArgumentType]


def note_holder(path: Path, *, what: str = "") -> None:
    """Write into a lock who holds it, for the messages of others; `what` says for what."""
    with named_full_disk(path):
        path.write_text(f"{what}process {os.getpid()} on {platform.node()}, since {time.ctime()}")


@contextmanager
def hold(path: Path, kind: int, *, wait_s: float, else_raise: Exception) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when the process ends, even by SIGKILL."""
    began = time.monotonic()
    until, tell_at = began + wait_s, began + _TELL_AFTER_S
    with named_full_disk(path):
        file = path.open("a+b")  # NFS gives a shared lock only on what may be read
    with file:
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
