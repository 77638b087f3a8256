"""What other processes need soon: each announces it in a file, so that no process evicts what another is about to read.

Rules: an announcement holds while the process that wrote it lives, since that process locks the file; those of dead
processes are removed when they are read. It is replaced whole, never changed. It is advice: an announcement that cannot
be read counts as none.
"""

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import msgspec

from mixstream.records import dataclass
from mixstream.storage.cache.locks import parent_of, release, remove_if_dead, try_lock
from mixstream.storage.disk_errors import FORBIDDEN, FULL
from mixstream.storage.forks import ProcessLocal
from mixstream.storage.spec import PREFIX

_PLACE = f"{PREFIX}needs"
_decode = msgspec.json.Decoder(dict[str, float]).decode


@dataclass(frozen=True, slots=True)
class _Announced:
    """The content of the file `name` below `directory`, which this process has locked."""

    directory: Path
    name: str
    data: bytes
    lock: int


class Announcement:
    """What this process needs soon, in a directory that the other processes read. Safe to use from any thread."""

    def __init__(self) -> None:
        self._now: ProcessLocal[_Announced | None] = ProcessLocal(lambda: None)
        # Re-entrant: the garbage collector may call `withdraw` at any point of `put`.
        self._lock = ProcessLocal(threading.RLock)

    @property
    def name(self) -> str:
        """Its file, below the directory; empty if this process announces nothing."""
        now = self._now.value
        return now.name if now is not None else ""

    def put(self, directory: Path, needs: Mapping[str, float]) -> None:
        """Announce which raw files are needed, path -> steps from now; replaces what was announced before."""
        data = msgspec.json.encode(needs)
        with self._lock.value:
            before = self._now.value
            if before is not None and (directory, data) == (before.directory, before.data):
                return
            name = f"{_PLACE}/{os.getpid()}.{uuid4().hex[:8]}"
            try:
                lock = _write(directory, name, data)
            except OSError as error:
                if error.errno not in (*FORBIDDEN, *FULL):
                    raise
                return  # announcements are optional
            before = self._now.value
            self._now.value = _Announced(directory, name, data, lock) if lock is not None else None
            _remove(before)

    def withdraw(self) -> None:
        """Remove the announcement."""
        with self._lock.value:
            before, self._now.value = self._now.value, None
            _remove(before)


def _remove(before: _Announced | None) -> None:
    if before is not None:
        try:
            with suppress(FileNotFoundError), parent_of(before.directory, before.name) as (parent, leaf):
                os.unlink(leaf, dir_fd=parent)
        finally:
            release(before.lock)


def announced(directory: Path, *, besides: str) -> dict[str, float]:
    """Return what is announced in a directory: path -> the fewest steps; remove announcements of dead processes.

    Args:
        directory: that announcements are written to.
        besides: name of the announcement that does not count.
    """
    soonest: dict[str, float] = {}
    with ExitStack() as stack:
        try:
            parent, _ = stack.enter_context(parent_of(directory, f"{_PLACE}/."))
        except FileNotFoundError:
            return soonest
        for entry in stack.enter_context(os.scandir(parent)):
            if f"{_PLACE}/{entry.name}" != besides and not remove_if_dead(parent, entry.name):
                for path, steps in _read(parent, entry.name).items():
                    soonest[path] = min(steps, soonest.get(path, steps))
    return soonest


def _write(directory: Path, name: str, data: bytes) -> int | None:
    """Write a file and keep it locked; None if a reader was quicker, and took it for that of a dead process."""
    with parent_of(directory, name, create=True) as (parent, leaf):
        lock = try_lock(parent, leaf)
        if lock is None:
            return None
        try:
            os.write(lock, data)
        except OSError:
            os.unlink(leaf, dir_fd=parent)
            release(lock)
            raise
        return lock


def _read(parent: int, name: str) -> dict[str, float]:
    try:
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(number, "rb") as file:
            return _decode(file.read())
    except (OSError, ValueError, msgspec.MsgspecError):
        return {}
