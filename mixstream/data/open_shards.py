"""Which shards are mapped, and which of them are unmapped to make room for others.

Shape suffixes: B rows, S shards.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

import numpy as np

from mixstream.data.gather import ShardTable
from mixstream.metering import OPEN, here
from mixstream.plan.distinct import distinct
from mixstream.storage import ProcessLocal
from mixstream.types import Int64, UInt8

_OFTEN = 0.1  # seconds for which a shard's file is not looked at again
_OF_ONE, _OF_ALL = 1 << 14, 20_000  # shards that stay mapped, of one reader, and about, of all of a process
_FEW = 1 << 10  # shards that any reader may have mapped, whatever the others have


class OpenShards:
    """The shards that are mapped, over all domains. The least recently used ones are unmapped first.

    Used by one thread, except for `get`.

    >>> opened = OpenShards(10, capacity=2)
    >>> for number in (7, 3, 7, 5):
    ...     data = opened.get(number, lambda number: np.full(4, number, dtype=np.uint8))
    >>> sorted(opened.table.data), data.tolist()
    ([5, 7], [5, 5, 5, 5])

    Args:
        shards: how many there are.
        capacity: how many stay mapped; fewer while the readers of this process have too many together: the kernel's
            limit on its mappings is 65,530 by default, and a shard of two files takes three.
        unmap_after_read: as in `Domains`; also set when the disk is full.

    Attributes:
        soon: the shards that stay mapped even so, since the next steps read them again.
    """

    def __init__(self, shards: int, capacity: int = _OF_ONE, unmap_after_read: bool = False) -> None:
        self.table, self._capacity, self.unmap_after_read = ShardTable(shards), capacity, unmap_after_read
        self.soon: frozenset[int] = frozenset()
        self._used_S, self._turn = np.zeros(shards, dtype=np.int64), 0
        self._looked_S = np.zeros(shards, dtype=np.float64)

    def get(self, number: int, opener: Callable[[int], UInt8]) -> UInt8:
        """Return the bytes of a shard, opened with `opener` if it is not mapped."""
        if (data := self.table.data.get(number)) is None:
            data = _opened(number, opener)
            self._turn += 1
            self.table.put(number, data)
            self._used_S[number] = self._turn
            self._make_room()
        self._used_S[number] = self._turn
        return data

    def need(self, number_B: Int64, opener: Callable[[int], UInt8]) -> None:
        """Map all of the shards `number_B`; they stay in the table at least until the next call."""
        self._turn += 1
        self._used_S[number_B] = self._turn
        missing_B = number_B[self.table.size_S[number_B] == 0]
        for number in distinct(missing_B).tolist():
            self.table.put(number, _opened(number, opener))
        self._make_room()

    def all_open(self, number_B: Int64) -> bool:
        """Return whether all of the shards `number_B` are mapped; then they stay so at least until the next call."""
        if not self.table.size_S[number_B].all():
            return False
        self._turn += 1
        self._used_S[number_B] = self._turn
        return True

    def due(self, number_B: Int64) -> list[int]:
        """Return those of the shards `number_B` whose files were not looked at just now; they count as looked at."""
        now = time.monotonic()
        due_B = self._looked_S[number_B] < now - _OFTEN
        if not due_B.any():
            return []
        number_N = distinct(number_B[due_B])
        self._looked_S[number_N] = now
        return number_N.tolist()

    def keep(self, numbers: Iterable[int]) -> None:
        """Let these shards stay mapped after they are read, and unmap others that are mapped.

        >>> opened = OpenShards(10, unmap_after_read=True)
        >>> opened.keep([3])
        >>> opened.need(np.array([3, 7]), lambda number: np.zeros(4, dtype=np.uint8))
        >>> opened.release([3, 7])
        >>> list(opened.table.data)
        [3]
        """
        self.soon = frozenset(numbers)
        self.release(list(self.table.data))

    def release(self, numbers: Iterable[int]) -> None:
        """Note that these shards were read; if mappings take room that others need, unmap those that may go."""
        if self.unmap_after_read:
            for number in numbers:
                if number not in self.soon:
                    self.table.drop(number)

    def look_again(self) -> None:
        """Let the files of all shards be due."""
        self._looked_S[:] = 0.0

    def portions(self, shard_B: Int64, present: Callable[[int], bool]) -> list[Int64]:
        """Return the rows that are read together: all of them, or one shard's if shards are unmapped after reading.

        Shards that are mapped come first and together, then those on local disk.

        >>> opened = OpenShards(10, unmap_after_read=True)
        >>> opened.need(np.array([5]), lambda number: np.zeros(4, dtype=np.uint8))
        >>> [here_B.tolist() for here_B in opened.portions(np.array([3, 7, 5, 3]), present=lambda shard: shard == 7)]
        [[2], [1], [0, 3]]
        """
        mapped_B = self.table.size_S[shard_B] > 0
        if not self.unmap_after_read or mapped_B.all():
            return [np.arange(len(shard_B), dtype=np.int64)]
        others_B = np.flatnonzero(~mapped_B)
        by_shard = others_B[np.argsort(shard_B[others_B], kind="stable")]
        portions = np.split(by_shard, np.flatnonzero(np.diff(shard_B[by_shard])) + 1)
        portions.sort(key=lambda here_B: not present(int(shard_B[here_B[0]])))
        return [np.flatnonzero(mapped_B), *portions] if mapped_B.any() else portions

    def drop(self, number: int) -> None:
        """Remove one shard."""
        self.table.drop(number)

    def close(self) -> None:
        """Remove all shards; each is unmapped once nothing refers to its bytes."""
        self.table = ShardTable(len(self._used_S))

    def _make_room(self) -> None:
        mapped, capacity = len(self.table.data), self._capacity
        if mapped > min(_FEW, capacity):
            capacity = min(capacity, _readers.value.room_of(self))
        if (excess := mapped - capacity) <= 0:
            return
        number_N = np.fromiter(list(self.table.data), dtype=np.int64)
        idle_N = number_N[np.lexsort((number_N, self._used_S[number_N]))][: excess + capacity // 8]
        for number in idle_N[self._used_S[idle_N] < self._turn].tolist():
            self.table.drop(number)

    def __getstate__(self) -> dict[str, Any]:
        # mappings belong to their process
        return {"shards": len(self._used_S), "capacity": self._capacity, "unmap_after_read": self.unmap_after_read}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OpenShards.__init__(self, **state)


class _Readers:
    """The readers of this process, which share the mappings that it may have. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock, self._known = threading.Lock(), WeakSet[OpenShards]()

    def room_of(self, reader: OpenShards) -> int:
        """Return how many shards may stay mapped for a reader: what the others leave, at least an equal share."""
        with self._lock:
            self._known.add(reader)
            counts = [len(other.table.data) for other in self._known if other is not reader]
        return max(_OF_ALL - sum(counts), _OF_ALL // (1 + sum(map(bool, counts))))


_readers = ProcessLocal(_Readers)


def _opened(number: int, opener: Callable[[int], UInt8]) -> UInt8:
    """Return what `opener` returns; its time is that of opening shards, and not of what goes on around it."""
    clock = here().clock
    stage = clock.enter(OPEN)
    try:
        return opener(number)
    finally:
        clock.enter(stage)
