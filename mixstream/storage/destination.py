"""Where a dataset is written: directories (`directory_destination`), and stores.

What lives here: checking that a destination is empty or clearing it, locking it, and writing one whole file there,
tried again where that may help. What must not: which files there are, and when (`writer.py`). Rules: a file is there
whole or not at all, the index after all that it names, also after a power cut; a destination that holds anything is
refused unchanged, or loses its index before it loses anything else; a directory has one writer at a time; a file that
cannot be written is always an error. `file://` and paths are directories; every other URL is a store.
"""

import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import field
from typing import Any
from uuid import uuid4

from mixstream.argument_kinds import is_path
from mixstream.arguments import shown
from mixstream.errors import ConfigError, OutputExistsError, StoreAccessError, StoreError, StoreNotFoundError
from mixstream.records import dataclass
from mixstream.storage.directory_destination import LOCK, OWN_FILE, DirectoryDestination, not_empty
from mixstream.storage.disk_errors import check_directory
from mixstream.storage.open import open_store
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX
from mixstream.storage.store import Store, read_at_most
from mixstream.storage.url import absolute, is_local, local_path, redact

_MARK = 1 << 16  # bytes of a mark: more is none of ours
_REMOVERS = 8  # removals at a time: each is a short request that mostly waits


@dataclass(frozen=True, slots=True)
class StoreDestination:
    """A directory of an object store.

    Args:
        store: that files are written to.
        retry: how often a request is made before its error is raised.
    """

    store: Store
    retry: Retry
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _marks: list[tuple[int, bytes]] = field(default_factory=list, init=False)  # process and content, while it is marked
    _unreadable: threading.Event = field(default_factory=threading.Event, init=False)  # no right to read the mark

    def check_free(self) -> None:
        """Do nothing: whether the writer of a mark is alive cannot be known."""

    def lock(self) -> None:
        """Write a mark, which other writers find; `write` checks that it is still there."""
        holder = f"process {os.getpid()} on {platform.node()}, since {time.ctime()}, mark {uuid4().hex}".encode()
        self._call("writing", LOCK, lambda: self.store.write(LOCK, holder))
        self._marks.append((os.getpid(), holder))
        self._holder()  # whether it can be read is said here, and not by a thread in mid-run

    def unlock(self) -> None:
        """Remove the mark, if it is this writer's, or if nobody can read whose it is."""
        while self._marks:
            process, mine = self._marks.pop()
            with suppress(StoreError):
                if process != os.getpid():
                    continue
                if self._unreadable.is_set() or bytes(memoryview(read_at_most(self.store, LOCK, _MARK).data)) == mine:
                    self.store.remove(LOCK)

    def check(self) -> None:
        """Raise OutputExistsError if it holds anything; one name is requested, the cheapest listing there is."""
        if found := self._names(limit=1):
            if found[0] == LOCK:
                raise OutputExistsError(
                    f"{self.store.url} is being written by {self._holder() or 'another writer'}; or that was killed, "
                    "and then exist_ok=True replaces what it wrote. To write in parallel, give each writer a directory "
                    "of its own below one, and join them with mixstream.merge_index"
                )
            raise not_empty(f"Remote is not empty: {self.store.url} holds {found[0]!r}", "URL")

    def clear(self) -> None:
        """Remove the dataset that it holds, its index first; other files stay."""
        own = [name for name in self._names() if OWN_FILE.fullmatch(name)]
        if INDEX in own:
            self._remove(INDEX)
        with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="mixstream-remove") as pool:
            for _ in pool.map(self._remove, [name for name in own if name != INDEX]):
                pass

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole; raises the error of the last attempt.

        Raises:
            OutputExistsError: another writer has begun to write there.
        """
        if self._marks and (holder := self._holder()) not in {None, self._marks[-1][1].decode()}:
            raise OutputExistsError(
                f"{self.store.url}: {holder} has begun to write there too, so {name!r} was not written, and "
                "there may be shards of both: write it again with exist_ok=True, one writer at a time (in parallel: a "
                "directory for each writer, and mixstream.merge_index)"
            )
        self._call("writing", name, lambda: self.store.write(name, data))

    def complete(self, data: bytes, *, below: Iterable[str] = ()) -> None:
        """Write the index; what a store has accepted is durable. Arguments are those of `DirectoryDestination`."""
        del below
        self.write(INDEX, data)

    def stop(self) -> None:
        """Retry nothing from now on: a write in progress ends with its present attempt."""
        self._stopped.set()

    def _holder(self) -> str | None:
        """What the mark says; another writer's words if it is gone; None, with a warning, if it may not be read."""
        if self._unreadable.is_set():
            return None
        try:
            data = self._call("reading", LOCK, lambda: read_at_most(self.store, LOCK, _MARK)).data
        except StoreNotFoundError:
            return "another writer"
        except StoreAccessError as error:
            self._unreadable.set()
            warnings.warn(
                f"{self.store.url}: the store does not let this writer read {LOCK} ({error}), so nothing stops a "
                "second writer: start one, or allow reading (s3:GetObject)",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return bytes(memoryview(data)[:200]).decode(errors="replace")

    def _names(self, *, limit: int | None = None) -> list[str]:
        return self._call("listing", "", lambda: self.store.names(limit=limit))

    def _remove(self, name: str) -> None:
        self._call("removing", name, lambda: self.store.remove(name))

    def _call(self, what: str, name: str, act: Callable[[], Any]) -> Any:
        return self.retry.call(
            f"{what} {self.store.url.rstrip('/')}/{name}", act, renew=self.store.renew, stop=self._stopped
        )


Destination = DirectoryDestination | StoreDestination


def find_destinations(
    out: Any, *, keep_local: bool, retry: int
) -> tuple[str | None, str | None, tuple[Destination, ...]]:
    """Return `local`, `remote` and the destinations that `out` of a writer names; no request is made, no file touched.

    Args:
        out: directory or URL, or a tuple (directory, directory or URL).
        keep_local: with a tuple: write to both places, not to the second alone.
        retry: how often a file is tried again.

    Raises:
        ConfigError: it is neither, or a URL that cannot be written to.
    """
    if isinstance(out, str) or is_path(out):
        place, found = _find(out, retry)
        return (place, None, (found,)) if isinstance(found, DirectoryDestination) else (None, place, (found,))
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ConfigError(
            f"out is {redact(shown(out))}; give a directory, a URL, or a tuple (local, remote) of directory and URL"
        )
    if isinstance(out[0], str) and not is_local(out[0]):
        raise ConfigError(f"out is {redact(shown(out))}; the first of (local, remote) has to be a directory")
    (local, first), (remote, second) = (_find(place, retry) for place in out)
    return local, remote, (first, second) if keep_local else (second,)


def prepare_destinations(destinations: Iterable[Destination], *, exist_ok: bool) -> None:
    """Check that all destinations are empty, or clear them; nothing is touched if one of them is refused.

    Directories are locked until `unlock`, so that no second writer comes in.

    Raises:
        OutputExistsError: one of them holds something, and not `exist_ok`; or another writer is at work there.
        StoreError: a store cannot be listed.
    """
    destinations = tuple(destinations)
    for destination in destinations:
        destination.check_free()
        if not exist_ok:
            destination.check()
    try:
        for destination in destinations:
            destination.lock()
        for destination in destinations:
            if isinstance(destination, DirectoryDestination) and not exist_ok:
                destination.check()  # another writer may have come to its end in between
            if exist_ok or isinstance(destination, DirectoryDestination):
                destination.clear()
    except BaseException:
        for destination in destinations:
            destination.unlock()
        raise


def _find(place: Any, retry: int) -> tuple[str, Destination]:
    if not (isinstance(place, str) or is_path(place)) or not (text := os.fspath(place)).strip():
        raise ConfigError(
            f"out is {redact(shown(place))}; give a directory, a URL such as s3://bucket/prefix, or both as a tuple"
        )
    if is_local(text):
        directory = check_directory(local_path(absolute(text, "out")), "out")
        return str(directory), DirectoryDestination(directory, retry + 1)
    check_writable(absolute(text, "out"))
    return text, StoreDestination(open_store(text), Retry(attempts=retry + 1, knobs=("retry", "")))


def check_writable(url: str) -> None:
    """Raise ConfigError if `url` is of a kind that can only be read."""
    if url.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"{redact(url)!r} cannot be written to: plain http has no way to list or to write files; give the store "
            "behind it (s3://, gs://, az://; S3_ENDPOINT_URL is for a server of your own), or a directory"
        )
