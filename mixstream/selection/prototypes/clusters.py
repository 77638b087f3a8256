"""The rows of a domain by cluster, and blocks of their vectors from an array that is mapped from a file.

Rules. Vectors are read in the order of the file, a bounded number at a time; the whole array is never in memory. A
cluster is read as a whole. Memory: 16 bytes a row for the order, and the vectors of one block.

Shape suffixes: N rows, E chosen rows, K clusters, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The rows of each cluster, hardest first: by distance, largest first, then by ordinal.

    >>> cluster_N = np.array([1, 0, 1, 1])
    >>> clusters = Clusters.of(cluster_N, np.array([0.2, 0.1, 0.3, 0.2]), count=2)
    >>> clusters.members(0).tolist(), clusters.members(1).tolist()
    ([1], [2, 0, 3])

    Attributes:
        row_N: int64 [N], the rows, cluster after cluster.
        begin_K: int64 [K + 1], where each cluster begins in `row_N`; the last entry is the end.
    """

    row_N: Int64
    begin_K: Int64

    @classmethod
    def of(
        cls, cluster_N: NDArray[Any], distance_N: NDArray[Any], *, count: int, rows_E: Int64 | None = None
    ) -> Clusters:
        """Order rows by their cluster.

        Args:
            cluster_N: [N], the cluster of each row, from 0 to count - 1.
            distance_N: [N], the distance of each row to its prototype.
            count: the number of clusters.
            rows_E: int64 [E], the rows to look at, ascending; default: all.

        Raises:
            ConfigError: a cluster outside the range.
        """
        cluster_E = np.asarray(cluster_N if rows_E is None else cluster_N[rows_E])
        if len(cluster_E) and not 0 <= cluster_E.min() <= cluster_E.max() < count:
            raise ConfigError(
                f"clusters from {cluster_E.min()} to {cluster_E.max()}, but there are {count:,} prototypes: the scores "
                "were not made with them"
            )
        distance_E = np.asarray(distance_N if rows_E is None else distance_N[rows_E])
        order_E = np.lexsort((-distance_E, cluster_E))
        begin_K = np.concatenate([[0], np.cumsum(np.bincount(cluster_E, minlength=count))])
        return cls(row_N=order_E if rows_E is None else rows_E[order_E], begin_K=begin_K)

    def members(self, cluster: int) -> Int64:
        """Return the rows of one cluster, hardest first, int64."""
        return self.row_N[self.begin_K[cluster] : self.begin_K[cluster + 1]]

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """Return consecutive ranges [first, end) of clusters, of at most `rows` rows, or of one larger cluster.

        >>> sizes = Clusters(row_N=np.arange(10), begin_K=np.array([0, 2, 5, 9, 10]))
        >>> sizes.ranges(5)
        [(0, 2), (2, 4)]
        """
        found, first, count = [], 0, len(self.begin_K) - 1
        while first < count:
            end = int(np.searchsorted(self.begin_K, self.begin_K[first] + rows, side="right")) - 1
            found.append((first, max(end, first + 1)))
            first = found[-1][1]
        return found

    def part(self, first: int, end: int) -> Clusters:
        """Return the clusters [first, end) alone, numbered from 0.

        >>> Clusters(row_N=np.array([5, 7, 6]), begin_K=np.array([0, 1, 3])).part(1, 2).members(0).tolist()
        [7, 6]
        """
        begin, until = self.begin_K[first], self.begin_K[end]
        return Clusters(row_N=self.row_N[begin:until].copy(), begin_K=self.begin_K[first : end + 1] - begin)

    def vectors(self, vectors_ND: NDArray[Any], first: int, end: int) -> Iterator[tuple[Int64, NDArray[Any]]]:
        """Yield (rows, their vectors) of each non-empty cluster in [first, end); all are in memory at once."""
        here_E = self.row_N[self.begin_K[first] : self.begin_K[end]]
        ascending = np.argsort(here_E)
        place = np.empty_like(ascending)
        place[ascending] = np.arange(len(here_E))
        read_ED = np.asarray(vectors_ND[here_E[ascending]])  # in the order of the file
        for cluster in range(first, end):
            at, until = self.begin_K[cluster] - self.begin_K[first], self.begin_K[cluster + 1] - self.begin_K[first]
            if at < until:
                yield here_E[at:until], read_ED[place[at:until]]
