"""How many documents have the text of another one, in bounded memory: exact as long as the hashes fit, then estimated.

All 64-bit hashes are kept until there are too many. Then only those below half of the range are, then a quarter, … What
is kept is a function of the documents, not of their order. Documents of one text share a hash, so all of them are kept
or none: what the kept ones say, divided by the share of the range, is unbiased (adaptive sampling, Flajolet 1990). The
hash of a text is taken for the text itself: among 10 million texts, two share one in 3 of a million cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...shared.cards import Duplicates

_BITS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashes:
    """The hashes of documents that are below 2**(64 - level).

    Attributes:
        level: 0 keeps all.
        values_N: the different hashes, rising, uint64 [N].
        counts_N: how many documents have each, int64 [N].
    """

    level: int
    values_N: NDArray[np.uint64]
    counts_N: NDArray[np.int64]

    @classmethod
    def of(cls, counts: dict[int, int], level: int) -> Hashes:
        """Return counted hashes in order."""
        values_N = np.fromiter(counts, np.uint64, len(counts))
        order_N = np.argsort(values_N)
        counts_N = np.fromiter(counts.values(), np.int64, len(counts))
        return cls(level=level, values_N=values_N[order_N], counts_N=counts_N[order_N])

    def dump(self) -> bytes:
        """Return one little-endian uint64 a document."""
        return np.repeat(self.values_N, self.counts_N).astype("<u8").tobytes()

    @classmethod
    def load(cls, data: bytes, level: int) -> Hashes:
        """Return what `dump` wrote. Raises ValueError if it did not."""
        values_N, counts_N = np.unique(np.frombuffer(data, "<u8").astype(np.uint64), return_counts=True)
        return cls(level=level, values_N=values_N, counts_N=counts_N.astype(np.int64))

    def at(self, level: int) -> Hashes:
        """Return the hashes that a level keeps."""
        if level <= self.level:
            return self
        kept = int(np.searchsorted(self.values_N, np.uint64(1 << (_BITS - level))))
        return Hashes(level=level, values_N=self.values_N[:kept], counts_N=self.counts_N[:kept])

    def fit(self, most: int) -> Hashes:
        """Return them at the lowest level that keeps no more than `most` different ones."""
        found = self
        while len(found.values_N) > most:
            found = found.at(found.level + 1)
        return found

    def describe(self) -> Duplicates:
        """Return the number of duplicates among all documents, and how sure that is."""
        more_N = self.counts_N - 1
        scale = 1 << self.level
        spread = math.sqrt(scale * (scale - 1) * float(np.square(more_N, dtype=np.float64).sum()))
        return Duplicates(
            copies=int(more_N.sum()) * scale,
            texts=int(np.count_nonzero(more_N)) * scale,
            exact=not self.level,
            share=1 / scale,
            standard_error=round(spread, 1),
        )


class HashCounter:
    """Counts the hashes of the documents of some datasets one by one, at most `most` different ones in all.

    Attributes:
        kept: how many there are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[object, dict[int, int]] = {}
        self._levels: dict[object, int] = {}
        self.kept = 0

    def add(self, dataset: object, value: int) -> None:
        """Count a document of a dataset; the dataset with the most hashes makes room."""
        counts = self._counts.setdefault(dataset, {})
        if value in counts:
            counts[value] += 1
        elif not value >> (_BITS - self._levels.setdefault(dataset, 0)):
            counts[value] = 1
            self.kept += 1
            while self.kept > self._most:
                self._halve(max(self._counts, key=lambda each: len(self._counts[each])))

    def _halve(self, dataset: object) -> None:
        level = self._levels[dataset] = self._levels[dataset] + 1
        held = self._counts[dataset]
        kept = self._counts[dataset] = {value: n for value, n in held.items() if not value >> (_BITS - level)}
        self.kept -= len(held) - len(kept)

    def finish(self) -> Iterator[tuple[object, Hashes]]:
        """Yield the hashes of each dataset."""
        for dataset, counts in self._counts.items():
            yield dataset, Hashes.of(counts, self._levels[dataset])


@dataclass(kw_only=True, slots=True)
class HashMerger:
    """Joins the hashes of parts; holds at most twice `most` of them, and one part's."""

    most: int
    _level: int = 0
    _parts: list[Hashes] = field(default_factory=list)

    def add(self, hashes: Hashes) -> None:
        """Add those of a part."""
        self._level = max(self._level, hashes.level)
        self._parts.append(hashes)
        if sum(len(part.values_N) for part in self._parts) > 2 * self.most:
            self._parts = [self.finish()]
            self._level = self._parts[0].level

    def finish(self) -> Hashes:
        """Return the hashes of all parts."""
        parts = [part.at(self._level) for part in self._parts]
        if not parts:
            return Hashes.of({}, 0)
        values_N, place_N = np.unique(np.concatenate([part.values_N for part in parts]), return_inverse=True)
        counts_N = np.zeros(len(values_N), np.int64)
        np.add.at(counts_N, place_N, np.concatenate([part.counts_N for part in parts]))
        return Hashes(level=self._level, values_N=values_N, counts_N=counts_N).fit(self.most)
