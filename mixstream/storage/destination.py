"""Where a dataset is written: directories, and stores.

What lives here: checking that a destination is empty or clearing it, and writing one whole file there, tried again
where that may help. What must not: which files there are, and when (`writer.py`). Rules: a file is there whole or not
at all; a destination that holds anything is refused unchanged, or loses its index before it loses anything else; a
file that cannot be written is always an error. `file://` and paths are directories; every other URL is a store.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.storage.open import open_store
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX
from mixstream.storage.store import Store
from mixstream.storage.url import is_local, local_path, redact

_OWN_FILE = re.compile(r"index\.json(\.tmp)?|\.mixstream-origin|shard\.\d{5,}\.mds(\.\w+)*", re.ASCII)
_REMOVERS = 8  # removals at a time: each is a short request that mostly waits


@dataclass(frozen=True, slots=True)
class DirectoryDestination:
    """A directory of local disk, created if it does not exist.

    Args:
        directory: that files are written to.
        attempts: how often a write is tried before its OSError is raised.
    """

    directory: Path
    attempts: int
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    def check(self) -> None:
        """Raise OutputExistsError if the directory holds anything."""
        if self.directory.exists() and (found := sorted(path.name for path in self.directory.iterdir())):
            raise _not_empty(f"Directory is not empty: {self.directory} holds {found[0]!r}", "directory")

    def clear(self) -> None:
        """Remove the dataset that it holds, its index first; other files stay."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # "index.json" sorts before "shard.…": a half-cleared dataset has no index.
        for name in sorted(path.name for path in self.directory.iterdir()):
            if _OWN_FILE.fullmatch(name):
                (self.directory / name).unlink()

    def write(self, name: str, data: bytes) -> None:
        """Write a file aside, then rename it to its name; raises the error of the last attempt."""
        path = self.directory / name
        for attempt in range(1, self.attempts + 1):
            try:
                aside = path.with_name(f"{name}.tmp")
                aside.write_bytes(data)
                aside.replace(path)
                return
            except OSError as error:
                error.add_note(f"attempt {attempt} of {self.attempts} to write {path}")
                if attempt == self.attempts or self._stopped.is_set():
                    raise
                time.sleep(0.1 * 2**attempt)

    def stop(self) -> None:
        """Retry nothing from now on: a write in progress ends with its present attempt."""
        self._stopped.set()


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

    def check(self) -> None:
        """Raise OutputExistsError if it holds anything; one name is requested, the cheapest listing there is."""
        if found := self._names(limit=1):
            raise _not_empty(f"Remote is not empty: {self.store.url} holds {found[0]!r}", "URL")

    def clear(self) -> None:
        """Remove the dataset that it holds, its index first; other files stay."""
        own = [name for name in self._names() if _OWN_FILE.fullmatch(name)]
        if INDEX in own:
            self._remove(INDEX)
        with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="mixstream-remove") as pool:
            for _ in pool.map(self._remove, [name for name in own if name != INDEX]):
                pass

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole; raises the error of the last attempt."""
        self._call("writing", name, lambda: self.store.write(name, data))

    def stop(self) -> None:
        """Retry nothing from now on: a write in progress ends with its present attempt."""
        self._stopped.set()

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
    if isinstance(out, str | os.PathLike):
        place, found = _find(out, retry)
        return (place, None, (found,)) if isinstance(found, DirectoryDestination) else (None, place, (found,))
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise ConfigError(
            f"out is {redact(repr(out))}; give a directory, a URL, or a tuple (local, remote) of directory and URL"
        )
    if isinstance(out[0], str) and not is_local(out[0]):
        raise ConfigError(f"out is {redact(repr(out))}; the first of (local, remote) has to be a directory")
    (local, first), (remote, second) = (_find(place, retry) for place in out)
    return local, remote, (first, second) if keep_local else (second,)


def prepare_destinations(destinations: Iterable[Destination], *, exist_ok: bool) -> None:
    """Check that all destinations are empty, or clear them; nothing is touched if one of them is refused.

    Raises:
        OutputExistsError: one of them holds something, and not `exist_ok`.
        StoreError: a store cannot be listed.
    """
    destinations = tuple(destinations)
    if not exist_ok:
        for destination in destinations:
            destination.check()
    for destination in destinations:
        if exist_ok or isinstance(destination, DirectoryDestination):
            destination.clear()


def _find(place: object, retry: int) -> tuple[str, Destination]:
    if not isinstance(place, str | os.PathLike) or not (text := os.fspath(place)) or isinstance(text, bytes):
        raise ConfigError(f"out is {place!r}; give a directory, a URL such as s3://bucket/prefix, or both as a tuple")
    if is_local(text):
        directory = local_path(text).expanduser() if "://" not in text else local_path(text)
        return str(directory), DirectoryDestination(directory, retry + 1)
    check_writable(text)
    return text, StoreDestination(open_store(text), Retry(attempts=retry + 1, knobs=("retry", "")))


def check_writable(url: str) -> None:
    """Raise ConfigError if `url` is of a kind that can only be read."""
    if url.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"{redact(url)!r} cannot be written to: plain http has no way to list or to write files; give the store "
            "behind it (s3://, gs://, az://; S3_ENDPOINT_URL is for a server of your own), or a directory"
        )


def _not_empty(fact: str, kind: str) -> OutputExistsError:
    return OutputExistsError(f"{fact}; give another {kind}, or exist_ok=True to replace the dataset in it")
