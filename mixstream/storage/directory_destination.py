"""A directory that a dataset is written to. Rules: those of `destination`."""

import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from mixstream.errors import ConfigError, OutputExistsError
from mixstream.records import dataclass
from mixstream.storage.cache.holders import holder_of
from mixstream.storage.cache.locks import parent_of, release, try_lock
from mixstream.storage.disk_errors import named_disk_errors
from mixstream.storage.spec import INDEX, SHARD_FILE
from mixstream.storage.unfinished import refuse_conversion
from mixstream.storage.whole_files import move_whole, sync

LOCK = ".mixstream-writer.lock"
OWN_FILE = re.compile(rf"index\.json(\.tmp)?|\.mixstream-origin|{SHARD_FILE.pattern}", re.ASCII)
"""Names of the files of a dataset, and of what a writer that was killed leaves."""


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
    _locks: list[tuple[int, int]] = field(default_factory=list, init=False)  # process and descriptor, while locked
    _made: list[Path] = field(default_factory=list, init=False)  # directories that `lock` created

    def check(self) -> None:
        """Raise OutputExistsError if the directory holds anything but the lock of a writer that was killed."""
        with named_disk_errors(self.directory, "list"):
            found = sorted({path.name for path in self.directory.iterdir()} - {LOCK}) if self.directory.exists() else []
        if found:
            raise not_empty(f"Directory is not empty: {self.directory} holds {found[0]!r}", "directory")

    def check_free(self) -> None:
        """Raise OutputExistsError if another writer is at work there, or `mixstream convert` has made the directory."""
        if (self.directory / LOCK).exists():
            with parent_of(self.directory, LOCK) as (parent, leaf):
                if (lock := self._try_lock(parent, leaf)) is None:
                    raise self._busy()
                release(lock)
        refuse_conversion(str(self.directory.absolute()))

    def lock(self) -> None:
        """Create the directory, and lock it until `unlock`; a killed process leaves no lock behind.

        Raises:
            OutputExistsError: another writer, of any process or thread, has locked it.
        """
        self._made.extend(path for path in (self.directory, *self.directory.parents) if not path.exists())
        with (
            named_disk_errors(self.directory / LOCK, "write"),
            parent_of(self.directory, LOCK, create=True) as (parent, leaf),
        ):
            if (number := self._try_lock(parent, leaf)) is None:
                raise self._busy()
            os.ftruncate(number, 0)
            os.pwrite(number, f"process {os.getpid()} on {platform.node()}, since {time.ctime()}".encode(), 0)
            self._locks.append((os.getpid(), number))

    def unlock(self) -> None:
        """Release the lock, if there is one, and remove its file. Not in a forked child: the lock is its parent's."""
        while self._locks:
            process, number = self._locks.pop()
            if process == os.getpid():
                with suppress(OSError):
                    (self.directory / LOCK).unlink()
                release(number)

    def _try_lock(self, parent: int, leaf: str) -> int | None:
        try:
            return try_lock(parent, leaf)
        except ConfigError as error:  # no `flock`
            warnings.warn(
                f"{self.directory} cannot be locked ({error.__cause__}), so nothing stops a second writer: start one",
                RuntimeWarning,
                stacklevel=2,
            )
            return os.open(os.devnull, os.O_RDWR)

    def _busy(self) -> OutputExistsError:
        try:
            holder = (self.directory / LOCK).read_text(errors="replace")[:200] or "another process"
            if "stopped" in (state := holder_of((self.directory / LOCK).lstat())):
                holder += f", {state}"
        except OSError:
            holder = "another process"
        return OutputExistsError(
            f"{self.directory} is being written by {holder}; two writers would replace each other's shards: give each "
            "a directory of its own below one, and join them with mixstream.merge_index"
        )

    def clear(self) -> None:
        """Remove the dataset that it holds, its index first; other files stay."""
        with named_disk_errors(self.directory, "create"):
            self.directory.mkdir(parents=True, exist_ok=True)
        # A half-cleared dataset has no index, after a power cut neither: it would name shards of another dataset.
        for own in (re.compile(re.escape(INDEX)), OWN_FILE):
            if found := [path for path in self.directory.iterdir() if own.fullmatch(path.name)]:
                for path in found:
                    with named_disk_errors(path, "remove"):
                        path.unlink()
                sync(self.directory)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whose bytes reach the disk before it gets its name; raises the error of the last attempt."""
        path = self.directory / name
        for attempt in range(1, self.attempts + 1):
            try:
                aside = path.with_name(f"{name}.tmp")
                aside.write_bytes(data)
                move_whole(aside, path, names=False)
                return
            except OSError as error:
                if attempt == self.attempts or self._stopped.is_set():
                    with named_disk_errors(path, "write"):
                        error.add_note(f"attempt {attempt} of {self.attempts} to write {path}")
                        raise
                time.sleep(0.1 * 2**attempt)

    def complete(self, data: bytes, *, below: Iterable[str] = ()) -> None:
        """Write the index, once all that it names is on the disk; it is there too when this returns.

        Args:
            data: the index.
            below: shards that another destination wrote, by their names; those that are not here are left out.
        """
        shards = set(map(Path, below))
        for path in sorted(shards | {above for shard in shards for above in shard.parents}):
            with suppress(FileNotFoundError):
                sync(self.directory / path)
        sync(self.directory)
        self.write(INDEX, data)
        for path in (self.directory, *(made.parent for made in self._made)):
            sync(path)

    def stop(self) -> None:
        """Retry nothing from now on: a write in progress ends with its present attempt."""
        self._stopped.set()


def not_empty(fact: str, kind: str) -> OutputExistsError:
    """Return the error for a destination that holds something."""
    return OutputExistsError(f"{fact}; give another {kind}, or exist_ok=True to replace the dataset in it")
