"""`streaming.base.spanner.Spanner`: which shard a sample lies in, in O(shards) of memory."""

from typing import Any

import numpy as np


class Spanner:
    """Maps the number of a sample to its shard and its number there.

    >>> Spanner(np.array([10, 5]))[12]
    (1, 2)

    Args:
        shard_sizes: samples of each shard, int64 [S].
        span_size: accepted; no table of spans is built.
    """

    def __init__(self, shard_sizes: Any, span_size: int = 1 << 10) -> None:
        self.shard_sizes, self.span_size = np.asarray(shard_sizes, dtype=np.int64), span_size
        self.shard_bounds = np.concatenate([np.zeros(1, np.int64), self.shard_sizes.cumsum()])
        self.num_samples = int(self.shard_bounds[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Return (shard, number in the shard).

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(f"Invalid sample index `{index}`: 0 <= {index} < {self.num_samples}")
        shard = int(np.searchsorted(self.shard_bounds, index, side="right")) - 1
        return shard, int(index - self.shard_bounds[shard])
