"""Which shards a reader needs next in an epoch whose samples are known: `forecast.Forecast` of these plans.

It ends with the epoch: shards of the next one are fetched when that begins.

Shape suffixes: Q steps of an epoch, B samples of a step, N shards.
"""

from collections.abc import Callable

import numpy as np

from mixstream.types import Cursor, Float64, Int64


class EpochForecast:
    """What a reader will need.

    Args:
        coming: cursor -> the shards of the running epoch's rows, int64 [Q, B], -1 where there is no row, and the place
            in it of the next step. The same array as long as the epoch is the same.
    """

    def __init__(self, coming: Callable[[Cursor], tuple[Int64, int]]) -> None:
        self._coming = coming
        self._sorted: tuple[Int64, Int64] | None = None

    def upcoming(self, cursor: Cursor, share_K: Float64 | None, rows: int) -> tuple[Int64, Float64]:
        """Return the shards that are read next, and the steps until each is needed; as `Forecast.upcoming`."""
        del share_K
        shard_QB, at = self._coming(cursor)
        near_QB = shard_QB[at : at + -(-rows // shard_QB.shape[1])]
        number_N, first_N = np.unique(near_QB.ravel(), return_index=True)
        there_N = number_N >= 0
        number_N, first_N = number_N[there_N], first_N[there_N]
        by_need = np.argsort(first_N)
        return number_N[by_need], (first_N[by_need] // shard_QB.shape[1]).astype(np.float64)

    def distance(self, cursor: Cursor, share_K: Float64 | None, numbers: Int64) -> Float64:
        """Return the steps until each of the shards `numbers` is needed, float64 [N]; inf if not in this epoch."""
        del share_K
        shard_QB, at = self._coming(cursor)
        steps = len(shard_QB)
        if self._sorted is None or self._sorted[0] is not shard_QB:
            keys = np.unique(shard_QB * steps + np.arange(steps)[:, None])  # by shard, then by step
            self._sorted = shard_QB, keys
        keys = self._sorted[1]
        found_N = keys[np.minimum(np.searchsorted(keys, numbers * steps + at), len(keys) - 1)]
        steps_N = (found_N - numbers * steps - at).astype(np.float64)
        return np.where((steps_N >= 0) & (steps_N < steps - at), steps_N, np.inf)
