"""`cache_limit`: room for a shard, taken from the shards that are needed furthest in the future.

Rules: every writer to a cache directory asks here first. Room is made before it is taken, both under one lock, and
taken by giving the partials their full size; so the files of all members together never exceed the limit, however many
processes fill them. Indexes, which come without asking, have their room from the start. Nothing is evicted that is
needed sooner than the shard that takes its place, by this process or by another that announced it. The exception is a
shard that a reader waits for when no partial is left that could free room: then shards needed at once are evicted too
(a thread that has one open or mapped keeps it). So every waiting reader makes progress, even where the limit is hardly
one shard. Without a limit, the same makes room on a full disk.

Members are directories that can be filled again. The lock and the announcements lie in the first of them: processes
whose first member is the same share one limit and see each other's announcements; others keep a limit each.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream.errors import CacheFullError, ConfigError, WaitTimeoutError
from mixstream.lazy import later
from mixstream.metering import here
from mixstream.storage.cache.announcements import Announcement, announced
from mixstream.storage.cache.fill import CacheFill
from mixstream.storage.cache.locks import holder, parent_of, release, try_lock
from mixstream.storage.cache.waits import StallTimeout
from mixstream.storage.disk_errors import is_full, out_of_inodes, shortage
from mixstream.storage.spec import PREFIX, shard_of

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import CacheContents, CachedShard, Scan
    from mixstream.storage.cache.holders import holder_of
else:
    CacheContents, CachedShard, Scan = later("mixstream.storage.cache.contents", "CacheContents", "CachedShard", "Scan")
    (holder_of,) = later("mixstream.storage.cache.holders", "holder_of")


_GUARD = f"{PREFIX}lock"
_SHORT = 0.25  # seconds that a fetch ahead of time waits for its turn
_LONG = 60.0  # seconds that a caller who evicts a shard waits for its turn, while nothing moves


class CacheLimit:
    """How much the cache directories of one dataset may hold together.

    Picklable; a copy has the same members and limit. Safe to use from any thread, and in a forked child.

    With a limit of 80,017 bytes, two shards of 40,000 and an index of 17 fit; a third shard evicts one.

    Args:
        limit: bytes (`cache_limit`) of shards, compressed ones, `index.json`, and partials; None for no limit.

    Attributes:
        next_use: returns in how many steps the plan needs each of these raw files (`DatasetFiles.path`); inf for never.
            Called with the lock of the cache held, on any thread. None: the shard opened longest ago is evicted first.
        unmap: called with the raw file of a shard before it is evicted, by the thread that evicts: unmaps the shard if
            that thread reads it, since a mapped file takes room even after it was evicted.
    """

    def __init__(self, *, limit: int | None = None) -> None:
        if limit is not None and limit <= 0:
            raise ConfigError(f"`cache_limit` must be above 0 bytes, got {limit}; pass None for no limit")
        self.limit = limit
        self.next_use: Callable[[Sequence[Path]], Sequence[float]] | None = None
        self.unmap: Callable[[Path], None] = lambda path: None
        self._members: dict[Path, CacheContents] = {}
        self._announcement = Announcement()
        self._warned = False

    def __reduce__(self) -> tuple[object, ...]:
        members = {at: (member.names, member.fixed, member.index) for at, member in self._members.items()}
        return _copied, (self.limit, members)

    def add(
        self, directory: Path, names: Mapping[str, str | None], fixed: Iterable[str] = (), *, index: int = 0
    ) -> None:
        """Add a directory that can be filled again.

        Args:
            directory: of the cache.
            names: of its shards: raw file -> compressed file, or None.
            fixed: other files of it that count, and are never evicted.
            index: bytes of `index.json`, which are left free until it is there.
        """
        if (before := self._members.get(directory)) is not None:
            names, fixed, index = {**before.names, **names}, before.fixed.union(fixed), max(index, before.index)
        self._members[directory] = CacheContents(directory, names, fixed, index=index)

    def add_fixed(self, directory: Path, name: str) -> None:
        """Count a file of a member, from now on, that is never evicted."""
        if (before := self._members.get(directory)) is not None and name not in before.fixed:
            self.add(directory, {}, (name,))

    def __contains__(self, directory: Path) -> bool:
        return directory in self._members

    def usage(self) -> int:
        """Return the bytes that the members hold now.

        With a limit, nothing is evicted and no room is taken meanwhile, if the lock can be had: otherwise a shard that
        is evicted and the one that takes its place might both be counted.
        """
        with ExitStack() as held:
            if self.limit is not None and self._members and self._first.is_dir():
                with suppress(OSError):  # of a cache that may only be read
                    held.enter_context(self._lock("measure the cache", timeout=_SHORT, wait=False))
            return sum(member.scan().bytes for member in self._members.values())

    def announce(self, paths: Sequence[Path], steps: Sequence[float]) -> None:
        """Announce in how many steps this process needs each raw file; replaces what was announced before.

        To be called by one thread. Without a limit nothing is written, since no process would read it.
        """
        if self.limit is not None and self._members:
            self._announcement.put(self._first, dict(zip(map(str, paths), map(float, steps))))

    def close(self) -> None:
        """Withdraw the announcement. Other processes also ignore it once this process has exited."""
        self._announcement.withdraw()

    def make_room(self, fill: CacheFill) -> bool:
        """Make room for a shard and take it; return False if `fill.wait` is not set and there is no room now.

        Raises:
            CacheFullError: the limit, or the disk, is too small for the shard, whatever is evicted.
            WaitTimeoutError: neither the lock nor what others write made progress.
        """
        limited = self.limit is not None and fill.directory in self
        if not limited and not fill.scarce and fill.reserve():
            return True
        if not self._members:
            raise disk_full(fill)
        with self._locked(fill) as lock:
            return lock is not None and self._evict_and_reserve(fill, lock, limited=limited)

    def make_inode(self, fill: CacheFill) -> bool:
        """Evict a shard, so that a file can be created on a disk without inodes; arguments and errors as `make_room`.

        Raises:
            CacheFullError: nothing may be evicted there.
        """
        if not self._members:
            raise disk_full(fill)
        limited = self.limit is not None and fill.directory in self
        wanted = replace(fill, scarce=True, partials=[])
        try:
            with self._locked(wanted) as lock:
                return lock is not None and self._evict_and_reserve(wanted, lock, limited=limited)
        except OSError as error:
            if not is_full(error):
                raise
        # The lock cannot be created either, so no process holds it; and evicting takes no room.
        return self._evict_and_reserve(wanted, None, limited=limited)

    @property
    def _first(self) -> Path:
        """The first member that may be written or created: the lock lies in it."""
        members = sorted(self._members)
        return next((at for at in members if os.access(at, os.W_OK) or not at.exists()), members[0])

    def evict(self, path: Path | None = None) -> Path | None:
        """Remove the files of a shard, also while it is read: who has it open or mapped reads on.

        Args:
            path: its raw file, below a member. None: the shard opened longest ago that no process announced for its
                next step.

        Returns:
            The raw file of the shard that was removed; None if no file of it, or no such shard, is there.
        """
        if not self._members:
            return None
        with self._lock(f"evict {path or 'a shard'}", timeout=_LONG, wait=True):
            shards = [shard for member in self._members.values() for shard in member.scan().shards]
            if path is not None:
                found = [shard for shard in shards if shard.path == path]
            else:
                others = announced(self._first, besides="")
                idle = [shard for shard in shards if others.get(str(shard.path), inf) > 0]
                found = sorted(idle, key=lambda shard: (shard.used(), str(shard.path)))[:1]
            return found[0].path if found and found[0].remove() else None

    def _locked(self, fill: CacheFill) -> AbstractContextManager[int | None]:
        """Hold the lock of the cache; a waiting reader holds it until it has room, which no fetch ahead can take."""
        return self._lock(
            f"make room for {fill.spec.name}",
            timeout=fill.timeout if fill.wait else _SHORT,
            wait=fill.wait,
            heartbeat=fill.heartbeat,
        )

    @contextmanager
    def _lock(
        self, purpose: str, *, timeout: float, wait: bool, heartbeat: Callable[[], None] = lambda: None
    ) -> Iterator[int | None]:
        what = (
            f": another thread or process holds it and hangs; end that process (`fuser` names it), or raise "
            f"cache_limit={self.limit}"
        )
        with parent_of(self._first, _GUARD, create=True) as (parent, leaf):
            stall = StallTimeout(
                timeout, f"{self._first / _GUARD}, to {purpose}", what, holder=lambda: holder(parent, leaf)
            )
            try:
                while (lock := try_lock(parent, leaf)) is None:
                    heartbeat()
                    stall.pause(os.stat(leaf, dir_fd=parent).st_mtime_ns if wait else None)
            except WaitTimeoutError:
                if wait:
                    raise
                yield None
                return
            try:
                os.utime(lock)  # waiting processes see that it changes hands
                yield lock
            finally:
                release(lock)

    def _evict_and_reserve(self, fill: CacheFill, lock: int | None, *, limited: bool) -> bool:
        """Evict, or wait until that is possible, and take the room."""
        stall = StallTimeout(
            fill.timeout,
            f"room for {fill.spec.name} ({fill.size} bytes) in {fill.directory}",
            ": what other threads and processes write takes it up "
            f"(cache_limit={self.limit}); end the process that hangs, or raise `cache_limit`",
            holder=lambda: holder_of(*_statuses(self._members.values(), writing)),
        )
        before: object = None
        writing: list[tuple[int, int, int]] = []
        while True:
            scans = [member.scan() for member in self._members.values()]
            writing = sorted(partial for scan in scans for partial in scan.partials if partial[0])
            excess = self._excess(fill, scans) if limited else 0
            if excess <= 0 and not fill.scarce and fill.reserve():
                return True
            victims = self._victims(fill, scans, anything=fill.wait and not writing)
            if self._evict(victims, excess) and self._reserve(fill, victims, limited=limited):
                return True
            if not fill.wait:
                return False
            if not writing:
                raise disk_full(fill)
            fill.heartbeat()
            if writing != before:
                if lock is not None:
                    os.utime(lock)
                before = writing
            stall.pause(writing)

    def _excess(self, fill: CacheFill, scans: Sequence[Scan]) -> int:
        """Return how many bytes must be evicted before the shard fits below the limit."""
        assert self.limit is not None
        if (least := fill.size + sum(scan.fixed + scan.due for scan in scans)) > self.limit:
            raise CacheFullError(
                f"cache_limit={self.limit} bytes is too low: {fill.spec.name} takes {fill.size} bytes, with index.json "
                f"{least}; it cannot be cached in {fill.directory}; pass cache_limit={least} or more (several shards' "
                "worth, so that fetching ahead finds room)"
            )
        return sum(scan.bytes + scan.due for scan in scans) + fill.size - self.limit

    def _victims(self, fill: CacheFill, scans: Sequence[Scan], *, anything: bool) -> list[CachedShard]:
        """Return the shards that may be evicted, the first to go at the end."""
        shards = [shard for scan in scans for shard in scan.shards]
        if self.next_use is None or not shards:
            steps, used = [inf] * len(shards), [shard.used() for shard in shards]
        else:
            steps = self.next_use([shard.path for shard in shards])
            used = [max(file.used for file in shard.files) for shard in shards]
        others = announced(self._first, besides=self._announcement.name)
        own = {fill.directory / name for name in (fill.spec.name, shard_of(fill.spec.name))}
        ranked = []
        for place, shard in enumerate(shards):
            soonest = min(float(steps[place]), others.get(str(shard.path), inf))
            if shard.path in own:
                soonest = min(soonest, fill.need)  # its compressed file, or the other of its two, is about to be read
            if soonest > fill.need or anything:
                ranked.append((soonest, -used[place], place))
        return [shards[place] for _, _, place in sorted(ranked)]

    def _reserve(self, fill: CacheFill, victims: list[CachedShard], *, limited: bool) -> bool:
        """Take the room below the limit; while the disk has none, evict more of the shards on that disk."""
        owed = fill.size if fill.scarce else 0
        device = _device(fill.directory)
        while owed > 0 or not fill.reserve():
            on_disk = (at for at in reversed(range(len(victims))) if _device(victims[at].directory) == device)
            if (victim := next(on_disk, None)) is None:
                return False
            if not limited and not self._warned:
                self._warned = True
                what = "has no inodes left" if out_of_inodes(fill.directory) else "is full"
                warnings.warn(
                    f"the disk of {fill.directory} {what}: shards that are needed furthest in the future are evicted "
                    "to make room for others; set `cache_limit`, or pass a `local` directory on a larger disk",
                    RuntimeWarning,
                    stacklevel=2,
                )
            owed -= self._remove(victims.pop(victim))
        return True

    def _evict(self, victims: list[CachedShard], excess: int) -> bool:
        """Evict from the end of the list until `excess` bytes are gone; nothing, if all of it would not be enough."""
        if excess > sum(shard.size for shard in victims):
            return False
        while excess > 0 and victims:
            excess -= self._remove(victims.pop())
        return excess <= 0

    def _remove(self, shard: CachedShard) -> int:
        self.unmap(shard.path)
        here().traffic.add("evicted")
        return shard.remove()


def _copied(
    limit: int | None, members: Mapping[Path, tuple[Mapping[str, str | None], frozenset[str], int]]
) -> CacheLimit:
    copy = CacheLimit(limit=limit)
    for directory, (names, fixed, index) in members.items():
        copy.add(directory, names, fixed, index=index)
    return copy


def _statuses(members: Iterable[CacheContents], writing: Iterable[tuple[int, int, int]]) -> list[os.stat_result]:
    """Return the statuses of partials, by their inodes."""
    inodes, found = {inode for _, inode, _ in writing}, []
    for member in members:
        for path in member.directory.rglob(".*.partial"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                found += [status] if status.st_ino in inodes else []
    return found


def _device(directory: Path) -> int:
    try:
        return directory.stat().st_dev
    except FileNotFoundError:
        return -1


def disk_full(fill: CacheFill) -> CacheFullError:
    """Return the error for a shard that a disk has no room for, whatever is evicted."""
    error = CacheFullError(
        f"no room for {fill.spec.name} in {fill.directory}, of which nothing is left to evict: it takes {fill.size} "
        f"bytes, {shortage(fill.directory, fill.size)} (pass a `local` directory on it)"
    )
    error.errno = errno.ENOSPC
    return error
