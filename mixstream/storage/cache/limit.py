"""`cache_limit`: room for a shard, taken from the shards that are needed last.

Rules: whoever writes to a cache directory asks first. Room is made before it is taken, both under one lock, and taken
by giving a partial its full size; so the files of all members together never pass the limit, however many processes
fill them. Nothing is evicted that is needed sooner than what comes in its place, by this process or by another that
has announced it; only for a shard that somebody waits for, and when nothing is left that could become free by waiting,
does what is needed at once have to go (whoever has it open or mapped keeps it). So everybody who waits gets on, even
where the limit is hardly one shard. Without a limit, the same makes room on a full disk.

Members are directories that can be filled again. The lock and the announcements lie in the first of them: budgets that
share it keep one limit and know of each other's needs; those that share only others keep each their own.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

from mixstream.errors import CacheFullError, ConfigError, WaitTimeoutError
from mixstream.storage.cache.announcements import Announcement, announced
from mixstream.storage.cache.contents import Contents, Listing, Shard
from mixstream.storage.cache.locks import FULL, PREFIX, Patience, parent_of, release, try_lock

_GUARD = f"{PREFIX}lock"
_SHORT = 0.25  # seconds that a fetch ahead of time waits for its turn


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Somebody's wish for room.

    Args:
        name: of the shard, for errors.
        directory: where its files come to lie.
        size: bytes of all of them.
        take: gives the partials their full size; OSError (ENOSPC) if the disk has no room for them.
        need: steps until the plan needs the shard; 0 if somebody waits.
        wait: whether to wait for room.
        patience: seconds of standstill after which to give up.
        beat: called while waiting, to show others that this process is at it.
        scarce: the disk turned out to be full while the shard was written: so much has to go in any case.
    """

    name: str
    directory: Path
    size: int
    take: Callable[[], None]
    need: float
    wait: bool
    patience: float
    beat: Callable[[], None]
    scarce: bool = False


class Budget:
    """What the cache directories of one dataset may hold together.

    Picklable; a copy has the same members and limit. Safe to use from any thread, and in a forked child.

    Args:
        limit: bytes (`cache_limit`) of shards, packed ones, `index.json`, and what is being written; None for none.

    Attributes:
        next_use: steps until the plan needs each of these raw files (`DatasetFiles.path`); inf for never. Asked under
            the lock of the cache, on any thread. None: who was opened longest ago goes first.
    """

    def __init__(self, *, limit: int | None = None) -> None:
        if limit is not None and limit <= 0:
            raise ConfigError(f"`cache_limit` must be above 0 bytes, got {limit}; pass None for no limit")
        self.limit = limit
        self.next_use: Callable[[Sequence[Path]], Sequence[float]] | None = None
        self._members: dict[Path, Listing] = {}
        self._announcement = Announcement()
        self._warned = False

    def __reduce__(self) -> tuple[object, ...]:
        return _copied, (self.limit, {directory: member.names for directory, member in self._members.items()})

    def add(self, directory: Path, names: Mapping[str, str | None]) -> None:
        """Add a directory that can be filled again: raw shard -> its packed form, or None."""
        before = self._members.get(directory)
        self._members[directory] = Listing(directory, {**(before.names if before else {}), **names})

    def __contains__(self, directory: Path) -> bool:
        return directory in self._members

    def usage(self) -> int:
        """Return the bytes that the members hold now."""
        return sum(member.scan().bytes for member in self._members.values())

    def announce(self, paths: Sequence[Path], steps: Sequence[float]) -> None:
        """Tell other processes which raw files this one needs in how many steps; replaces what was told before.

        To be called by one thread. Without a limit nobody asks, and nothing is written.
        """
        if self.limit is not None and self._members:
            self._announcement.put(self._first, dict(zip(map(str, paths), map(float, steps))))

    def close(self) -> None:
        """Take the announcement back; it also goes with the process."""
        self._announcement.withdraw()

    def claim(self, claim: Claim) -> bool:
        """Make room and take it; return False if that cannot be done at once, and `claim.wait` is not set.

        Raises:
            CacheFullError: the limit, or the disk, is too small for the shard, whatever is evicted.
            WaitTimeoutError: nothing moved, neither the lock nor what others write.
        """
        limited = self.limit is not None and claim.directory in self
        if not limited and not claim.scarce and _taken(claim):
            return True
        if not self._members:
            raise disk_full(claim.name, claim.directory, claim.size)
        with self._turn(claim) as turn:
            return turn is not None and self._settle(claim, turn, limited=limited)

    @property
    def _first(self) -> Path:
        """The first member that may be written, or made: where the lock lies."""
        members = sorted(self._members)
        return next((at for at in members if os.access(at, os.W_OK) or not at.exists()), members[0])

    @contextmanager
    def _turn(self, claim: Claim) -> Iterator[int | None]:
        """Hold the lock of the cache: whoever waits for room keeps it, so that fetches ahead do not take the room."""
        what = (
            f"{self._first / _GUARD}, to make room for {claim.name}: another thread or process holds it and hangs; "
            f"end that process (`fuser` names it), or raise cache_limit={self.limit}"
        )
        patience = Patience(claim.patience if claim.wait else _SHORT, what)
        with parent_of(self._first, _GUARD, create=True) as (parent, leaf):
            try:
                while (lock := try_lock(parent, leaf)) is None:
                    claim.beat()
                    patience.pause(os.stat(leaf, dir_fd=parent).st_mtime_ns if claim.wait else None)
            except WaitTimeoutError:
                if claim.wait:
                    raise
                yield None
                return
            try:
                os.utime(lock)  # others see that it changes hands
                yield lock
            finally:
                release(lock)

    def _settle(self, claim: Claim, turn: int, *, limited: bool) -> bool:
        """Evict, or wait until that is possible, and take the room."""
        patience = Patience(
            claim.patience,
            f"room for {claim.name} ({claim.size} bytes) in {claim.directory}: what other threads and processes write "
            f"takes it up (cache_limit={self.limit}); end the process that hangs, or raise `cache_limit`",
        )
        before: object = None
        while True:
            contents = [member.scan() for member in self._members.values()]
            writing = sorted(partial for found in contents for partial in found.partials if partial[0])
            excess = self._excess(claim, contents) if limited else 0
            if excess <= 0 and not claim.scarce and _taken(claim):
                return True
            victims = self._victims(claim, contents, anything=claim.wait and not writing)
            if _evict(victims, excess) and self._take(claim, victims, limited=limited):
                return True
            if not claim.wait:
                return False
            if not writing:
                raise disk_full(claim.name, claim.directory, claim.size)
            claim.beat()
            if writing != before:
                os.utime(turn)
                before = writing
            patience.pause(writing)

    def _excess(self, claim: Claim, contents: Sequence[Contents]) -> int:
        """Return how many bytes must go before the claim fits below the limit."""
        assert self.limit is not None
        if (least := claim.size + sum(found.fixed for found in contents)) > self.limit:
            raise CacheFullError(
                f"cache_limit={self.limit} bytes is too low: {claim.name} takes {claim.size} bytes, with index.json "
                f"{least}; it cannot be cached in {claim.directory}; pass cache_limit={least} or more (some shards' "
                "worth, so that fetching ahead finds room)"
            )
        return sum(found.bytes for found in contents) + claim.size - self.limit

    def _victims(self, claim: Claim, contents: Sequence[Contents], *, anything: bool) -> list[Shard]:
        """Return the shards that may go, the first to go at the end."""
        shards = [shard for found in contents for shard in found.shards()]
        if self.next_use is None or not shards:
            steps, used = [inf] * len(shards), [max(map(shard.listing.used, shard.files)) for shard in shards]
        else:
            steps = self.next_use([shard.path for shard in shards])
            used = [max(file.used for file in shard.files) for shard in shards]
        others = announced(self._first, besides=self._announcement.name)
        ranked = []
        for place, shard in enumerate(shards):
            soonest = min(float(steps[place]), others.get(str(shard.path), inf))
            if shard.path == claim.directory / claim.name:
                soonest = min(soonest, claim.need)  # its packed form is about to be read
            if soonest > claim.need or anything:
                ranked.append((soonest, -used[place], place))
        return [shards[place] for _, _, place in sorted(ranked)]

    def _take(self, claim: Claim, victims: list[Shard], *, limited: bool) -> bool:
        """Take the room below the limit; while the disk has none, evict more of what lies on it."""
        owed = claim.size if claim.scarce else 0
        device = claim.directory.stat().st_dev
        while owed > 0 or not _taken(claim):
            victim = next((at for at in reversed(range(len(victims))) if _device(victims[at].listing) == device), None)
            if victim is None:
                return False
            if not limited and not self._warned:
                self._warned = True
                warnings.warn(
                    f"the disk of {claim.directory} is full: shards that are needed last are evicted to make room for "
                    "others; set `cache_limit`, or pass a `local` directory on a larger disk",
                    RuntimeWarning,
                    stacklevel=2,
                )
            owed -= victims.pop(victim).remove()
        return True


def _copied(limit: int | None, members: Mapping[Path, Mapping[str, str | None]]) -> Budget:
    budget = Budget(limit=limit)
    for directory, names in members.items():
        budget.add(directory, names)
    return budget


def _evict(victims: list[Shard], excess: int) -> bool:
    """Evict from the end of the list until `excess` bytes are gone; nothing, if all of it would not be enough."""
    if excess > sum(shard.size for shard in victims):
        return False
    while excess > 0 and victims:
        excess -= victims.pop().remove()
    return excess <= 0


def _taken(claim: Claim) -> bool:
    try:
        claim.take()
    except OSError as error:
        if error.errno not in FULL:
            raise
        return False
    return True


def _device(member: Listing) -> int:
    try:
        return member.directory.stat().st_dev
    except FileNotFoundError:
        return -1


def disk_full(name: str, directory: Path, size: int) -> CacheFullError:
    """Return the error for a shard of `size` bytes that a disk has no room for, whatever is evicted."""
    free = os.statvfs(directory)
    made = CacheFullError(
        f"no room for {name} in {directory}: it takes {size} bytes, the disk has {free.f_bavail * free.f_frsize} free, "
        f"and nothing of the cache is left to evict; free {size} bytes there, or pass a `local` directory on a larger "
        "disk"
    )
    made.errno = errno.ENOSPC
    return made
