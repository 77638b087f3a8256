"""Which original a run reads, and whether an object was written after the run began to read it.

Rules. A dataset's index is written last, so an object that is no newer than the index is of the same version. An object
that is newer counts as written since the run began if its time is not surely before that, on the store's clock. Times
of objects are compared with times of the store only; where the store does not tell its clock, this machine's is used.
Clocks are compared through a network and in whole seconds, and what is in doubt counts as written since: a run that is
stopped for nothing can be started again, rows that were mixed cannot be told apart again.
Where the index was made from the files themselves (`made_index`), it has the version of each: a file of any other
version was put in its place since the run began, whatever its time.
Times of files may be older than the files' arrival (`cp -p`, `rsync -a`, a directory or link put in the place of
another, on this machine or behind a web server). So where objects are files, the index has to be the same one still,
after each shard that was read.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from math import floor, inf
from typing import Protocol, runtime_checkable

from mixstream.errors import StoreChangedError
from mixstream.records import dataclass
from mixstream.storage.spec import INDEX
from mixstream.storage.store import ObjectInfo
from mixstream.storage.url import OBJECT_SCHEMES, scheme_of

_SKEW = 900.0  # seconds by which clocks may disagree: S3 refuses requests beyond that
_GLANCES = 4  # at a store's clock, which tells whole seconds: spread over one, they show where a second begins
_SETTLED = 0.4  # seconds after a second began in which a run may begin; more than lies between two glances
_HOT = 5.0  # seconds after its last write, in which a dataset may still be in the course of being written
_LOOKS = 8  # at the index before it counts as replaced: the servers behind one URL may tell different times
_AWAY = 60.0  # seconds for which a store is not asked again after it could not be reached
_WRITE_TIMES = OBJECT_SCHEMES - {"http", "https"}  # in these, the time of an object is always that of its writing


@runtime_checkable
class HasClock(Protocol):
    """A store that tells the time."""

    def clock(self) -> float | None:
        """Return the store's time in seconds since 1970; None if it cannot be found out."""
        ...


@dataclass(kw_only=True, eq=False)
class Original:
    """What a run knows of the dataset that it reads. Picklable; a copy in another process judges alike.

    An index of second 100, read in second 200: an object of second 150 is an old one that was copied slowly, one of
    second 210 was written while the run reads.

    >>> index = ObjectInfo(size=2, version='"a"', modified=100.0)
    >>> original = Original(place="s3://bucket/web", index=index, began=200.0)
    >>> [original.is_newer(ObjectInfo(size=9, version='"b"', modified=when), None) for when in (90.0, 150.0, 210.0)]
    [False, False, True]

    Args:
        place: of the dataset, without credentials, for errors.
        index: what the store said of the index; None if it was not asked.
        began: since when objects count as written after the run began, in seconds since 1970 by this machine's clock.
        started: when the run began to read, to the instant; `began` may be up to a second before.
        name: of the index.
        timeless: whether the store gives the present time as that of every object.
        repaired: objects that the user was told to restore, and that may be newer.
        files: what the store said of each file that the index was made from, by name; empty if the index is a file.
        reached: whether the store was reached then; otherwise the index is the copy that an earlier run kept, and
            `index` and `began` are that run's.
    """

    place: str
    index: ObjectInfo | None
    began: float
    reached: bool = True
    started: float = field(default_factory=time.time)
    name: str = INDEX
    timeless: bool = False
    repaired: set[str] = field(default_factory=set)
    files: dict[str, ObjectInfo] = field(default_factory=dict)
    _behind: float | None = field(default=None, init=False)
    _away: float = field(default=0.0, init=False)
    _same: float = field(default=-inf, init=False)
    _aliases: set[str] = field(default_factory=set, init=False)  # of the index, at other servers of the same URL
    _warned: set[str] = field(default_factory=set, init=False)

    def is_newer(self, info: ObjectInfo, store: object) -> bool:
        """Return whether an object was written after the run began to read; False where the store has no times."""
        known = self.index.modified if self.index is not None else None
        if info.modified is None or (known is not None and info.modified <= known):
            return False
        if info.modified < self.began - _SKEW:
            return False
        # A kept index was read by an earlier run, of which only `began` is known.
        since = max(self.began, min(self.started, self.began + 1.0)) if self.reached else self.began
        modified = info.modified

        def is_since(ahead: float) -> bool:
            bound = since + ahead
            return modified >= (floor(bound) if modified.is_integer() else bound)

        if self._behind is None:
            self._behind = _clock_behind(
                store.clock if isinstance(store, HasClock) else None, lambda ahead: not is_since(ahead)
            )
        return is_since(self._behind)

    def rewritten(self, name: str, info: ObjectInfo) -> StoreChangedError:
        """Return the error for an object that was written after the run began."""
        when = "" if info.modified is None else f" at {_shown(info.modified)}"
        return StoreChangedError(
            f"{self.place}/{name} was written again{when}, after this run began to read the dataset "
            f"({_shown(self.began)}): its rows may be others, and old and new rows would be mixed; restart to read the "
            "dataset as it is now, and write new versions of a dataset to a place of their own"
        )

    def was_replaced(self, look: Callable[[], ObjectInfo | None], *, within: float = 0.0) -> bool:
        """Return whether the index is another one than when the run began; False where times do not go back.

        A run goes on without its index. If it was removed to make place for another version, its successor will show.

        Args:
            look: returns what the store says of the index now; None if it is not there.
            within: seconds for which an answer counts.

        Raises:
            StoreError: as `look` does.
        """
        if self.index is None or self.files or scheme_of(self.place) in _WRITE_TIMES:
            return False
        now = time.monotonic()
        if now - self._same <= within:
            return False
        known, others = {self.index.identity} | self._aliases, set[str]()
        for _ in range(_LOOKS):
            if (found := look()) is None or found.identity in known:
                self._aliases |= others
                self._same = now
                return False
            others.add(found.identity)
        return True

    def known(self, name: str) -> ObjectInfo | None:
        """Return the version of a file that the index was made from, and that is to be read; None if any may be read.

        Any may be read where the index is a file, and after the user was told to restore the file.
        """
        return self.files.get(name) if name not in self.repaired else None

    def is_other(self, name: str, info: ObjectInfo, look: Callable[[], ObjectInfo | None]) -> bool:
        """Return whether what was read of a file is of another version than the index was made from.

        The servers behind one URL may tell different versions of one file: it is looked at several times.

        Args:
            name: of the file.
            info: what the store said of it when it was read.
            look: returns what the store says of it now; None if it is not there, or cannot be asked.
        """
        if (known := self.known(name)) is None or self.told(info).identity == known.identity:
            return False
        alias = f"{name} {info.identity}"
        if alias in self._aliases:
            return False
        if info.size != known.size or scheme_of(self.place) in _WRITE_TIMES:
            return True
        for _ in range(_LOOKS):
            if (found := look()) is not None and self.told(found).identity == known.identity:
                self._aliases.add(alias)
                return False
        return True

    def changed(self, name: str) -> StoreChangedError:
        """Return the error for a file that is of another version than the index was made from."""
        return StoreChangedError(
            f"{self.place}/{name} is not the file that it was when this run began to read the dataset "
            f"({_shown(self.began)}): it was written again, or another was put in its place, and old and new rows "
            "would be mixed; restart to read the dataset as it is now, and write new versions of a dataset to a place "
            "of their own"
        )

    def told(self, info: ObjectInfo) -> ObjectInfo:
        """Return what of a description can be believed: no times of a server that calls every object new."""
        return without_time(info) if self.timeless else info

    def replaced(self, name: str) -> StoreChangedError:
        """Return the error for an object that was read after the index was replaced."""
        return StoreChangedError(
            f"{self.place}/{self.name} is not the file that it was when this run began to read the dataset "
            f"({_shown(self.began)}): another version was put in its place, of which {name} may be, and old and new "
            "rows would be mixed; restart to read the dataset as it is now, and write new versions of a dataset to a "
            "place of their own"
        )

    def is_since(self, when: float) -> bool:
        """Return whether the dataset was surely not written since `when`, by the time of its index."""
        return not self.reached or self.index is None or (self.index.modified or 0.0) < when

    @property
    def can_ask(self) -> bool:
        """Whether it is worth asking the store about an object."""
        return self.reached and time.monotonic() >= self._away

    def warn_away(self, error: Exception) -> None:
        """Warn that the store cannot be asked, and do not ask it for a while."""
        self._away = time.monotonic() + _AWAY
        self._warn(
            "away",
            f"{self.place} could not be asked whether it still has the shards that are in the cache ({error}); they "
            "are used as they are",
        )

    def warn_replaced(self, path: object) -> None:
        """Warn that files of the cache are of an earlier version of the dataset."""
        self._warn(
            "replaced",
            f"{self.place} was rewritten since {path} was fetched: this file of the cache, and others that differ from "
            "their originals, are fetched again",
        )

    def warn_unknown(self, path: object) -> None:
        """Warn that nothing shows of which version of the dataset files of the cache are."""
        self._warn(
            "unknown",
            f"nothing shows that {path} is what {self.place} has now (an earlier version of mixstream or another "
            "program put it there): this file of the cache, and others like it, are fetched again",
        )

    def warn_if_untold(self, proof: object, info: ObjectInfo) -> None:
        """Warn that versions of the dataset cannot be told apart: by a hash, or by what the store says of an object."""
        if proof is not None or info.version is not None or info.modified is not None:
            return
        hashes = "" if self.files else "write it with hashes=['xxh64'], "
        self._warn(
            "untold",
            f"{self.place} gives neither an ETag nor a time for its objects, and its index has no hashes: if the "
            f"dataset is written again, old and new rows cannot be told apart; {hashes}write new versions to a place "
            "of their own, or let the server send ETag or Last-Modified",
        )

    def _warn(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def begins(index: ObjectInfo) -> float:
    """Return the time at which a run may begin to read the dataset of an index: now, or a second ago at most.

    Most stores tell times in whole seconds. If the index was written a moment ago, this waits for the next second, so
    that whatever is written from then on has a later time, and a little longer, so that clocks that are compared later
    show that all the rest was written before.
    """
    now = time.time()
    if not _whole_seconds(index):
        return now
    if -1.0 < now - (index.modified or 0.0) < _HOT:
        time.sleep(floor(now) + 1.0 + _SETTLED - now)
        now = max(time.time(), floor(now) + 1.0)
    return float(floor(now))


def is_timeless(first: ObjectInfo, look: Callable[[], ObjectInfo]) -> bool:
    """Return whether a store tells the present time, whichever object it is asked for.

    Args:
        first: what it said of an object.
        look: returns what it says of the object now.
    """
    for _ in range(2):
        if not _whole_seconds(first):
            return False
        now = time.time()
        time.sleep(floor(now) + 1.05 - now)
        first, before = look(), first.modified or 0.0
        if not 0.0 < (first.modified or 0.0) - before < _HOT:
            return False
    return True


def is_timeless_now(first: ObjectInfo, look: Callable[[], ObjectInfo]) -> bool:
    """Return whether a store tells the present time: as `is_timeless`, which takes a second, where that may be."""
    now = look()
    moved = now.modified != first.modified or abs(time.time() - (now.modified or 0.0)) < _HOT
    return moved and is_timeless(now, look)


def without_time(info: ObjectInfo) -> ObjectInfo:
    """Return a description without what is made of the object's time."""
    version = None if info.version is not None and info.version.startswith("date ") else info.version
    return ObjectInfo(size=info.size, version=version)


def may_be_rewritten_unseen(info: ObjectInfo) -> bool:
    """Return whether an object, read now, could be written again and keep its identity."""
    return info.vague and _whole_seconds(info) and (info.modified or 0.0) >= floor(time.time())


def _whole_seconds(info: ObjectInfo) -> bool:
    return info.modified is not None and info.modified.is_integer()


def _clock_behind(clock: Callable[[], float | None] | None, enough: Callable[[float], bool]) -> float:
    """Return by how many seconds the store's clock is ahead of this machine's at least; 0 if it is not known.

    The store stamped its answer at any instant of the request, and may have cut off a fraction of a second: its time
    was that of the stamp or later, and this machine's was that of the answer's arrival or earlier.

    Args:
        clock: asks the store for its time.
        enough: whether a bound shows what is to be known; otherwise the clock is looked at again, for a better one.
    """
    best = -inf
    for glance in range(_GLANCES):
        if glance:
            time.sleep(1.0 / _GLANCES)
        if (told := clock() if clock is not None else None) is None:
            break
        best = max(best, told - time.time())
        if enough(best):
            break
    return best if best > -inf else 0.0


def _shown(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
