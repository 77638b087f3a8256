"""What other processes need soon: each tells it in a file, so that nobody evicts what a neighbour is about to read.

Rules: a file of needs holds while its writer lives, since he holds its lock; those of the dead are removed when met. It
is replaced whole, never changed. What it says is advice: what cannot be read is taken as no need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import msgspec

from mixstream.storage.cache.locks import FORBIDDEN, FULL, PREFIX, parent_of, release, remove_if_dead, try_lock

_PLACE = f"{PREFIX}needs"
_decode = msgspec.json.Decoder(dict[str, float]).decode


class Announcement:
    """This process's needs, in a directory that the others look into."""

    def __init__(self) -> None:
        self._lock, self._pid, self._name = -1, 0, ""
        self._directory: Path | None = None
        self._data = b""

    @property
    def name(self) -> str:
        """Its file, below the directory; empty if nothing was announced. A forked child has announced nothing yet."""
        return self._name if self._directory is not None and self._pid == os.getpid() else ""

    def put(self, directory: Path, needs: Mapping[str, float]) -> None:
        """Say which raw files are needed, path -> steps from now; replaces what was said before."""
        data = msgspec.json.encode(needs)
        if self.name and directory == self._directory and data == self._data:
            return
        name = f"{_PLACE}/{os.getpid()}.{uuid4().hex[:8]}"
        try:
            lock = _write(directory, name, data)
        except OSError as error:
            if error.errno not in (*FORBIDDEN, *FULL):
                raise
            return  # it is advice
        self.withdraw()
        if lock is not None:
            self._lock, self._name, self._directory, self._data, self._pid = lock, name, directory, data, os.getpid()

    def withdraw(self) -> None:
        """Take it back."""
        if not self.name or self._directory is None:
            return
        try:
            with parent_of(self._directory, self.name) as (parent, leaf):
                os.unlink(leaf, dir_fd=parent)
        except FileNotFoundError:
            pass
        finally:
            release(self._lock)
            self._directory = None


def announced(directory: Path, *, besides: str) -> dict[str, float]:
    """Return what is announced in a directory: path -> the fewest steps; remove what dead processes said.

    Args:
        directory: where announcements stand.
        besides: name of the one that does not count.
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
    """Write a file and keep it locked; None if a reader was quicker, and took it for a dead one's."""
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
