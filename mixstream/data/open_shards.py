"""Which shards are mapped, and which of them are unmapped to make room for others.

Shape suffixes: B rows, S shards.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mixstream.data.gather import ShardTable
from mixstream.types import Int64, UInt8

_OFTEN = 0.1  # seconds for which a shard's file is not looked at again


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
        capacity: how many stay mapped; below the kernel's limit on mappings per process (65,530 by default).
        unmap_after_read: as in `Domains`; also set when the disk is full.
    """

    def __init__(self, shards: int, capacity: int = 4096, unmap_after_read: bool = False) -> None:
        self.table, self._capacity, self.unmap_after_read = ShardTable(shards), capacity, unmap_after_read
        self._used_S, self._turn = np.zeros(shards, dtype=np.int64), 0
        self._looked_S = np.zeros(shards, dtype=np.float64)

    def get(self, number: int, opener: Callable[[int], UInt8]) -> UInt8:
        """Return the bytes of a shard, opened with `opener` if it is not mapped."""
        if (data := self.table.data.get(number)) is None:
            data = opener(number)
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
        for number in np.unique(missing_B).tolist():
            self.table.put(number, opener(number))
        self._make_room()

    def due(self, number_B: Int64) -> list[int]:
        """Return those of the shards `number_B` whose files were not looked at just now; they count as looked at."""
        now = time.monotonic()
        due_B = self._looked_S[number_B] < now - _OFTEN
        if not due_B.any():
            return []
        number_N = np.unique(number_B[due_B])
        self._looked_S[number_N] = now
        return number_N.tolist()

    def drop(self, number: int) -> None:
        """Remove one shard."""
        self.table.drop(number)

    def close(self) -> None:
        """Remove all shards; each is unmapped once nothing refers to its bytes."""
        self.table = ShardTable(len(self._used_S))

    def _make_room(self) -> None:
        if (excess := len(self.table.data) - self._capacity) <= 0:
            return
        idle = sorted((int(self._used_S[number]), number) for number in list(self.table.data))
        for turn, number in idle[: excess + self._capacity // 8]:
            if turn < self._turn:
                self.table.drop(number)

    def __getstate__(self) -> dict[str, Any]:
        # mappings belong to their process
        return {"shards": len(self._used_S), "capacity": self._capacity, "unmap_after_read": self.unmap_after_read}

    def __setstate__(self, state: dict[str, Any]) -> None:
        OpenShards.__init__(self, **state)
