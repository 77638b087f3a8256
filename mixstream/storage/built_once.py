"""Files that one process of a machine builds below the temporary directory, and all of its processes read.

Rules. A key made of everything that decides the content names the place. What is there is whole or not there, so a
killed process leaves nothing that is trusted. The directory is private to the user: nothing is read of it, or written,
before that was checked.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from mixstream.errors import CacheFullError, MixstreamError, StoreAccessError
from mixstream.storage.cache.locks import holder, parent_of, release, try_lock
from mixstream.storage.cache.owner import CacheOwner, private_directory
from mixstream.storage.cache.waits import StallTimeout
from mixstream.storage.disk_errors import FORBIDDEN, FULL
from mixstream.storage.whole_files import PARTIAL

T = TypeVar("T")

_TIMEOUT = 1800.0  # seconds that a process waits for another that builds the same


def build_once(
    key: str,
    name: str,
    *,
    find: Callable[[Path], T | None],
    build: Callable[[Path], object],
    what: str,
    need: str,
    remedy: str = "",
) -> T:
    """Return what `find` finds at the place of `key`; if there is nothing, `build` makes it first.

    Args:
        key: what decides the content; processes with equal keys share it.
        name: of the file or directory, in a directory of its own.
        find: path -> what is there; None if it is not there, or not whole.
        build: makes it at a path, whole or not at all (`write_whole`); other processes wait for it.
        what: names it in errors ("the buckets of stream 'web'").
        need: what it is needed for ("split stream 'web'").
        remedy: how to do without the temporary directory, if there is a way (", or write them with ...").

    Raises:
        CacheFullError, StoreAccessError: the temporary directory has no room, or may not be written.
        ConfigError: another user or program has put something in its place.
        WaitTimeoutError: a process that builds it hangs.
    """
    path = private_directory(key) / name
    refused = partial(_refused, path, what, need, remedy)
    try:
        CacheOwner(directory=path, origin=None, digest="", private=need).make_private()
    except StoreAccessError as error:
        raise refused(error) from error
    try:
        if (found := find(path)) is not None:
            return found
        with parent_of(path.parent, "lock", create=True) as (parent, leaf):
            stall = StallTimeout(
                _TIMEOUT,
                f"{what} at {path}",
                ": another process writes them and hangs; end it",
                holder=lambda: holder(parent, leaf),
            )
            while (lock := try_lock(parent, leaf)) is None:
                stall.pause(None)
            try:
                if (found := find(path)) is None:  # by now another process may have built it
                    shutil.rmtree(path.with_name(f"{path.name}{PARTIAL}"), ignore_errors=True)  # of earlier versions
                    build(path)
                    found = find(path)
            finally:
                release(lock)
    except OSError as error:
        if isinstance(error, MixstreamError) or error.errno not in (*FORBIDDEN, *FULL):
            raise  # one of ours names another place: what is built may be read from a store
        raise refused(error) from error
    assert found is not None, "it was built"
    return found


def _refused(path: Path, what: str, need: str, remedy: str, error: OSError) -> MixstreamError:
    """Return the error for a temporary directory that is full, or may not be written."""
    kind = CacheFullError if error.errno in FULL else StoreAccessError
    made = kind(
        f"{path}: {what} cannot be written there ({os.strerror(error.errno or 0)}), which is needed to {need}: set "
        f"TMPDIR to a directory with room that this user may write{remedy}"
    )
    made.errno = error.errno
    return made
